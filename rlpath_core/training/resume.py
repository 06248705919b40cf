"""Task ``resume``: what a checkpoint settles and what may change, and the weights that were kept so far.

Of the keys of a run.yaml, those that decide the batches, the network and the optimizer's state must stay; the others
are used from here on. docs/training.md has the table.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rlpath_core.backends.mace.architecture import Architecture, read_architecture
from rlpath_core.backends.manifest import MANIFEST, read_manifest
from rlpath_core.backends.tensors import load_state
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write
from rlpath_core.training.checkpoint import artifacts_beside, cpu_clone
from rlpath_core.training.loop import Trainer
from rlpath_core.training.options import MaceTraining, RunSpec

log = logging.getLogger("rlpath.training")
LEAVE_OUT = "the checkpoint settles it: leave the key out, or fine-tune the model instead (task: finetune)"


def refuse_what_is_settled(spec: RunSpec[MaceTraining], state: dict[str, Any], path: Path) -> None:
    """InputError for a key of the network or its head that says something else than the checkpoint."""
    train, architecture = spec.train, Architecture.model_validate(state["architecture"])
    head = state["head"]
    if train.new_head is not None and train.new_head != head:
        raise InputError(f"is {train.new_head!r}, and {path} trains head {head!r}; {LEAVE_OUT}", key="train.new_head")
    given = train.given_head
    if given is not None and train.new_head is None and given != head and len(architecture.heads) > 1:
        raise InputError(f"is {given!r}, and {path} trains head {head!r}; {LEAVE_OUT}", key="train.head_key")
    if train.e0s is not None and train.e0s != state.get("e0s"):
        was = state.get("e0s") or "not given"
        raise InputError(f"is {train.e0s}, and was {was} where {path} began; {LEAVE_OUT}", key="train.e0s")
    if train.input_json is not None:
        found = architecture.model_dump(mode="json")
        wanted = read_architecture(train.input_json).model_dump(mode="json", exclude={"heads", "e0_values"})
        for key, value in wanted.items():
            if value is not None and value != found[key]:
                raise InputError(
                    f"{key} is not that of the network in {path}; {LEAVE_OUT}", train.input_json, "train.input_json"
                )


def bring_kept_weights(checkpoint: Path, run_dir: Path) -> None:
    """A run that goes on in another run_dir takes its best weights along, the manifest last."""
    source = artifacts_beside(checkpoint)
    if source is None or (run_dir / "artifacts" / MANIFEST).is_file():
        return
    manifest = read_manifest(source)  # its digests are checked
    for name in (manifest.weights.path, "model.json", MANIFEST):
        with atomic_write(run_dir / "artifacts" / name, "wb") as stream:
            stream.write((source / name).read_bytes())


def take_up(trainer: Trainer) -> None:
    """Make the loaded state of a trainer that of its present settings.

    The weights kept so far stay the best only as long as they are by the present loss on the present validation
    set: where these are others than before, the kept weights are measured anew.
    """
    position = trainer.position
    position.finished = ""
    there = (trainer.artifacts / MANIFEST).is_file()
    if there and trainer.judged_before == trainer.judged:
        return
    if trainer.validation is None:
        position.best, trainer.best_metrics = None, {}
        return
    before, position.best, trainer.best_metrics = position.best, None, {}
    trainer.schedule.state |= {"best": None, "bad": 0}
    if not there:
        log.info("the weights that %s kept are not beside it: the best are chosen anew", trainer.spec.model_in)
        return
    own = cpu_clone(dict(trainer.net.state_dict()))
    manifest = read_manifest(trainer.artifacts)
    try:
        trainer.net.load_state_dict(load_state(trainer.artifacts / manifest.weights.path))
        trainer.best_metrics, position.best = trainer.measure(trainer.validation)
    finally:
        trainer.net.load_state_dict(own)
    trainer.schedule.state["best"] = position.best
    position.best_step = manifest.config.get("global_step", position.best_step)
    trainer.log("kept_weights", loss=position.best, of_step=position.best_step, **trainer.best_metrics)
    log.info(
        "%s: the weights kept so far (update step %d) were measured anew and have a loss of %.6g (before: %s)",
        "an older checkpoint does not say by which loss and validation set it was judged"
        if trainer.judged_before is None
        else "the loss or the validation set is not that of the checkpoint",
        position.best_step,
        position.best,
        "none" if before is None else f"{before:.6g}",
    )
    trainer.save()
