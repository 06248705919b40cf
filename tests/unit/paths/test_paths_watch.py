"""Hard limits inside a search."""

from __future__ import annotations

import numpy as np
import pytest
from ase.data import covalent_radii

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.paths.options import LimitsOptions
from rlpath_core.paths.searches import SearchEnded
from rlpath_core.paths.watch import Watch
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import free_molecule


def at(energy: float, structure: Structure) -> Prediction:
    return Prediction(energy, np.zeros((len(structure), 3)))


def shifted(structure: Structure, atoms: list[int], by: list[float]) -> Structure:
    positions = structure.positions.copy()
    positions[atoms] += by
    return structure.moved(positions)


def test_nothing_is_wrong_with_the_start_of_any_system(system: Structure):
    Watch(infer_roles(system), system, -3.0, LimitsOptions())(system, at(-3.0, system))


@pytest.mark.parametrize(
    ("energy", "reason", "figure", "limit"),
    [(5.5, "energy:too_high", 8.5, 8.0), (-15.5, "energy:too_low", 12.5, 12.0)],
)
def test_energies_are_measured_from_the_start(copper: Structure, energy, reason, figure, limit):
    watch = Watch(infer_roles(copper), copper, -3.0, LimitsOptions())
    with pytest.raises(SearchEnded, match=reason) as ended:
        watch(copper, at(energy, copper))
    assert (ended.value.figure, ended.value.limit) == pytest.approx((figure, limit))
    Watch(infer_roles(copper), copper, -3.0, LimitsOptions(max_energy=None, max_drop=None))(copper, at(energy, copper))


def test_two_atoms_that_come_too_near(copper: Structure):
    """The pair of C and O, pressed together until 0.7 times the sum of their covalent radii is passed."""
    c, o = len(copper) - 2, len(copper) - 1
    assert copper.numbers[[c, o]].tolist() in ([6, 8], [8, 6])
    watch = Watch(infer_roles(copper), copper, 0.0, LimitsOptions())
    limit = 0.7 * (covalent_radii[6] + covalent_radii[8])
    axis = copper.positions[o] - copper.positions[c]
    length = np.linalg.norm(axis)
    watch(shifted(copper, [o], list(axis / length * (limit + 1e-3 - length))), at(0.0, copper))
    with pytest.raises(SearchEnded, match="min_dist:too_near") as ended:
        watch(shifted(copper, [o], list(axis / length * (limit - 1e-3 - length))), at(0.0, copper))
    assert (ended.value.figure, ended.value.limit) == pytest.approx((limit - 1e-3, limit))


def test_atoms_that_are_too_near_in_the_start_may_stay_so_but_not_fuse(copper: Structure):
    c, o = len(copper) - 2, len(copper) - 1
    axis = copper.positions[o] - copper.positions[c]
    length = np.linalg.norm(axis)
    start = shifted(copper, [o], list(axis / length * (0.9 - length)))
    watch = Watch(infer_roles(copper), start, 0.0, LimitsOptions())
    watch(start, at(0.0, start))
    watch(shifted(start, [o], list(axis / length * -0.1)), at(0.0, start))
    with pytest.raises(SearchEnded, match="min_dist"):
        watch(shifted(start, [o], list(axis / length * -0.3)), at(0.0, start))


def test_held_atoms_do_not_count():
    """Two held atoms on one place, and a movable one far from both."""
    start = Structure([29, 29, 29], [[0, 0, 0], [0, 0, 0.1], [0, 0, 3.0]], fixed=[True, True, False])
    Watch(infer_roles(start), start, 0.0, LimitsOptions())(start, at(0.0, start))


def test_a_molecule_that_leaves_the_surface(copper: Structure):
    roles = infer_roles(copper)
    molecule = [len(copper) - 2, len(copper) - 1]
    watch = Watch(roles, copper, 0.0, LimitsOptions())
    watch(shifted(copper, molecule, [0, 0, 1.5]), at(0.0, copper))
    with pytest.raises(SearchEnded, match="detached:off_surface") as ended:
        watch(shifted(copper, molecule, [0, 0, 3.0]), at(0.0, copper))
    assert ended.value.figure > ended.value.limit == 4.0
    Watch(roles, copper, 0.0, LimitsOptions(max_distance=None))(shifted(copper, molecule, [0, 0, 5.0]), at(0, copper))


def test_a_free_molecule_cannot_leave():
    molecule = free_molecule()
    Watch(infer_roles(molecule), molecule, 0.0, LimitsOptions())(shifted(molecule, [8], [0, 0, 9.0]), at(0.0, molecule))
