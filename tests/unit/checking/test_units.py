"""Wrong units and signs are seen by the work of the forces, and by a model; ASE's EMT is what is labelled."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT

from rlpath_core.checking.units import Scale, name_of_forces, name_of_work, scale, work_of_forces
from rlpath_core.data import Labelled
from rlpath_core.structure import Structure


def rattled(atoms, n: int = 30, sigma: float = 0.05, wrap: bool = False) -> list[tuple[Structure, float, np.ndarray]]:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(n):
        moved = atoms.copy()
        moved.positions += draw.normal(0, sigma, moved.positions.shape)
        if wrap:
            moved.wrap()
        moved.calc = EMT()
        found.append((Structure.from_ase(moved), moved.get_potential_energy(), moved.get_forces()))
    return found


def in_units(found, energy: float, force: float) -> list[Labelled]:
    return [Labelled(structure, e * energy, f * force) for structure, e, f in found]


SLAB = rattled(fcc111("Cu", (2, 2, 3), vacuum=8.0))
KCAL = units.mol / units.kcal
CASES = {
    "kcal/mol energies": (KCAL, 1.0, "energies in kcal/mol"),
    "gradients": (1.0, -1.0, "gradients"),
    "Hartree and Hartree/Bohr": (1 / units.Hartree, units.Bohr / units.Hartree, "per Bohr beside energies in the same"),
    "eV and eV/Bohr": (1.0, units.Bohr, "per Bohr beside energies in the same"),
    "Hartree energies": (1 / units.Hartree, 1.0, "energies in Hartree"),
    "Hartree/Bohr forces": (1.0, units.Bohr / units.Hartree, "forces in Hartree/Bohr"),
    "kcal/mol/Å forces": (1.0, KCAL, "forces in kcal/mol/Å"),
}


@pytest.mark.parametrize("case", CASES)
def test_units_that_do_not_belong_together(case: str) -> None:
    energy, force, words = CASES[case]
    found = work_of_forces(in_units(SLAB, energy, force))
    assert found is not None
    assert found.suspicious
    assert words in name_of_work(found)


@pytest.mark.parametrize("sigma", [0.002, 0.02, 0.08])
@pytest.mark.parametrize("wrap", [False, True])
def test_right_units_are_not_suspicious(sigma: float, wrap: bool) -> None:
    crystal = rattled(bulk("Cu", cubic=True) * (2, 1, 1), sigma=sigma, wrap=wrap)
    found = work_of_forces(in_units(crystal, 1.0, 1.0))
    assert found is not None
    assert found.conclusive
    assert not found.suspicious
    assert found.ratio == pytest.approx(1.0, abs=0.15)


def test_nothing_is_concluded_from_frames_far_apart_or_alone() -> None:
    assert work_of_forces(in_units(SLAB[:1], 1.0, 1.0)) is None
    apart = [(Structure.from_ase(fcc111("Cu", (1, 1, k), vacuum=8.0)), float(k), np.zeros((k, 3))) for k in (1, 2, 3)]
    assert work_of_forces(in_units(apart, 1.0, 1.0)) is None
    same = in_units([SLAB[0]] * 4, 1.0, 1.0)
    found = work_of_forces(same)
    assert found is None or not found.conclusive


@pytest.mark.parametrize(
    ("factor", "words"),
    [(KCAL, "kcal/mol/Å"), (units.Bohr / units.Hartree, "Hartree/Bohr"), (-1.0, "gradients"), (1000.0, "meV/Å")],
)
def test_forces_beside_those_of_a_model(factor: float, words: str) -> None:
    draw = np.random.default_rng(1)
    model = draw.normal(size=300)
    found = scale(factor * (model + 0.1 * draw.normal(size=300)), model)
    assert found is not None
    assert found.suspicious
    assert words in name_of_forces(found)


def test_a_poor_model_is_no_other_unit() -> None:
    draw = np.random.default_rng(2)
    found = scale(draw.normal(size=300), draw.normal(size=300))
    assert found is not None
    assert not found.suspicious
    assert not Scale(1.3, 0.99, 300).suspicious
