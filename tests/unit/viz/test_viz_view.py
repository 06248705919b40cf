"""What is drawn where: periodic images, bonds across the border, the cell, the camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.data import covalent_radii
from ase.geometry import get_distances

from rlpath_core.structure import Structure, read_structure, read_structures
from rlpath_core.testing.systems import SYSTEMS
from rlpath_core.viz.bonds import drawn_bonds
from rlpath_core.viz.options import Look
from rlpath_core.viz.scene import pictures
from rlpath_core.viz.trajectory import Shot
from rlpath_core.viz.view import Placement


def pushed(structure: Structure, seed: int) -> Structure:
    """The same, moved as a whole by a random vector, every atom at a random periodic image."""
    rng = np.random.default_rng(seed)
    images = rng.integers(-2, 3, (len(structure), 3)) * structure.pbc
    return structure.moved(structure.positions + rng.normal(size=3) * 4 + images @ structure.cell)


@pytest.mark.parametrize("name", SYSTEMS)
def test_only_periodic_images_are_chosen(name: str) -> None:
    structure = pushed(SYSTEMS[name](), 1)
    placed = Placement(structure).place(structure)
    moved = placed.positions - structure.positions
    if not structure.pbc.any():
        assert np.allclose(moved, 0)
        return
    periodic = structure.cell[structure.pbc]
    steps = np.linalg.lstsq(periodic.T, moved.T, rcond=None)[0]
    assert np.allclose(steps, np.round(steps), atol=1e-6)
    assert np.allclose(np.round(steps).T @ periodic, moved, atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("seed", [1, 2])
def test_pictures_do_not_depend_on_the_images_that_came_in(name: str, seed: int) -> None:
    """Sticks too: as many, and none longer than half a bond, wherever the cell's border cuts."""
    structure = SYSTEMS[name]()
    scenes = [pictures([Shot(s)], Look(), 400, 300)[0].scene for s in (structure, pushed(structure, seed))]
    lengths = []
    for scene in scenes:
        sticks = np.array(scene["sticks"]).reshape(-1, 2, 3)
        lengths.append(np.sort(np.linalg.norm(sticks[:, 1] - sticks[:, 0], axis=1)))
    assert len(lengths[0]) == len(lengths[1])
    assert np.allclose(lengths[0], lengths[1], atol=2e-4)
    assert lengths[0].max() <= 0.5 * 1.25 * 2 * covalent_radii[structure.numbers].max()
    assert scenes[0]["half_height"] == pytest.approx(scenes[1]["half_height"], abs=1.0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_everything_lies_within_the_picture(name: str) -> None:
    structure = SYSTEMS[name]()
    scene = pictures([Shot(structure)], Look(), 400, 300)[0].scene
    right, up, towards = (np.array(scene[key]) for key in ("right", "up", "towards"))
    assert np.allclose(np.array([right, up, towards]) @ np.array([right, up, towards]).T, np.eye(3), atol=1e-3)
    assert np.linalg.det([right, up, towards]) > 0
    points = np.array([*scene["positions"], *np.array(scene["lines"]).reshape(-1, 3)]) - scene["centre"]
    wide = np.array([*scene["radii"], *np.zeros(2 * len(scene["lines"]))])
    assert (np.abs(points @ up) + wide <= scene["half_height"]).all()
    assert (np.abs(points @ right) + wide <= scene["half_height"] * 400 / 300).all()
    # and fills it in one direction at least
    share = (np.abs(points @ up) + wide).max() / scene["half_height"]
    assert max(share, (np.abs(points @ right) + wide).max() / scene["half_height"] * 3 / 4) > 0.6


@pytest.mark.parametrize("name", ["orthogonal", "triclinic", "no_fixed", "thin"])
def test_the_camera_looks_down_on_the_adsorbate(name: str) -> None:
    structure = SYSTEMS[name]()
    normal = Placement(structure).normal
    assert normal is not None
    assert normal @ structure.cell[2] > 0
    placement = Placement(structure)
    placed = placement.place(structure)
    view = placement.view([placed], 0.6)
    assert view.towards @ normal == pytest.approx(np.sin(np.radians(32)), abs=1e-6)
    assert view.up @ normal > 0.8
    # an edge of the cell joins the base to the side where the adsorbate is
    height = placed.positions @ normal
    assert (view.lines @ normal).min() < height.min()


def test_the_adsorbate_may_sit_below() -> None:
    upright = SYSTEMS["orthogonal"]()
    mirror = upright.positions * [1, 1, -1] + [0, 0, upright.cell[2, 2]]
    normal = Placement(upright.moved(mirror)).normal
    assert normal is not None
    assert np.allclose(normal, [0, 0, -1])


def test_a_slab_cut_by_the_cell_is_drawn_in_one_piece() -> None:
    structure = SYSTEMS["orthogonal"]()
    shifted = structure.moved(structure.positions - [0, 0, structure.positions[:, 2].mean()])
    wrapped = shifted.moved(shifted.positions % np.diag(structure.cell))
    assert np.ptp(wrapped.positions[:, 2]) > 0.8 * structure.cell[2, 2]
    placed = Placement(wrapped).place(wrapped)
    assert np.ptp(placed.positions[:, 2]) == pytest.approx(np.ptp(structure.positions[:, 2]), abs=1e-6)


def test_a_molecule_on_the_border_stays_whole() -> None:
    structure = SYSTEMS["orthogonal"]()
    loose = structure.tags == 2
    for shift in np.linspace(0, 1, 7):
        positions = structure.positions.copy()
        positions[loose] += shift * (structure.cell[0] + structure.cell[1])
        moved = structure.moved(positions % np.diag(structure.cell))
        # placed in a film that began elsewhere
        placed = Placement(structure).place(moved).positions[loose]
        plain = get_distances(placed)[1]
        nearest = get_distances(placed, cell=structure.cell, pbc=structure.pbc)[1]
        assert np.allclose(plain, nearest)


def test_no_atom_jumps_between_frames() -> None:
    """Atoms that wobble about the border of the cell stay on their side of it."""
    structure = SYSTEMS["triclinic"]()
    placement = Placement(structure)
    first = placement.place(structure).positions
    rng = np.random.default_rng(3)
    for _ in range(5):
        images = rng.integers(-2, 3, (len(structure), 3)) @ structure.cell
        wobbled = structure.positions + rng.normal(scale=0.05, size=images.shape) + images
        assert np.abs(placement.place(structure.moved(wobbled)).positions - first).max() < 0.4


def test_bonds_are_those_that_a_chemist_draws() -> None:

    start = read_structure(Path(__file__).resolve().parents[3] / "models" / "starter" / "data" / "start.xyz")
    bonds = drawn_bonds(start)
    pairs = np.sort(np.stack([start.numbers[bonds.i], start.numbers[bonds.j]]), axis=0)
    assert set(map(tuple, pairs.T.tolist())) <= {(1, 8), (8, 12), (8, 8)}
    copper = Structure.from_ase(bulk("Cu", cubic=True) * (2, 2, 2))
    assert np.bincount(drawn_bonds(copper).i).tolist() == [12] * len(copper)


def test_colours() -> None:
    structure = SYSTEMS["orthogonal"]()
    forces = np.zeros((len(structure), 3))
    forces[-1] = 1.7
    by = {c: pictures([Shot(structure, forces)], Look(colour=c), 400, 300)[0] for c in ("element", "tag", "force")}
    for picture in by.values():
        assert np.shape(picture.scene["colours"]) == (len(structure), 3)
    kinds = {tuple(c) for c in np.array(by["tag"].scene["colours"])[~structure.fixed]}
    assert len(kinds) == len(np.unique(structure.tags[~structure.fixed]))
    assert by["force"].bar == 3.0
    element = np.array(by["element"].scene["colours"])
    fixed, free = element[structure.fixed], element[~structure.fixed & (structure.numbers == structure.numbers[0])]
    assert not np.allclose(fixed[0], free[0])
    assert [name for name, _ in by["element"].legend][-1] == "fixed: darker"


def test_the_legend_names_tags_only_where_they_mean_that() -> None:
    def legend(structure: Structure) -> list[str]:
        picture = pictures([Shot(structure, np.zeros((len(structure), 3)))], Look(colour="tag"), 400, 300)[0]
        return [name for name, _ in picture.legend if not name.startswith("fixed")]

    assert legend(SYSTEMS["orthogonal"]()) == ["slab", "surface", "adsorbate"]
    assert legend(SYSTEMS["thin"]()) == [f"tag {k}" for k in range(5)], "ASE's numbers of layers"
    two_layers = Path(__file__).resolve().parents[2] / "data" / "cases" / "structures" / "two_layer_builder_tags.traj"
    assert legend(read_structures(two_layers)[0]) == ["tag 0", "tag 1", "tag 2"]
