"""What a trainer begins with, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rlpath_core.backends.mace.architecture import Architecture
from rlpath_core.training.dataset import TrainingSet


@dataclass
class TrainingPosition:
    """Where a run is. ``update`` counts the update steps done in ``epoch``."""

    epoch: int = 0
    update: int = 0
    global_step: int = 0
    pending_validation: bool = False
    finished: str = ""
    best: float | None = None
    best_step: int = 0
    seconds: float = 0.0
    log_bytes: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0


@dataclass(frozen=True)
class Prepared:
    """What a trainer trains: the network and its data, as a run.yaml and its files make them.

    Parameters
    ----------
    architecture, net
        The network, which is trained in place.
    train_set
        The new data, followed by ``n_replay`` older structures.
    validation
        The validation set, if there is one.
    head
        The head that is trained.
    parent
        Digest of the bundle that is fine-tuned.
    dtype
        float32 or float64, of weights and arithmetic.
    """

    architecture: Architecture
    net: torch.nn.Module
    train_set: TrainingSet
    n_replay: int
    validation: TrainingSet | None
    head: str
    parent: str | None = None
    dtype: str = "float32"
