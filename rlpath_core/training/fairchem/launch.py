"""FairChem's process: ``python -m rlpath_core.training.fairchem.launch --report FD`` in FairChem's environment.

The first line of standard input is the run as JSON. Lines of JSON about what happens go to the file descriptor FD, and
FairChem's own log to standard output and error. Asked to end (SIGTERM, or its parent is gone), it writes a checkpoint
after the update step it is in.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from rlpath_core.config import check, read_mapping
from rlpath_core.errors import InputError, RlpathError, TransientError
from rlpath_core.files import atomic_write, write_json
from rlpath_core.locks import exclusive
from rlpath_core.training.fairchem.config import BEST, CHECKPOINT, OURS, complete, first_difference, needs_scales
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.options import RunSpec
from rlpath_core.training.result import CONVERTED

CONFIG, SCALES = "fairchem.yml", "scale_factors.json"
START = "start.pt"
WAIT_FOR_ANOTHER = 120.0
"""Seconds; a process whose parent was killed ends after the update step it is in."""
GRACE = 600.0


class Reporter:
    """Lines of JSON to the parent; a parent that is gone is a request to end."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.gone = stream, False

    def __call__(self, **line: Any) -> None:
        if not self.gone:
            try:
                self.stream.write(json.dumps(line) + "\n")
                self.stream.flush()
            except BrokenPipeError:
                self.gone = True


@dataclass(frozen=True)
class Start:
    """Where a life of a run begins.

    checkpoint  for FairChem's ``--checkpoint``; None: from scratch, or from the run's own where it has one
    network     the ``model`` section that this holds
    parent      digest of the bundle that is fine-tuned
    targets     see ``config.complete``
    """

    checkpoint: Path | None = None
    network: dict[str, Any] | None = None
    parent: str | None = None
    targets: Literal["fit", "fitted", "model"] = "fit"


def _started_from(spec: RunSpec[FairChemTraining]) -> Start:
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
        return Start(None, network, began["parent"], "model" if began["task"] == "finetune" else "fitted")
    if spec.task == "train":
        return Start()
    given = Path(spec.starting_model)
    if given.suffix == ".pt":
        given, _ = export_checkpoint(given, spec.run_dir / CONVERTED, backend=spec.backend)
    manifest = manifest_path(given)
    start = own.with_name(START)
    start.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(manifest, start, weights=spec.model.weights)
    return Start(start, _network_of(load_tensors(start), start), sha256_of(manifest), "model")


def _network_of(state: dict[str, Any], path: Path) -> dict[str, Any]:
    network = state.get("config", {}).get("model")
    if not isinstance(network, dict):
        raise InputError("says nothing of its network", path, "config.model")
    return network


def prepare(spec: RunSpec[FairChemTraining], device: str) -> tuple[list[str], str | None]:
    """Write ``fairchem.yml``, and give FairChem's own command line and the digest of the model that is trained on."""
    start = _started_from(spec)
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
        words += ["--checkpoint", str(start.checkpoint)]
    return words + flags, start.parent


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


def run(spec: RunSpec[FairChemTraining], report: Reporter) -> None:
    """The whole of a run: configuration, scale factors, training, and the metrics of the weights that were kept."""
    from rlpath_core.backends.device import resolve_device
    from rlpath_core.backends.fairchem.shims import provide

    provide()
    device = resolve_device(spec.device)
    words, parent = prepare(spec, device)
    from fairchem.core._cli import Runner
    from fairchem.core.common.flags import flags
    from fairchem.core.common.utils import build_config, setup_imports, setup_logging

    import rlpath_core.training.fairchem.dataset  # noqa: F401  (registered by being imported)
    from rlpath_core.training.fairchem import trainer

    setup_logging()
    setup_imports()
    config = build_config(*flags.get_parser().parse_known_args(words))
    _one_process(device)
    scales = spec.run_dir / SCALES
    if needs_scales(config["model"]) and spec.task == "train":
        if not scales.is_file():
            report(event="scales")
            fit_scales(config, scales)
        config["model"].get("backbone", config["model"])["scale_file"] = str(scales)
    job = trainer.Job(spec.run_dir, spec.backend, spec.task, parent, report, spec.train.max_seconds)
    trainer.install(job)
    _end_when_asked(job)
    try:
        Runner()(config)
    except trainer.Stopped:
        report(event="stopped")
        return
    report(event="result", metrics=measure(spec))


def measure(spec: RunSpec[FairChemTraining]) -> dict[str, float]:
    """Errors of the artifacts on ``data.val``, by the same measure for every backend."""
    from rlpath_core.backends import load_model
    from rlpath_core.evaluation import evaluate
    from rlpath_core.training.dataset import read_split

    if spec.data.val is None:
        return {}
    model = load_model(spec.run_dir / "artifacts", device=spec.device)
    return evaluate(model, read_split(spec.data.val, spec.data, spec.data.val_indices, False), spec.eval.batch_size)


def _one_process(device: str) -> None:
    """FairChem joins a process group of one; port 0 is one that the system finds free as it is taken."""
    import torch

    rank = device.partition(":")[2] or "0"  # FairChem takes the GPU of its local rank
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", LOCAL_RANK=rank)
    if device == "cpu":  # sums in a fixed order, where threads would otherwise add in whatever order they come
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _end_when_asked(job: Any) -> None:
    def ask(*_: Any) -> None:
        job.stop_requested = True

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not sys.stdin, whose lock a thread would still hold at the end
            pass
        ask()
        timer = threading.Timer(GRACE, os._exit, (1,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, ask)
    threading.Thread(target=watch, daemon=True).start()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=int, required=True, metavar="FD")
    given = parser.parse_args(argv)
    report = Reporter(os.fdopen(given.report, "w", encoding="utf-8"))
    spec = check(RunSpec, json.loads(sys.stdin.buffer.readline()), "run")
    try:
        with exclusive(
            spec.run_dir / ".lock", "training in this run_dir", wait=WAIT_FOR_ANOTHER, waiting=logging.warning
        ):
            run(spec, report)
    except InputError as error:
        report(event="error", kind="input", what=error.what, where=error.where, key=error.key)
        return 2
    except RlpathError as error:
        kind = "transient" if isinstance(error, TransientError) else "fatal"
        report(event="error", kind=kind, what=str(error))
        return 1
    except Exception as error:
        traceback.print_exc()
        report(event="error", kind="crash", what=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
