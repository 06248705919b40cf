"""Trials near earlier ones are drawn again, and the memory of them survives a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.basins import HistogramBasins
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.sampling.policy.tabu import CAPACITY, TabuMemory
from rlpath_core.structure import Structure
from rlpath_core.testing.models import RecordingModel


def moved(structure: Structure, by: float, rng: np.random.Generator) -> Structure:
    movable = infer_roles(structure).movable[:, None]
    return structure.moved(structure.positions + movable * rng.normal(0, by, structure.positions.shape))


def brute(structure: Structure, places: list[Structure]) -> float:
    """The smallest largest shift over all places, each atom of what actions choose from matched with its own."""
    roles = infer_roles(structure)
    keep = roles.active[roles.movable]
    options = BasinOptions()
    index = HistogramBasins(options, structure, roles)
    prints = [index.fingerprint(one)[keep] * index.norm[keep, None] for one in (structure, *places)]
    start = index.fingerprint(structure)[keep] * index.norm[keep, None]
    neighbours = start.reshape(len(start), -1, int(np.ceil(options.cutoff / options.bin)) + 1)[:, :, -1].sum(axis=1)
    kinds = structure.numbers[roles.active]
    norm = np.array([max(1.0, float(neighbours[kinds == z].mean() / options.bin)) for z in kinds])
    return min(float((np.abs(prints[0] - other).sum(axis=1) / norm).max()) for other in prints[1:])


def test_the_nearest_place_is_found(copper: Structure, rng: np.random.Generator):
    """Against all places one by one; carbon and oxygen are one atom each, so that nothing has to be matched."""
    some = TabuMemory(BasinOptions(), infer_roles(copper))
    assert some.distance(copper) == float("inf")
    places = [moved(copper, by, rng) for by in (0.05, 0.1, 0.2, 0.3, 0.4) for _ in range(8)]
    for place in places:
        some.add(place)
    for place in places[::7]:
        assert some.distance(place) == 0.0
    assert some.distance(copper) == pytest.approx(brute(copper, places), rel=1e-4)


def test_a_place_and_its_image_under_the_lattice_are_one(copper: Structure):
    some = TabuMemory(BasinOptions(), infer_roles(copper))
    some.add(copper)
    adsorbate = infer_roles(copper).adsorbate[:, None]
    along = copper.cell[0] / 2  # the slab is a 2x2 one
    assert some.distance(copper.moved(copper.positions + adsorbate * along)) < 1e-3
    assert some.distance(copper.moved(copper.positions + adsorbate * along / 2)) > 0.1


def test_what_is_remembered_is_bounded_and_comes_back(copper: Structure, rng: np.random.Generator):
    some, other = (TabuMemory(BasinOptions(), infer_roles(copper)) for _ in range(2))
    first = moved(copper, 0.3, rng)
    some.add(first)
    for _ in range(CAPACITY):
        some.add(moved(copper, 0.1, rng))
    assert some.distance(first) > 0, "the oldest was forgotten"
    other.load(some.state())
    probe = moved(copper, 0.2, rng)
    assert other.distance(probe) == some.distance(probe)
    np.testing.assert_array_equal(other.state(), some.state())


@pytest.mark.slow
def test_a_walk_goes_where_it_has_not_been(run, copper: Structure):
    """Displaced structures alone, one walker: how far is each from all before it, drawn once and up to eight times?"""
    off = {"weight": 0}
    config = {"walkers": 1, "steps": 40, "quench": "none", "md": off, "site_hop": off, "jitter": off}
    apart = {}
    for name, max_draws in (("once", 1), ("again", 8)):
        model, places, found = RecordingModel(), TabuMemory(BasinOptions(), infer_roles(copper)), []
        run(copper, name, using=model, walk={"max_draws": max_draws, "max_scale": 4.0, "min_distance": 0.3}, **config)
        for structure in model.structures[1:]:
            found.append(places.distance(structure))
            places.add(structure)
        apart[name] = np.array(found[1:])
    assert np.median(apart["again"]) > 2 * np.median(apart["once"])
