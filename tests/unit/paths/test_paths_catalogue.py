"""Identity of minima and saddles: against copies made one by one, by every operation of the slab and by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.paths.catalogue import Catalogue, Status
from rlpath_core.paths.identity import Copies, StationaryPoints, same_structure
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure
from rlpath_core.testing.steps import catalogue_of, lifted, verdict_of, water_on_copper
from rlpath_core.testing.systems import cluster, free_molecule, oxide


def operations_of_the_square(structure: Structure) -> list[tuple[np.ndarray, np.ndarray]]:
    """The eight turns and mirrors of Cu(100) times its nine translations, written down by hand, about a fixed atom."""
    side = structure.cell[0, 0] / 3
    turns = [np.diag([sx, sy, 1.0]) @ swap for sx, sy in product((1, -1), repeat=2) for swap in (np.eye(3), SWAP)]
    centre = structure.positions[0] * [1, 1, 0]
    return [(turn, centre - turn @ centre + side * np.array([i, j, 0])) for turn in turns for i, j in np.ndindex(3, 3)]


SWAP = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])


def copies_of(structure: Structure, rng: np.random.Generator) -> list[Structure]:
    """Images of the movable atoms under every operation, shifted by lattice vectors, like ones exchanged."""
    movable = ~structure.fixed
    out = []
    for rotation, shift in operations_of_the_square(structure):
        positions = structure.positions.copy()
        image = positions[movable] @ rotation.T + shift
        image += rng.integers(-1, 2, (len(image), 2)) @ structure.cell[:2]
        numbers = structure.numbers[movable]
        for element in np.unique(numbers):
            rows = np.flatnonzero(numbers == element)
            image[rows] = image[rng.permutation(rows)]
        positions[movable] = image
        out.append(structure.moved(positions))
    return out


def test_every_symmetry_copy_is_one_minimum():
    structure = water_on_copper()
    catalogue = catalogue_of(structure)
    assert catalogue.add_minimum(structure, -1.0) == "B001"
    copies = copies_of(structure, np.random.default_rng(0))
    assert len(copies) == 72
    for copy in copies:
        assert catalogue.enter_minimum(copy, -1.0) == ("B001", False)
    assert catalogue.minima["B001"].found == 73


def test_an_operation_that_the_slab_has_not_makes_another_minimum():
    """Turned by 45 degrees, or moved by half a lattice vector of the surface: alike in itself, but not on this slab."""
    structure = water_on_copper()
    catalogue = catalogue_of(structure, energy_window=10.0, tolerance=10.0)
    catalogue.add_minimum(structure, -1.0)
    movable = ~structure.fixed
    half = structure.positions + 0.5 * structure.cell[0] / 3 * movable[:, None]
    assert catalogue.minimum_of(structure.moved(half), -1.0) is None
    turned = structure.positions.copy()
    centre = turned[18]
    angle = np.pi / 4
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned[18:] = (turned[18:] - centre) @ rotation.T + centre
    assert catalogue.minimum_of(structure.moved(turned), -1.0) is None


def test_mirror_images_are_one_only_where_the_slab_has_a_mirror():
    structure = water_on_copper()
    mirrored = structure.positions * [-1, 1, 1] + [2 * structure.positions[0, 0], 0, 0]
    image = structure.moved(np.where(structure.fixed[:, None], structure.positions, mirrored))
    assert Copies(structure, ~structure.fixed).are(structure, image)
    # a fixed atom off every mirror plane leaves the slab its identity alone
    bent = structure.positions.copy()
    bent[3] += [0.31, 0.17, 0.0]
    chiral = structure.moved(bent)
    mirrored = np.where(structure.fixed[:, None], bent, mirrored)
    assert not Copies(chiral, ~structure.fixed).are(chiral, chiral.moved(mirrored))


def test_the_two_hollows_of_a_close_packed_face_are_two_minima():
    """Copper on Cu(111): 0.03 Å apart by distances, 1 meV by EMT, and 1.5 Å by the atoms."""
    found = []
    for site in ("fcc", "hcp"):
        atoms = fcc111("Cu", (3, 3, 4), vacuum=8)
        add_adsorbate(atoms, "Cu", 1.9, site)
        atoms.pbc = True
        atoms.set_constraint(FixAtoms([k for k, tag in enumerate(atoms.get_tags()) if tag > 2]))
        found.append(Structure.from_ase(atoms))
    catalogue = catalogue_of(found[0])
    assert [catalogue.enter_minimum(one, 12.0 + 0.001 * k)[0] for k, one in enumerate(found)] == ["B001", "B002"]
    # the nearest by distances is not the only one that is looked at
    assert [catalogue.minimum_of(one, 12.0) for one in found] == ["B001", "B002"]


@pytest.mark.parametrize("build", [cluster, free_molecule])
def test_without_a_lattice_turned_and_mirrored_copies_are_one(build):
    structure = build()
    rng = np.random.default_rng(3)
    structure = structure.moved(structure.positions + rng.normal(0, 0.1, structure.positions.shape))
    catalogue = catalogue_of(structure)
    catalogue.add_minimum(structure, 0.0)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    for turn in (rotation, -rotation):
        turned = structure.positions @ turn + [1.0, 2.0, 3.0]
        for element in np.unique(structure.numbers):
            rows = np.flatnonzero(structure.numbers == element)
            turned[rows] = turned[rng.permutation(rows)]
        assert catalogue.minimum_of(structure.moved(turned), 0.0) == "B001"


def test_energies_outside_the_window_are_other_points():
    structure = oxide()
    catalogue = catalogue_of(structure)
    catalogue.add_minimum(structure, 0.0)
    catalogue.add_saddle(verdict_of(structure, 0.5), "B001", "B001")
    assert catalogue.minimum_of(structure, 0.09) == "B001"
    assert catalogue.minimum_of(structure, 0.11) is None
    assert catalogue.saddle_of(structure, 0.519, ("B001", "B001")) == "TS001"
    assert catalogue.saddle_of(structure, 0.521, ("B001", "B001")) is None


def test_a_saddle_is_known_by_its_ends_too():
    structure = water_on_copper()
    catalogue = catalogue_of(structure)
    for k in range(3):
        assert catalogue.enter_minimum(lifted(structure, 0.8 * k), 0.2 * k) == (f"B00{k + 1}", True)
    assert catalogue.add_saddle(verdict_of(structure, 1.0), "B001", "B002") == "TS001"
    assert catalogue.saddle_of(structure, 1.0, ("B002", "B001")) == "TS001"
    assert catalogue.saddle_of(structure, 1.0, ("B001", "B003")) is None
    assert catalogue.add_saddle(verdict_of(structure, 1.0), "B003", "B001") == "TS002"
    for copy in copies_of(structure, np.random.default_rng(1))[::7]:
        assert catalogue.saddle_of(copy, 1.001, ("B001", "B002")) == "TS001"
        assert catalogue.saddle_of(copy, 1.001, ("B001", "B003")) == "TS002"


def test_the_landscape_and_the_network_are_what_the_model_has():
    structure = water_on_copper()
    catalogue = catalogue_of(structure)
    catalogue.add_minimum(structure, 0.0)
    catalogue.add_minimum(lifted(structure, 0.9), 0.1)
    catalogue.add_saddle(verdict_of(structure, 0.4), "B001", "B002", degeneracy=2)
    catalogue.add_saddle(verdict_of(structure, 0.6), "B001", "B002")
    catalogue.join("B002", "B001")
    catalogue.join("B001", "B002")
    catalogue.saddles["TS002"].status = Status.VANISHED
    landscape, network = catalogue.landscape(), catalogue.network("emt")
    assert [minimum.name for minimum in landscape.minima] == ["B001", "B002"]
    assert [(saddle.name, saddle.start, saddle.end) for saddle in landscape.saddles] == [("TS001", "B001", "B002")]
    assert landscape.pairs == {("B001", "B002"): 2}
    assert [(saddle.name, saddle.degeneracy, saddle.state) for saddle in network.saddles] == [("TS001", 2, "connected")]


def test_names_are_never_given_twice():
    structure = water_on_copper()
    first = catalogue_of(structure)
    first.add_minimum(structure, 0.0)
    first.minima["B001"].status, first.minima["B001"].merged_into = Status.MERGED, "B007"
    again = Catalogue(first.options, first.roles, structure, first.minima.values(), taken=(0, 7))
    assert again.minimum_of(structure, 0.0) is None
    assert again.add_minimum(structure, 0.0) == "B002"
    assert again.add_saddle(verdict_of(structure, 1.0), "B002", "B002") == "TS008"


def test_what_had_vanished_gets_its_name_back():
    structure = water_on_copper()
    first = catalogue_of(structure)
    for k in range(2):
        first.add_minimum(lifted(structure, 0.8 * k), 0.0)
        first.add_saddle(verdict_of(lifted(structure, 2.0 + 0.5 * k), 0.5), "B001", "B001")
    first.minima["B002"].status = Status.VANISHED
    for saddle in first.saddles.values():
        saddle.status = Status.VANISHED
    again = Catalogue(first.options, first.roles, structure, first.minima.values(), first.saddles.values())
    copy = copies_of(lifted(structure, 0.8), np.random.default_rng(0))[40]
    # the energy is another model's
    assert again.minimum_of(copy, -70.0) is None
    assert again.add_minimum(copy, -70.0) == "B002"
    assert again.minimum_of(lifted(structure, 0.8), -70.0) == "B002"
    assert (again.minima["B002"].found, again.minima["B002"].energy) == (2, -70.0)
    assert again.add_saddle(verdict_of(lifted(structure, 2.5), -69.0), "B001", "B002") == "TS003"
    assert again.add_saddle(verdict_of(lifted(structure, 2.5), -69.0), "B001", "B001") == "TS002"
    assert [saddle.name for saddle in again.present_saddles] == ["TS002", "TS003"]
    assert again.new == {"TS003"}


def test_points_that_are_in_are_found_whatever_else_is():
    """Against every pair: what the index finds is what a comparison of all with all finds."""
    rng = np.random.default_rng(2)
    base = water_on_copper()
    movable = ~base.fixed
    known = [
        base.moved(base.positions + movable[:, None] * rng.normal(0, 0.12, base.positions.shape)) for _ in range(6)
    ]
    index = StationaryPoints(BasinOptions(), base, infer_roles(base))
    for number, one in enumerate(known):
        index.add(number, one, 0.0)
    for number, one in enumerate(known):
        for copy in copies_of(one, rng)[::23]:
            found = index.find(copy, 0.0)
            same = [k for k, other in enumerate(known) if brute_force_copy(one, other)]
            assert found in same
            assert number in same


def brute_force_copy(a: Structure, b: Structure) -> bool:
    """Whether some operation brings each atom within 0.3 Å of one of its kind, nearest images in the square."""
    movable = ~a.fixed
    sides = np.array([a.cell[0, 0], a.cell[1, 1], np.inf])
    for rotation, shift in operations_of_the_square(a):
        image = a.positions[movable] @ rotation.T + shift
        vectors = image[:, None] - b.positions[movable]
        distances = np.linalg.norm(vectors - np.round(vectors / sides) * np.where(sides < np.inf, sides, 0), axis=2)
        distances[a.numbers[movable][:, None] != b.numbers[movable]] = np.inf
        if distances.min(axis=1).max() <= 0.3 and len(set(distances.argmin(axis=1))) == movable.sum():
            return True
    return False


def test_the_same_structure_is_no_mere_copy():
    structure = water_on_copper()
    movable = ~structure.fixed
    shifted = structure.positions + movable[:, None] * structure.cell[1]
    assert same_structure(structure, structure.moved(shifted), movable)
    swapped = structure.positions.copy()
    swapped[[19, 20]] = swapped[[20, 19]]
    assert not same_structure(structure, structure.moved(swapped), movable)
    for copy in copies_of(structure, np.random.default_rng(0))[1:]:
        assert not same_structure(structure, copy, movable)
    moved = structure.positions.copy()
    moved[-1, 2] += 0.29
    assert same_structure(structure, structure.moved(moved), movable)
    moved[-1, 2] += 0.02
    assert not same_structure(structure, structure.moved(moved), movable)


def test_the_same_molecule_may_have_turned_but_not_been_mirrored():
    structure = free_molecule()
    structure = structure.moved(
        structure.positions + np.random.default_rng(0).normal(0, 0.3, structure.positions.shape)
    )
    movable = np.ones(len(structure), bool)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    assert same_structure(structure, structure.moved(structure.positions @ rotation + 4.0), movable)
    assert not same_structure(structure, structure.moved(structure.positions @ -rotation), movable)


def test_a_free_slab_may_have_shifted():
    slab = Structure.from_ase(fcc111("Cu", (2, 2, 3), vacuum=6, periodic=True))
    movable = np.ones(len(slab), bool)
    shifted = slab.moved(slab.positions + [1.7, 0.4, -0.3])
    assert same_structure(slab, shifted, movable)
    assert Copies(slab, movable).are(slab, shifted)
    bent = slab.positions.copy()
    bent[0] += [0.0, 0.0, 0.7]
    assert not Copies(slab, movable).are(slab, slab.moved(bent))
