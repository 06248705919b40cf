"""A checkpoint of the core trainer as a bundle, so that any task takes it for a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlpath_core.backends.mace.acceleration import accelerate
from rlpath_core.backends.mace.architecture import Architecture
from rlpath_core.backends.mace.build import DTYPES, restore, state_of
from rlpath_core.backends.mace.bundle import write_bundle
from rlpath_core.backends.manifest import MANIFEST, Source, read_manifest
from rlpath_core.files import sha256_of
from rlpath_core.training.checkpoint import load_checkpoint
from rlpath_core.training.optim import choose_parameters

log = logging.getLogger("rlpath.training")
FORMAT = "rlpath-checkpoint"


def weights_of(state: Mapping[str, Any]) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """The network of a checkpoint with the weights that validation measures: the moving average where the run keeps
    one, else the weights of its last update step."""
    architecture = Architecture.model_validate(state["architecture"])
    dtype = DTYPES[state["fixed"]["dtype"]]
    net = restore(architecture, state["model"], dtype)
    if state["average"] is not None:
        trained, _ = accelerate(net, "cpu", dtype, training=True)
        with torch.no_grad():
            for (_, parameter), average in zip(
                choose_parameters(trained, state["fixed"]["freeze"]), state["average"], strict=True
            ):
                parameter.copy_(average)
        return architecture, state_of(restore(architecture, trained.state_dict(), dtype), architecture)
    return architecture, state_of(net, architecture)


def bundle_of_checkpoint(path: Path, folder: Path) -> Path:
    """The bundle of a ``checkpoint.pt``, written into ``folder`` unless it is there.

    Returns its manifest. Raises InputError if the file is no checkpoint of this trainer.
    """
    digest = sha256_of(path)
    if (folder / MANIFEST).is_file():
        known = read_manifest(folder).source
        if (known.format, known.sha256) == (FORMAT, digest):
            return folder / MANIFEST
    state = load_checkpoint(path)
    architecture, weights = weights_of(state)
    step = state["at"]["global_step"]
    which = "the last weights" if state["average"] is None else "the moving average of the weights"
    log.info("%s: %s, of update step %d (a run_dir stands for its best ones)", path, which, step)
    written, _ = write_bundle(
        folder,
        architecture,
        weights,
        head=state["head"],
        dtype=state["fixed"]["dtype"],
        source=Source(path=None, format=FORMAT, sha256=digest),
        config={"global_step": step},
    )
    return written
