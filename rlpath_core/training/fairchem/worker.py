"""The process in FairChem's environment that trains one run: see ``process``.

It reports lines of metrics.jsonl and its progress to the parent; FairChem's own log goes to standard output and error.
On SIGTERM, and when the parent is gone, it writes a checkpoint after the current update step and ends.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from rlpath_core.config import check, read_mapping
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, write_json
from rlpath_core.locks import exclusive
from rlpath_core.process.worker import Call, serve
from rlpath_core.training.fairchem.config import (
    BEST,
    CHECKPOINT,
    OURS,
    SPLIT_KEYS,
    complete,
    first_difference,
    needs_scales,
)
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.inputs import Inputs
from rlpath_core.training.options import IndexSpec, RunSpec
from rlpath_core.training.result import CONVERTED

CONFIG, SCALES = "fairchem.yml", "scale_factors.json"
START = "start.pt"
LOOKED_AT = 10_000
WAIT_FOR_ANOTHER = 120.0
"""Seconds; a process whose parent was killed ends after its current update step."""

_stop = threading.Event()


@dataclass(frozen=True)
class InitialModel:
    """The model that a process of a run starts with.

    Parameters
    ----------
    checkpoint
        For FairChem's ``--checkpoint``. None: no model, or that of the run's own checkpoint.
    network
        The ``model`` section of the model's configuration.
    parent
        Digest of the bundle that is fine-tuned.
    manifest
        That bundle, if this is the beginning of a fine-tuning.
    targets
        See ``config.complete``.
    """

    checkpoint: Path | None = None
    network: dict[str, Any] | None = None
    parent: str | None = None
    began: str | None = None
    """The task that a run began with which is resumed."""
    targets: Literal["fit", "fitted", "model"] = "fit"
    manifest: Path | None = None


def _initial_model(spec: RunSpec[FairChemTraining]) -> InitialModel:
    from rlpath_core.backends.fairchem.bundle import export_checkpoint, write_checkpoint
    from rlpath_core.backends.manifest import manifest_path
    from rlpath_core.backends.tensors import load_tensors
    from rlpath_core.files import sha256_of

    own = spec.run_dir / "checkpoints" / CHECKPOINT
    path = own
    if spec.task == "resume" and not own.is_file():
        given = Path(spec.starting_model)
        path = given if given.is_file() else given / "checkpoints" / CHECKPOINT
    if path.is_file():
        state = load_tensors(path)
        if not isinstance(state, dict) or OURS not in state:
            raise InputError("not a checkpoint of a run of ours: fine-tune from it instead (task: finetune)", path)
        network = _network_of(state, path)
        if path != own:
            for name in (BEST, path.name):  # its own last: where that is, the other is too
                if path.with_name(name).is_file():
                    with atomic_write(own.with_name(BEST if name == BEST else CHECKPOINT), "wb") as stream:
                        stream.write(path.with_name(name).read_bytes())
        began = state[OURS]
        tuned = began["task"] == "finetune"
        return InitialModel(None, network, began["parent"], began["task"], "model" if tuned else "fitted")
    if spec.task == "train":
        return InitialModel()
    given = Path(spec.starting_model)
    if given.suffix == ".pt":
        given, _ = export_checkpoint(given, spec.run_dir / CONVERTED, backend=spec.backend)
    manifest = manifest_path(given)
    start = own.with_name(START)
    start.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(manifest, start, weights=spec.model.weights)
    network = _network_of(load_tensors(start), start)
    return InitialModel(start, network, sha256_of(manifest), targets="model", manifest=manifest)


def _network_of(state: dict[str, Any], path: Path) -> dict[str, Any]:
    network = state.get("config", {}).get("model")
    if not isinstance(network, dict):
        raise InputError("says nothing of its network", path, "config.model")
    return network


@dataclass(frozen=True)
class Command:
    """FairChem's own command line, and what a trainer is to know of where its run began."""

    words: list[str]
    start: InitialModel
    transforms: str
    """What the configuration says of normalisers and references."""


def prepare(spec: RunSpec[FairChemTraining], device: str, report: Callable[..., None]) -> Command:
    """Write ``fairchem.yml``, and compare the labels with the model that is fine-tuned. Raises InputError."""
    from rlpath_core.training.fairchem.first_look import look_at_labels

    start = _initial_model(spec)
    config, flags = complete(spec, start.network, start.targets)
    written = spec.run_dir / CONFIG
    taken_up = spec.task != "resume" and (spec.run_dir / "checkpoints" / CHECKPOINT).is_file() and written.is_file()
    if taken_up and (key := first_difference(read_mapping(written), config)):
        raise InputError(
            "has changed since the run began: put it back, or choose another run_dir, or task: resume",
            spec.train.config_yml,
            key,
        )
    with atomic_write(written) as stream:
        yaml.safe_dump(config, stream, sort_keys=False)
    words = ["--mode", "train", "--config-yml", str(spec.run_dir / CONFIG), "--run-dir", str(spec.run_dir)]
    words += ["--identifier", spec.train.identifier or "", "--seed", str(spec.train.seed), "--timestamp-id", ""]
    if device == "cpu":
        words.append("--cpu")
    if start.checkpoint is not None:
        assert start.manifest is not None
        look_at_labels(spec, start.manifest, start.checkpoint, device, report)
        words += ["--checkpoint", str(start.checkpoint)]
    train = {key: value for key, value in config["dataset"]["train"].items() if key in SPLIT_KEYS}
    return Command(words + flags, start, json.dumps(_without_marks(train), sort_keys=True))


def _without_marks(value: Any) -> Any:
    """Without FairChem's mark of what was fitted already."""
    if not isinstance(value, dict):
        return value
    return {key: _without_marks(one) for key, one in value.items() if key != "fitted"}


def fit_scales(config: dict[str, Any], path: Path) -> None:
    """GemNet-OC's scale factors (doi:10.48550/arXiv.2204.02782) by FairChem's own fit on the training set, as JSON."""
    from fairchem.core.modules.scaling.fit import compute_scaling_factors

    from rlpath_core.backends.tensors import load_tensors

    temporary = path.with_name(f".{path.stem}.pt")
    temporary.unlink(missing_ok=True)
    config = copy.deepcopy(config) | {"checkpoint": str(temporary), "is_debug": True}
    compute_scaling_factors(config)
    write_json(path, {name: float(value) for name, value in load_tensors(temporary).items()})
    temporary.unlink()


def run(spec: RunSpec[FairChemTraining], report: Callable[..., None]) -> dict[str, Any]:
    """Configure, fit scale factors, train, and measure: ``metrics`` of the best weights, or ``stopped``."""
    from rlpath_core.backends.device import resolve_device
    from rlpath_core.backends.fairchem.shims import provide

    provide()
    device = resolve_device(spec.device)
    check_data(spec)
    command = prepare(spec, device, report)
    from fairchem.core._cli import Runner
    from fairchem.core.common.flags import flags
    from fairchem.core.common.utils import build_config, setup_imports, setup_logging

    import rlpath_core.training.fairchem.dataset  # noqa: F401  (registered by being imported)
    from rlpath_core.training.fairchem import trainer

    setup_logging()
    setup_imports()
    config = build_config(*flags.get_parser().parse_known_args(command.words))
    _one_process(device)
    scales = spec.run_dir / SCALES
    if needs_scales(config["model"]) and spec.task == "train":
        if not scales.is_file():
            report(event="scales")
            fit_scales(config, scales)
        config["model"].get("backbone", config["model"])["scale_file"] = str(scales)
    job = trainer.Job(
        spec.run_dir,
        spec.backend,
        spec.task,
        command.start.parent,
        report,
        spec.train.max_seconds,
        began=command.start.began or spec.task,
        inputs=Inputs.of(spec),
        transforms=command.transforms,
        stop=_stop,
    )
    trainer.install(job)
    try:
        Runner()(config)
    except trainer.Stopped:
        return {"stopped": True}
    return {"metrics": measure(spec)}


def check_data(spec: RunSpec[FairChemTraining]) -> None:
    """InputError where two atoms of a structure lie in one place, in the first ``LOOKED_AT`` entries of each set: a set
    of millions is looked at while it is read, by what its predictions are."""
    from rlpath_core.training.dataset import Origin, choose_indices, open_split
    from rlpath_core.training.distances import check_structures

    for name, path, sampling in (
        ("train", spec.data.train, spec.data.train_indices),
        ("replay", spec.data.replay, IndexSpec()),
        ("val", spec.data.val, spec.data.val_indices),
    ):
        if path is not None:
            data = open_split(path, spec.data)
            chosen = choose_indices(len(data), spec.data, sampling, name == "train")[:LOOKED_AT]
            check_structures((data[i].structure for i in chosen), Origin(f"data.{name}", path, chosen))


def measure(spec: RunSpec[FairChemTraining]) -> dict[str, float]:
    """Errors of the artifacts on ``data.val``, by the same measure for every backend."""
    from rlpath_core.backends import load_model
    from rlpath_core.evaluation import evaluate
    from rlpath_core.training.dataset import read_split

    if spec.data.val is None:
        return {}
    model = load_model(spec.run_dir / "artifacts", device=spec.device)
    return evaluate(model, read_split(spec.data.val, spec.data, spec.data.val_indices, False)[0], spec.eval.batch_size)


def _one_process(device: str) -> None:
    """FairChem joins a process group of one; port 0 is one that the system finds free as it is taken."""
    import torch

    rank = device.partition(":")[2] or "0"  # FairChem takes the GPU of its local rank
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", LOCAL_RANK=rank)
    if device == "cpu":  # sums in a fixed order, where threads would otherwise add in whatever order they come
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Said(logging.Handler):
    """What is said in this process, once each, for the log of the command that started it."""

    def __init__(self, call: Call) -> None:
        super().__init__(logging.INFO)
        self.call, self.process = call, os.getpid()
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if os.getpid() == self.process and text not in self.said:  # and not in a fork that loads data
            self.said.add(text)
            self.call.report({"event": "said", "level": record.levelno, "text": text})


def train(call: Call) -> dict[str, Any]:
    """`run` the ``spec``, alone in its run_dir."""
    spec = check(RunSpec, call.header["spec"], "run")
    said = Said(call)
    logging.getLogger("rlpath").addHandler(said)
    logging.getLogger("rlpath").setLevel(logging.INFO)
    with exclusive(spec.run_dir / ".lock", "training in this run_dir", wait=WAIT_FOR_ANOTHER, waiting=logging.warning):
        return run(spec, lambda **line: call.report(line))


def main() -> None:
    serve({"train": train}, stop=_stop.set)


if __name__ == "__main__":
    main()
