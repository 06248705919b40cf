"""The ``outbox`` section: what becomes of ``dft_queue.jsonl``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rlpath_core.config import Section


class OutboxConfig(Section):
    """Deduplication and the label budget."""

    rmsd: float = Field(0.18, ge=0)
    """Two structures whose movable atoms differ by at most this RMSD, in Å, are duplicates."""
    symmetry: bool = True
    """Whether a structure that a symmetry of the lattice and of the fixed atoms brings within `rmsd` of another is a
    duplicate too: the reference energy is exactly the same. Without fixed atoms the lattice's rotations, mirrors and
    every shift count, for a free molecule its mirror image."""
    symmetry_tolerance: float = Field(0.05, gt=0, lt=0.3)
    """By how much a symmetry operation may miss a fixed atom, in Å."""
    budget: int = Field(64, ge=1)
    """The largest number of labels per round; 32 to 128 is the usual range."""
    select: str = "diverse"
    """How candidates are chosen. diverse takes the farthest points from each other and from everything labelled, score
    the highest trigger scores, random draws them as a baseline. Others come from installed packages, or from a
    `module:name`."""
    seed: int = Field(0, ge=0)
    """The seed of `select: random`."""
    max_force: float | None = Field(30.0, gt=0)
    """A candidate with a larger predicted force, in eV/Å, has exploded and is not labelled; null sets no limit."""
    max_score: float | None = Field(None, gt=0)
    """A candidate with a larger trigger score is not labelled; null sets no limit."""
    keep_unselected: bool = False
    """Keep candidates beyond the budget queued for the next round instead of skipping them. A campaign samples anew in
    every round with a better model, so that its older candidates are stale."""
    descriptor_cutoff: float = Field(6.0, gt=1)
    """The cutoff, in Å, of the pair-distance histogram that `select: diverse` compares."""
    bottom_layer: float = Field(1.0, gt=0)
    """If no atom is fixed, atoms up to this height, in Å, above the lowest one are the bottom layer."""


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
