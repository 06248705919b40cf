"""Bonds that change: which there are, and where the atoms go."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import covalent_radii

from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.cell import wrap_vectors
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.paths.proposals import BondChanges, KnownMinimum, Landscape
from rlpath_core.paths.proposals.bonds import changed, changes
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import oxide

OH = float(covalent_radii[8] + covalent_radii[1])


def lengths(structure: Structure, *pairs: tuple[int, int]) -> list[float]:
    """Distances of the nearest images, Å."""
    return [
        float(np.linalg.norm(wrap_vectors(structure.positions[b] - structure.positions[a], structure)))
        for a, b in pairs
    ]


def dissociated() -> Structure:
    """Water on MgO(001) with one hydrogen on the nearest oxygen of the surface."""
    system = oxide()
    h, o = 9, 8 if system.numbers[8] == 8 else 10
    hydrogens, oxygen = (
        np.flatnonzero(system.numbers == 1),
        int(np.flatnonzero(infer_roles(system).adsorbate & (system.numbers == 8))[0]),
    )
    del h, o
    surface = np.flatnonzero((system.numbers == 8) & (system.tags == 1))
    away = wrap_vectors(system.positions[surface] - system.positions[hydrogens[0]], system)
    positions = system.positions.copy()
    positions[hydrogens[0]] += away[np.linalg.norm(away, axis=1).argmin()] + [0, 0, 0.97]
    assert oxygen not in hydrogens
    return system.moved(positions)


def test_water_on_an_oxide_has_its_changes() -> None:
    system = oxide()
    roles = infer_roles(system)
    found = changes(system, roles.active, 2.6)
    kinds = {change.elements for change in found}
    assert {"break H-O", "pass O-H-O"} <= kinds
    assert "form H-O" not in kinds, "both are bonded already"
    # every bond of the molecule once, the hydrogen leaving
    broken = [change.atoms for change in found if change.kind == "break"]
    bonded = bonds(system).within(roles.adsorbate)
    assert sorted(broken) == sorted(
        (int(i), int(j)) for i, j in zip(bonded.i, bonded.j, strict=True) if system.numbers[i] == 1
    )


def test_dissociated_water_may_form_again() -> None:
    system = dissociated()
    roles = infer_roles(system)
    kinds = {change.elements for change in changes(system, roles.active, 3.0)}
    assert "form H-O" in kinds
    assert "pass O-H-O" in kinds


@pytest.mark.parametrize("length", [1.3, 1.5])
def test_lengths_are_what_they_should_be(length: float) -> None:
    system = oxide()
    roles = infer_roles(system)
    centre = roles.adsorbate.nonzero()[0]
    for change in changes(system, roles.active, 2.6):
        structure, mode = changed(system, roles.movable, roles.active, change, length)
        moved = np.linalg.norm(structure.positions - system.positions, axis=1)
        assert set(np.flatnonzero(moved > 1e-9)) <= set(centre)
        i, j = change.atoms[:2]
        if change.kind == "break":
            assert lengths(structure, (i, j))[0] == pytest.approx(length * OH)
            along = wrap_vectors(system.positions[j] - system.positions[i], system)
            assert abs(mode[i] @ along) == pytest.approx(np.linalg.norm(mode[i]) * np.linalg.norm(along))
        elif change.elements == "pass O-H-O":
            first, second = lengths(structure, (i, j), (i, change.atoms[2]))
            assert first == pytest.approx(second), "in the middle between two atoms of one element"
            assert first < length * OH + 1e-6, "a molecule too far away comes nearer"


def test_each_change_is_tried_so_often_and_what_finds_saddles_more() -> None:
    system = oxide()
    landscape = Landscape(infer_roles(system), [KnownMinimum("B001", system, 0.0)])
    proposal, rng = BondChanges(BondChanges.Options(repeats=4)), np.random.default_rng(0)
    guesses: list[Guess] = []
    while proposal.applies(landscape):
        if (guess := proposal.propose(landscape, rng)) is not None:
            good = guess.parameters["change"] == "pass O-H-O"
            proposal.observe(guess, "TS001" if good else None, float(good), 120)
            guesses.append(guess)
    counts: dict[tuple[str, ...], int] = {}
    for guess in guesses:
        key = (guess.parameters["change"], *map(str, guess.parameters["atoms"]))
        counts[key] = counts.get(key, 0) + 1
    assert max(counts.values()) == 4
    names = [guess.parameters["change"] for guess in guesses]
    total = names.count("pass O-H-O")
    assert names[: total + 8].count("pass O-H-O") > 0.8 * total
