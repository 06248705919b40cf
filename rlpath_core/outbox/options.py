"""The ``outbox`` section: what becomes of ``dft_queue.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from rlpath_core.config import Section


class OutboxConfig(Section):
    """Deduplication and the label budget."""

    rmsd: float = Field(0.18, ge=0, description="Å over movable atoms; at or below it two structures are duplicates")
    budget: int = Field(64, ge=1, description="labels per round; 32 to 128 is the usual range")
    select: Literal["diverse", "score", "random"] = Field(
        "diverse",
        description="diverse: farthest points from each other and from everything labelled; score: highest trigger "
        "score first; random: the baseline to compare with",
    )
    seed: int = Field(0, ge=0, description="of `select: random`")
    max_force: float | None = Field(
        30.0, gt=0, description="eV/Å, predicted: above it a structure has exploded and is not worth a label"
    )
    max_score: float | None = Field(None, gt=0, description="the same for the trigger's score")
    keep_unselected: bool = Field(
        False,
        description="what the budget leaves out stays queued for the next round instead of being skipped; in a "
        "campaign every round samples anew with a better model, so older candidates are stale",
    )
    descriptor_cutoff: float = Field(6.0, gt=1, description="Å, of the pair-distance histogram behind `diverse`")
    bottom_layer: float = Field(
        1.0, gt=0, description="Å above the lowest atom that still count as the bottom layer, where nothing is fixed"
    )


class OutboxSpec(Section):
    """What ``flows.outbox`` takes."""

    run_dir: Path
    """The output folder of a sampling run."""
    config: Path | None = None
    """A YAML with the keys of the outbox (configs/outbox.yaml), or a campaign's config with its section `outbox`."""
    outbox: OutboxConfig = OutboxConfig()
    """Keys of the outbox, laid over those of `config`."""
    round: int | None = None
    """The campaign's round that the choice belongs to."""
