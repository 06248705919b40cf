"""Which candidates get the round's labels: the most diverse, the highest scores, or a random draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.neighbours import image_vectors, neighbour_images
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.structure import Structure

BIN_WIDTH = 0.2
SMEARING = 0.2


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


def choose(
    candidates: Sequence[Structure],
    scores: Sequence[float],
    known: Sequence[Structure],
    budget: int,
    config: OutboxConfig,
    round_index: int | None = None,
) -> list[int]:
    """Select the candidates that get a label.

    Parameters
    ----------
    candidates
        Without near-duplicates.
    scores
        Trigger scores of the candidates.
    known
        Structures that have a label or will get one.
    budget
        How many to select at most.
    config
        The way of selecting.
    round_index
        Part of the seed of ``select: random``.

    Returns
    -------
    list of int
        Indices of candidates, in the order of selection.
    """
    if budget <= 0 or not candidates:
        return []
    by_score = sorted(range(len(candidates)), key=lambda k: -scores[k])
    if config.select == "score":
        return by_score[:budget]
    if config.select == "random":
        rng = np.random.default_rng([config.seed, 0 if round_index is None else round_index + 1])
        return rng.permutation(len(candidates))[:budget].tolist()
    if len(candidates) <= budget:
        return by_score
    rows = pair_histograms([*candidates, *known], config.descriptor_cutoff)
    return farthest_points(rows[: len(candidates)], rows[len(candidates) :], budget, by_score[0])
