"""Training MACE: from a checked spec to artifacts on disk."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rlpath_core.backends.device import resolve_device
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, sha256_of
from rlpath_core.progress import Progress
from rlpath_core.training.checkpoint import checkpoint_of, load_checkpoint, same_settings
from rlpath_core.training.distributed import ProcessGroup, process_group
from rlpath_core.training.inputs import Inputs
from rlpath_core.training.loop import Trainer
from rlpath_core.training.options import MaceTraining, RunSpec
from rlpath_core.training.result import (
    MANIFEST,
    RESULT,
    TrainResult,
    holds_something,
    same_run,
    write_result,
    write_spec,
)
from rlpath_core.training.resume import bring_kept_weights, refuse_what_is_settled, take_up
from rlpath_core.training.setup import given_model, prepare, prepare_from_checkpoint

log = logging.getLogger("rlpath.training")


@contextmanager
def _checkpoint_on_sigterm(trainer: Trainer) -> Iterator[None]:
    """Asked to end, the trainer writes a checkpoint after the update step it is in; then the signal is sent again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may take signals; epochs and cycles are checkpointed all the same
        return

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if trainer.stop_requested:
            os.kill(os.getpid(), signal.SIGTERM)


def train(spec: RunSpec[MaceTraining], progress: Progress | None, resume_if_possible: bool) -> TrainResult:
    """``rlpath_core.training.train`` for MACE."""
    with process_group(resolve_device(spec.device)) as processes:
        if spec.task == "resume":
            return _resume(spec, processes, progress)
        inputs = Inputs.of(spec)
        if holds_something(spec.run_dir):
            done = same_run(spec, resume_if_possible, inputs)
            if done is not None:
                return done
        processes.wait()  # all have looked before one writes
        if processes.is_main and spec.task == "finetune":
            given_model(spec)  # a foreign model is converted by one process
        processes.wait()
        prepared = prepare(spec, processes)
        device = processes.device
        trainer = Trainer(spec, prepared, device=device, processes=processes, progress=progress, inputs=inputs)
        if processes.is_main:
            write_spec(spec, inputs)
        processes.wait()
        return _run(trainer)


def _resume(spec: RunSpec[MaceTraining], processes: ProcessGroup, progress: Progress | None) -> TrainResult:
    """Task ``resume``: architecture and weights come from the checkpoint, the rest from the spec."""
    given = Path(spec.starting_model)
    path = checkpoint_of(given)
    if path is None:
        raise InputError(
            "task resume needs a checkpoint.pt, or the run_dir that holds checkpoints/checkpoint.pt", given
        )
    state, inputs = load_checkpoint(path), Inputs.of(spec)
    refuse_what_is_settled(spec, state, path)
    prepared, device = prepare_from_checkpoint(spec, state), processes.device
    trainer = Trainer(spec, prepared, device=device, processes=processes, progress=progress, inputs=inputs)
    own = trainer.checkpoint_path
    if own.is_file() and path.resolve() != own.resolve():
        raise InputError(
            "run_dir has a checkpoint of its own: resume that one, or choose another run_dir", spec.run_dir
        )
    same_settings(state["fixed"], trainer.fixed, path)  # what does not fit is said before anything is written
    processes.wait()
    if processes.is_main:
        write_spec(spec, inputs)
        bring_kept_weights(path, spec.run_dir)
        if not own.is_file():
            own.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(own, "wb") as stream:
                stream.write(path.read_bytes())
        (spec.run_dir / RESULT).unlink(missing_ok=True)
    processes.wait()
    return _run(trainer)


def _run(trainer: Trainer) -> TrainResult:
    run_dir = trainer.spec.run_dir
    if trainer.checkpoint_path.is_file():
        trainer.load()
        if trainer.spec.task == "resume":
            take_up(trainer)
    elif trainer.processes.is_main and trainer.log_path.exists():
        trainer.log_path.unlink()  # of a run that was killed before its first checkpoint
    began_at = trainer.position.global_step
    with _checkpoint_on_sigterm(trainer):
        reason = trainer.run()
    if began_at == trainer.position.global_step > 0:
        epochs, asked = trainer.position.epoch, trainer.train.epochs
        why = f"{epochs} epochs are done, and train.epochs is {asked}" if reason == "epochs" else reason
        log.info("%s: no update step was left to do (%s)", run_dir, why)
    manifest = trainer.artifacts / MANIFEST
    if reason == "stopped":
        step = trainer.position.global_step
        raise InterruptedError(f"{run_dir}: stopped at update step {step}; run it again to resume")
    trainer.processes.wait()
    metrics = {**trainer.best_metrics, "stop_reason": reason, "global_step": trainer.position.global_step}
    result = TrainResult(manifest, sha256_of(manifest), metrics, round(trainer.position.seconds, 3))
    if trainer.processes.is_main:
        write_result(run_dir, result)
    return result
