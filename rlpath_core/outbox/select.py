"""Which candidates get the labels of a round: the most diverse, the highest scores, a random draw, or your own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.geometry.neighbours import image_vectors, neighbour_images
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.registry import Registry
from rlpath_core.structure import Structure

BIN_WIDTH = 0.2
SMEARING = 0.2


@dataclass(frozen=True)
class Pool:
    """What a selection chooses from.

    Attributes
    ----------
    candidates
        Structures without near-duplicates.
    scores
        [n_candidates], trigger scores.
    known
        Structures that have a label or will get one.
    round_index
        The campaign's round; None outside a campaign.
    """

    candidates: Sequence[Structure]
    scores: Sequence[float]
    known: Sequence[Structure]
    round_index: int | None = None

    @property
    def by_score(self) -> list[int]:
        """Indices of candidates, the highest score first; equal scores in order."""
        return sorted(range(len(self.candidates)), key=lambda k: -self.scores[k])


Selection = Callable[[Pool, int, OutboxConfig], list[int]]
"""Chooses at most N candidates of a pool: their indices, in the order of selection."""
SELECTIONS: Registry[Selection] = Registry("selection", "rlpath.selections")


def check_selection(config: OutboxConfig, where: str | Path | None = None, prefix: str = "") -> None:
    """Raises InputError if nobody provides the selection that ``config`` names."""
    try:
        SELECTIONS[config.select]
    except InputError as error:
        raise InputError(error.what, where, f"{prefix}select") from error


def pair_histograms(structures: Sequence[Structure], cutoff: float = 6.0) -> NDArray[np.float64]:
    """[n_structures, n_features]: smoothed histograms of pair distances by element pair.

    Invariant to permutation, rotation and translation, and smooth in the positions. Only pairs with at least one atom
    that can move count (the rest never differ), damped by a cosine towards ``cutoff`` (Å), so that bonds weigh more
    than what is far away. Divided by the square root of the number of atoms, so that sizes can be mixed.
    """
    elements = np.unique(np.concatenate([s.numbers for s in structures]))
    centres = np.arange(0.5, cutoff, BIN_WIDTH)
    n_pairs = len(elements) * (len(elements) + 1) // 2
    out = np.zeros((len(structures), n_pairs, len(centres)))
    for row, structure in zip(out, structures, strict=True):
        pairs, images = neighbour_images(structure, cutoff)
        keep = ~structure.fixed[pairs].all(axis=0)
        pairs, images = pairs[:, keep], images[keep]
        distance = np.linalg.norm(image_vectors(structure, pairs, images), axis=1)
        a, b = np.sort(np.searchsorted(elements, structure.numbers[pairs]), axis=0)
        pair = a * len(elements) - a * (a - 1) // 2 + b - a
        weight = 0.5 * (1 + np.cos(np.pi * distance / cutoff)) * 0.5
        smooth = np.exp(-0.5 * ((distance[:, None] - centres) / SMEARING) ** 2) * weight[:, None]
        np.add.at(row, pair, smooth)
        row /= np.sqrt(len(structure))
    return out.reshape(len(structures), -1)


def farthest_points(candidates: NDArray[np.float64], known: NDArray[np.float64], count: int, first: int) -> list[int]:
    """Indices of ``count`` rows: ``first``, then always the row farthest from all chosen and known ones.

    Ties go to the lowest index. Gonzalez, doi:10.1016/0304-3975(85)90224-5.
    """
    distance = np.full(len(candidates), np.inf)
    for row in known:
        np.minimum(distance, np.linalg.norm(candidates - row, axis=1), out=distance)
    chosen: list[int] = []
    at = first
    for _ in range(min(count, len(candidates))):
        chosen.append(at)
        np.minimum(distance, np.linalg.norm(candidates - candidates[at], axis=1), out=distance)
        distance[chosen] = -1.0
        at = int(distance.argmax())
    return chosen


@SELECTIONS.register("score")
def highest_scores(pool: Pool, budget: int, config: OutboxConfig) -> list[int]:
    """The candidates that the triggers find worst."""
    return pool.by_score[:budget]


@SELECTIONS.register("random")
def at_random(pool: Pool, budget: int, config: OutboxConfig) -> list[int]:
    """A draw that depends on ``outbox.seed`` and the round only: the baseline."""
    rng = np.random.default_rng([config.seed, 0 if pool.round_index is None else pool.round_index + 1])
    return rng.permutation(len(pool.candidates))[:budget].tolist()


@SELECTIONS.register("diverse")
def most_diverse(pool: Pool, budget: int, config: OutboxConfig) -> list[int]:
    """The highest score, then always the candidate farthest from all chosen and known structures."""
    by_score = pool.by_score
    if len(pool.candidates) <= budget:
        return by_score
    rows = pair_histograms([*pool.candidates, *pool.known], config.descriptor_cutoff)
    n = len(pool.candidates)
    return farthest_points(rows[:n], rows[n:], budget, by_score[0])


def choose(pool: Pool, budget: int, config: OutboxConfig) -> list[int]:
    """Select the candidates that get a label.

    Parameters
    ----------
    pool
        The candidates and what is known.
    budget
        How many to select at most.
    config
        The way of selecting.

    Returns
    -------
    list of int
        Indices of candidates, in the order of selection.

    Raises
    ------
    InputError
        If nobody provides the selection, or it returns something else than distinct indices within the budget.
    """
    if budget <= 0 or not pool.candidates:
        return []
    chosen = [int(k) for k in SELECTIONS[config.select](pool, budget, config)]
    if len(set(chosen)) < len(chosen) or len(chosen) > budget or not set(chosen) <= set(range(len(pool.candidates))):
        raise InputError(
            f"selection {config.select!r} returned {chosen}: expected at most {budget} different indices below "
            f"{len(pool.candidates)}",
            key="outbox.select",
        )
    return chosen
