"""Proposals that use symmetry: copies of a minimum as ends of a path, and images of saddles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.paths.identity import Copies, same_structure
from rlpath_core.paths.proposals import KnownMinimum, KnownSaddle, Landscape, Pairs, Proposal, SaddleImages
from rlpath_core.paths.proposals.base import unit
from rlpath_core.paths.searches.base import Guess
from rlpath_core.testing.potentials import pt_heptamer
from rlpath_core.testing.systems import oxide


def everything(proposal: Proposal, landscape: Landscape) -> list[Guess]:
    """All that a proposal has, one after the other."""
    rng, found = np.random.default_rng(0), []
    while proposal.applies(landscape) and (guess := proposal.propose(landscape, rng)) is not None:
        proposal.observe(guess, None, 0.0, 100)
        found.append(guess)
        assert len(found) < 200, "there is no end"
    return found


def test_pairs_of_a_minimum_and_its_copies() -> None:
    """Other sites and turned molecules, each once, and the exchange of both hydrogens."""
    system = oxide()
    roles = infer_roles(system)
    landscape = Landscape(roles, [KnownMinimum("B001", system, 0.0)])
    found = everything(Pairs(Pairs.Options()), landscape)
    assert len(found) > 2
    copies = Copies(system, roles.movable)
    hydrogens = np.flatnonzero(system.numbers == 1)
    exchanges = 0
    for guess in found:
        start, end = guess.path
        assert (guess.start, guess.end) == ("B001", "B001")
        assert start is system
        assert copies.are(start, end)
        assert not same_structure(start, end, roles.movable)
        # the straight line is the shortest
        lengths = (np.linalg.norm(one, axis=1) for one in (displacements(end, start), end.positions - start.positions))
        np.testing.assert_allclose(*lengths, atol=1e-9)
        swapped = end.moved(end.positions[np.r_[0 : hydrogens[0], hydrogens[::-1]]])
        exchanges += same_structure(start, swapped, roles.movable)
        bonds = np.linalg.norm(
            guess.structure.positions[hydrogens] - guess.structure.positions[hydrogens[0] - 1], axis=1
        )
        assert 0.7 < bonds.min() < bonds.max() < 1.4, "the molecule is whole half way"
    assert exchanges == 1
    assert len({round(guess.parameters["distance"], 1) for guess in found}) == len(found)


def test_joined_pairs_come_first_and_those_with_a_saddle_last() -> None:
    system = oxide()
    roles = infer_roles(system)
    water = np.flatnonzero(roles.adsorbate)
    minima = [KnownMinimum("B001", system, 0.0)]
    for n, step in enumerate(([0.4, 0.1, 0.0], [0.9, 0.3, 0.1], [1.3, 0.4, 0.2]), start=2):
        positions = system.positions.copy()
        positions[water] += step
        minima.append(KnownMinimum(f"B00{n}", system.moved(positions), 9.0))
    saddle = KnownSaddle("TS001", minima[1].structure, 1.0, unit(np.ones(system.positions.shape)), "B001", "B002")
    landscape = Landscape(
        roles,
        minima,
        [saddle],
        {("B001", "B004"): 3},
        merits={"B001": 1.0} | dict.fromkeys(("B002", "B003", "B004"), 1e-12),
    )
    proposal, rng = Pairs(Pairs.Options(max_distance=2.0)), np.random.default_rng(0)
    ends = []
    while (guess := proposal.propose(landscape, rng)) is not None and guess.start == "B001":
        ends.append(guess.end)
    assert ends[0] == "B004", "an action led there"
    assert ends.index("B003") < ends.index("B002"), "how one comes to the other is known"


def moved_edge(angle: float, mirror: bool) -> np.ndarray:
    """Two atoms at the island's edge slide, turned about the island's centre (degrees) and mirrored: [n_atoms, 3]."""
    system = pt_heptamer()
    island = np.flatnonzero(system.tags == 2)
    centre = system.positions[island].mean(axis=0)
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    if mirror:
        rotation = rotation @ np.diag([-1.0, 1.0, 1.0])
    arms = system.positions[island] - centre
    steps = np.zeros((7, 3))
    steps[(arms[:, 1] > 1) & (np.abs(arms[:, 0]) < 2)] = [[-1.8, 0.45, 0.0], [-1.8, 0.2, 0.1]]
    onto = np.linalg.norm((arms @ rotation.T)[:, None] - arms, axis=2)
    assert onto.min(axis=1).max() < 0.1
    out = np.zeros(system.positions.shape)
    out[island[onto.argmin(axis=1)]] = steps @ rotation.T
    return out


def test_images_of_an_island_that_the_cell_distorts() -> None:
    """The island has threefold symmetry, the cell has a mirror alone: two of six images are new saddles."""
    system = pt_heptamer()
    roles = infer_roles(system)
    moved = moved_edge(0, False)
    saddle = KnownSaddle("TS001", system.moved(system.positions + moved), 0.99, unit(moved), "B001", "B001")
    landscape = Landscape(roles, [KnownMinimum("B001", system, 0.0)], [saddle])
    found = everything(SaddleImages(SaddleImages.Options()), landscape)
    images = {(angle, mirror): moved_edge(angle, mirror) for angle in (0, 120, 240) for mirror in (False, True)}
    reached = []
    for guess in found:
        assert guess.mode is not None
        off = {key: np.abs(guess.structure.positions - system.positions - image).max() for key, image in images.items()}
        key = min(off, key=lambda one: off[one])
        assert off[key] < 0.05
        assert abs((guess.mode * unit(images[key])).sum()) == pytest.approx(1.0, abs=0.01)
        reached.append(key)
    # what the mirror of the cell makes of the saddle, or of another image, is counted by a degeneracy
    assert len(reached) == 2
    assert (0, False) not in reached
    mirrored = Copies(system, roles.movable)
    first, second = (guess.structure for guess in found)
    assert not mirrored.are(first, second)
    assert not mirrored.are(first, saddle.structure)


def test_images_that_are_known_are_left_out() -> None:
    system = pt_heptamer()
    roles = infer_roles(system)
    saddles = [
        KnownSaddle(f"TS00{n}", system.moved(system.positions + moved), 0.99, unit(moved), "B001", "B001")
        for n, moved in enumerate((moved_edge(0, False), moved_edge(120, False), moved_edge(240, True)), start=1)
    ]
    landscape = Landscape(roles, [KnownMinimum("B001", system, 0.0)], saddles[:1])
    assert len(everything(SaddleImages(SaddleImages.Options()), landscape)) == 2
    assert len(everything(SaddleImages(SaddleImages.Options()), replace(landscape, saddles=saddles[:2]))) == 1


def test_a_saddle_is_carried_over_to_another_minimum() -> None:
    """An atom far away differs between two minima: what happens at the island does so in both."""
    system = pt_heptamer()
    roles = infer_roles(system)
    moved = moved_edge(0, False)
    saddle = KnownSaddle("TS001", system.moved(system.positions + moved), 0.99, unit(moved), "B001", "B001")
    centre = system.positions[system.tags == 2].mean(axis=0)
    far = int(
        np.argmax(
            np.linalg.norm(displacements(system, system.moved(np.broadcast_to(centre, system.positions.shape))), axis=1)
            * roles.movable
        )
    )
    positions = system.positions.copy()
    positions[far, 2] += 1.0
    other = KnownMinimum("B002", system.moved(positions), 0.2)
    landscape = Landscape(
        roles, [KnownMinimum("B001", system, 0.0), other], [saddle], merits={"B001": 1e-12, "B002": 1.0}
    )
    guess = SaddleImages(SaddleImages.Options()).propose(landscape, np.random.default_rng(0))
    assert guess is not None
    assert guess.start == "B002"
    assert guess.structure.positions[far, 2] == positions[far, 2]
    np.testing.assert_allclose(np.linalg.norm(guess.structure.positions - positions), np.linalg.norm(moved), atol=1e-6)
