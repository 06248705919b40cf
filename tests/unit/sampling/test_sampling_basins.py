"""Basins by their conformance suite, and the fingerprint against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms

from rlpath_core.geometry.environment import LocalEnvironment
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.basins import BASINS, BasinIndex, HistogramBasins, histograms
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure
from rlpath_core.testing.basin import BasinSuite
from rlpath_core.testing.systems import SYSTEMS, oxide


def co_at(site: str, upside_down: bool = False) -> Structure:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=7, orthogonal=False)
    add_adsorbate(atoms, molecule("CO"), 1.9, site, mol_index=0 if upside_down else 1)
    if upside_down:
        atoms.positions[[12, 13]] = atoms.positions[[13, 12]]
    atoms.pbc = True
    atoms.set_tags([0] * 8 + [1] * 4 + [2] * 2)
    atoms.set_constraint(FixAtoms(range(8)))
    return Structure.from_ase(atoms)


class TestHistogram(BasinSuite):
    @pytest.fixture
    def kind(self) -> type[BasinIndex]:
        return BASINS["histogram"]

    @pytest.fixture
    def system(self) -> Structure:
        return co_at("ontop")

    @pytest.fixture(params=["fcc", "bridge", "hcp"])
    def other(self, request: pytest.FixtureRequest) -> Structure:
        return co_at(request.param)


class TestHistogramOnEverySystem(BasinSuite):
    @pytest.fixture
    def kind(self) -> type[BasinIndex]:
        return BASINS["histogram"]

    @pytest.fixture(params=[*SYSTEMS, "oxide"])
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return (SYSTEMS | {"oxide": oxide})[request.param]()

    @pytest.fixture
    def other(self, system: Structure) -> Structure:
        """The last movable atom somewhere else."""
        positions = system.positions.copy()
        positions[np.flatnonzero(infer_roles(system).movable)[-1]] += [0.9, 0.4, 0.6]
        return system.moved(positions)


def test_histograms_equal_brute_force(system: Structure):
    from itertools import product

    centres = infer_roles(system).movable
    found = histograms(system, LocalEnvironment(system, centres, 6.0), 0.1)
    elements = np.unique(system.numbers)
    shifts = np.array(list(product(*[range(-4, 5) if p else range(1) for p in system.pbc]))) @ system.cell
    expected = np.zeros_like(found)
    for row, a in enumerate(np.flatnonzero(centres)):
        for b in range(len(system)):
            for d in np.linalg.norm(system.positions[b] + shifts - system.positions[a], axis=1):
                if 1e-9 < d < 6.0:
                    k, share = int(d / 0.1), d / 0.1 - int(d / 0.1)
                    weight = (1 + np.cos(np.pi * d / 6.0)) / 2
                    element = np.searchsorted(elements, system.numbers[b])
                    expected[row, element, k] += weight * (1 - share)
                    expected[row, element, k + 1] += weight * share
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_first_comparison_never_loses_a_match():
    """The sum over atoms, which is looked at first, is a lower bound of what the matching finds."""
    system = co_at("ontop")
    roles = infer_roles(system)
    index = HistogramBasins(BasinOptions(), system, roles)
    rng = np.random.default_rng(0)
    for width in (0.01, 0.1, 0.5):
        for _ in range(10):
            a, b = (
                index.fingerprint(system.moved(system.positions + rng.normal(0, width, system.positions.shape)))
                for _ in range(2)
            )
            lower = np.abs(index.total(a) - index.total(b)).sum()
            assert lower <= len(a) * index.shift(a, b) * (1 + 1e-4)


def test_equivalent_sites_are_one_basin():
    """CO on another atop site, a lattice vector of the surface away: the same minimum by symmetry."""
    system = co_at("ontop")
    index = HistogramBasins(BasinOptions(), system, infer_roles(system))
    index.add(0, system, 0.0)
    positions = system.positions.copy()
    positions[-2:] += system.cell[0] / 2
    assert index.find(system.moved(positions), 0.0) == 0


def test_one_turned_hydrogen_is_another_basin():
    """Ethanol, anti and gauche: all bonds and angles alike, one dihedral differs."""
    ethanol = molecule("CH3CH2OH")
    anti = Structure.from_ase(ethanol)
    oxygen = int(np.flatnonzero(anti.numbers == 8)[0])
    distance = ethanol.get_all_distances()
    hydrogen = next(k for k in np.flatnonzero(anti.numbers == 1) if distance[oxygen, k] < 1.1)
    carbons = np.flatnonzero(anti.numbers == 6)
    near, far = sorted(carbons, key=lambda c: distance[oxygen, c])
    index = HistogramBasins(BasinOptions(), anti, infer_roles(anti))
    index.add(0, anti, 0.0)
    for degrees, same in ((8, True), (120, False)):
        turned = ethanol.copy()
        turned.rotate_dihedral(far, near, oxygen, hydrogen, degrees, indices=[hydrogen])
        assert (index.find(Structure.from_ase(turned), 0.0) == 0) == same
