"""Training by FairChem from any environment: its process is started, followed and ended with this one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from rlpath_core.backends.environments import child_environment, interpreter_of
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.errors import InputError, TransientError
from rlpath_core.files import atomic_write, sha256_of
from rlpath_core.process.child import Child
from rlpath_core.progress import Progress
from rlpath_core.training.fairchem.config import complete, read_config, split_arguments
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.inputs import INPUTS, Inputs
from rlpath_core.training.options import RunSpec
from rlpath_core.training.result import (
    MANIFEST,
    RESULT,
    RUN_YAML,
    TrainResult,
    holds_something,
    same_run,
    write_result,
    write_spec,
)

log = logging.getLogger("rlpath.training")

WORKER = "rlpath_core.training.fairchem.worker"
LOG, CONFIG = "fairchem.log", "fairchem.yml"
STOP_SECONDS = 10.0
QUIET = ("at", "said", "scales", "trained", "labels")
"""Reports that are no lines of metrics.jsonl."""


def train(spec: RunSpec[FairChemTraining], progress: Progress | None, resume_if_possible: bool) -> TrainResult:
    """``rlpath_core.training.train`` for EquiformerV2 and GemNet-OC. What can be wrong is said before anything starts
    or is written."""
    assert spec.train.config_yml is not None
    if spec.task == "train":
        complete(spec)
    else:
        read_config(spec.train.config_yml)
        split_arguments(spec.backend_args)
    for path, key in ((spec.data.train, "data.train"), (spec.data.val, "data.val"), (spec.data.replay, "data.replay")):
        if path is not None and not path.exists():
            raise InputError("no such file or folder", path, key)
    python = interpreter_of(spec.backend, spec.backend_python)
    _check_model(spec)
    inputs = Inputs.of(spec)
    if spec.task != "resume" and holds_something(spec.run_dir):
        done = same_run(spec, resume_if_possible, inputs)
        if done is not None:
            return done
    with _put_back_if_wrong(spec.run_dir):
        write_spec(spec, inputs)
        (spec.run_dir / RESULT).unlink(missing_ok=True)
        answer, reports = _train_in_child(python, spec, progress)
    if "metrics" not in answer:
        step = reports.get("at", {}).get("global_step", 0)
        raise InterruptedError(f"{spec.run_dir}: stopped at update step {step}; run it again to resume")
    ended, manifest = reports["trained"], spec.run_dir / "artifacts" / MANIFEST
    metrics = {
        **answer["metrics"],
        "stop_reason": ended["stop_reason"],
        "global_step": ended["global_step"],
    }
    if ended["best"] is not None:
        metrics["best"] = {ended["primary_metric"]: ended["best"]}
    result = TrainResult(manifest, sha256_of(manifest), metrics, ended["seconds"])
    write_result(spec.run_dir, result)
    return result


def _check_model(spec: RunSpec[FairChemTraining]) -> None:
    """What can be told of ``model_in`` or ``model.manifest`` without opening weights."""
    if spec.task == "train":
        return
    given = Path(spec.starting_model)
    if spec.task == "finetune" and not (given.suffix == ".pt" and given.is_file()):
        path = manifest_path(given)
        manifest = read_manifest(path)
        if manifest.backend != spec.backend:
            raise InputError(f"is of backend {manifest.backend}, and the run is of {spec.backend}", path, "backend")
    if spec.task == "resume":
        own = spec.run_dir / "checkpoints" / "checkpoint.pt"
        path = given if given.is_file() else given / "checkpoints" / "checkpoint.pt"
        if not path.is_file() or path.suffix != ".pt":
            raise InputError(
                "task resume needs a checkpoint.pt, or the run_dir that holds checkpoints/checkpoint.pt", given
            )
        if own.is_file() and path.resolve() != own.resolve():
            raise InputError(
                "run_dir has a checkpoint of its own: resume that one, or choose another run_dir", spec.run_dir
            )


@contextmanager
def _put_back_if_wrong(run_dir: Path) -> Iterator[None]:
    """Where the input turns out to be wrong, a new run_dir is gone again, and that of another run as it was."""
    new = not holds_something(run_dir)
    before = {
        path: path.read_bytes()
        for path in (run_dir / name for name in (RUN_YAML, INPUTS, RESULT, CONFIG))
        if path.is_file()
    }
    try:
        yield
    except InputError:
        if new:
            shutil.rmtree(run_dir, ignore_errors=True)
        for path, content in before.items():
            with atomic_write(path, "wb") as stream:
                stream.write(content)
        raise


@contextmanager
def _passing_on_sigterm(child: Child) -> Iterator[None]:
    """On SIGTERM the child writes a checkpoint after its update step; then the signal is sent to this process again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may take signals; the child ends with this process all the same
        return
    received = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        child.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if received:
            os.kill(os.getpid(), signal.SIGTERM)


def _say_labels(line: dict[str, Any]) -> None:
    """How far the labels are from the model that is fine-tuned, with the key that mends it."""
    if line["moved"]:
        log.info("train.e0s: lstsq moves the reference energies: %s", line["line"])
    elif line["verdict"] == "other":
        fix = "train.e0s: lstsq moves the model's reference energies there (data.replay must then have those too)"
        log.warning("data.train: %s. Fix: %s", line["line"], fix)
    else:
        log.log(logging.INFO if line["verdict"] == "same" else logging.WARNING, "data.train: %s", line["line"])


def _train_in_child(
    python: Path, spec: RunSpec[FairChemTraining], progress: Progress | None
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The answer of FairChem's process, and its last report of every kind."""
    hidden = None if spec.train.progress_bar == "auto" else not spec.train.progress_bar
    bar = tqdm(desc=spec.run_dir.name, unit="step", disable=hidden, mininterval=spec.train.progress_mininterval)
    last: dict[str, dict[str, Any]] = {}

    def follow(line: dict[str, Any]) -> None:
        event = line["event"]
        last[event] = line
        if event == "at":
            bar.total = line["total"]
            bar.update(line["global_step"] - bar.n)
        elif event == "labels":
            _say_labels(line)
        elif event == "said":
            log.log(line["level"], "%s", line["text"])
        elif event == "step":
            bar.set_postfix(loss=f"{line['loss']:.3g}", refresh=False)
        if event not in QUIET and progress is not None:
            progress(line)

    command, env = [str(python), "-u", "-m", WORKER], {**child_environment(), **spec.backend_env}
    spec.run_dir.mkdir(parents=True, exist_ok=True)
    child = Child(command, "FairChem's process", env=env, log=spec.run_dir / LOG, stop_seconds=STOP_SECONDS)
    try:
        with bar, child, _passing_on_sigterm(child):
            return child.ask("train", {"spec": spec.model_dump(mode="json")}, report=follow)[0], last
    except TransientError as error:
        raise TransientError(f"{error}; run it again to resume") from error
