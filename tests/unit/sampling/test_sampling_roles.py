"""Roles in a run: what is said and recorded, the keys ``adsorbate`` and ``normal``, moves on every side of a slab."""

from __future__ import annotations

import json
import logging
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from ase import Atoms
from ase.build import fcc100, fcc111, molecule
from ase.io import write

from rlpath_core.config import check
from rlpath_core.errors import InputError
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.actions import ACTIONS, Move
from rlpath_core.sampling.options import DetachedOptions, SamplingConfig, SiteHopOptions
from rlpath_core.sampling.preflight import check_starts
from rlpath_core.sampling.validators import VALIDATORS, Displacement
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure, read_structures
from rlpath_core.testing.action import ActionSuite
from rlpath_core.testing.emt import EMTModel

CASES = Path(__file__).resolve().parents[2] / "data" / "cases" / "structures"
SMALL = {"steps": 6, "walkers": 2, "quench": {"method": "fire", "steps": 4}}


def two_sided() -> Atoms:
    """Cu(100) with CO above, and another molecule below."""
    slab = fcc100("Cu", (2, 2, 3), vacuum=9)
    z = slab.positions[:, 2]
    slab += Atoms("CO", [[0.3, 0.2, z.max() + 1.9], [0.3, 0.2, z.max() + 3.05]])
    slab += Atoms("CO", [[2.7, 2.6, z.min() - 1.9], [2.7, 2.6, z.min() - 3.05]])
    slab.set_tags(0)
    slab.pbc = True
    return slab


def one_sided(sign: int = 1) -> Atoms:
    atoms = two_sided()
    del atoms[[14, 15] if sign > 0 else [12, 13]]
    return atoms


def written_down(atoms: Atoms, seed: int) -> Structure:
    """Turned, shifted along the normal so that the cell's boundary may cut the slab, c sheared or turned round."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.cell[2] = (atoms.cell[2] + atoms.cell[0]) * rng.choice([-1, 1])
    atoms.positions += rng.uniform(-15, 15, 3)
    atoms.wrap()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Structure(atoms.numbers, atoms.positions @ turn, atoms.cell.array @ turn, atoms.pbc)


def hops(structure: Structure) -> list[Move]:
    suite = ActionSuite()
    suite.tries = 30
    return suite.moves(ACTIONS["site_hop"](SiteHopOptions()), structure, EMTModel(), 3)


def images(structure: Structure) -> np.ndarray:
    return np.array(list(product(range(-3, 4), repeat=3))) @ structure.cell


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make", [two_sided, one_sided, lambda: one_sided(-1)], ids=["both", "above", "below"])
def test_a_hop_ends_above_the_outermost_layer_of_its_own_side(make, seed: int) -> None:
    """The sites are the layer of the builder that faces the molecule, and its foot has nothing but that below it."""
    structure = written_down(make(), seed)
    roles, moves = infer_roles(structure), hops(structure)
    layer = {1: set(range(8, 12)), -1: set(range(4))}
    upper = set(np.flatnonzero(roles.adsorbate)) & {12, 13} if make is two_sided else set()
    sites: dict[int, set[int]] = {1: set(), -1: set()}
    for move in moves:
        atoms = move.parameters["atoms"]
        above = bool(upper & set(atoms)) if make is two_sided else make is one_sided
        sites[1 if above else -1].add(move.parameters["site"])
        vectors = structure.positions[:12, None] + images(structure) - move.positions[atoms[0]]
        nearest = np.linalg.norm(vectors, axis=2).min(axis=1)
        assert nearest.argmin() in layer[1 if above else -1]
        assert nearest.min() >= 2.0 - 1e-9, "nothing of the slab is nearer than the smallest height"
    for sign, found in sites.items():
        assert found <= layer[sign]
    assert len(sites[1]) + len(sites[-1]) >= 4


@pytest.mark.parametrize("seed", range(4))
def test_what_leaves_the_surface_is_detached_on_either_side(seed: int) -> None:
    structure = written_down(two_sided(), seed)
    roles = infer_roles(structure)
    validator = VALIDATORS["detached"](DetachedOptions(max_distance=4.0))
    for molecule_ in ([12, 13], [14, 15]):
        for lift, detached in ((0.5, False), (1.9, False), (2.6, True)):
            positions = structure.positions.copy()
            positions[molecule_] += lift * roles.normals[molecule_]
            moved = structure.moved(positions)
            # by brute force: the slab's nearest atom
            vectors = positions[:12, None] + images(structure) - positions[molecule_[0]]
            assert (np.linalg.norm(vectors, axis=2).min() > 4.0) == detached
            rejection = validator.check(Displacement(structure, moved, roles, "jitter"))
            assert (rejection is not None) == detached


def test_the_run_says_and_records_which_atoms_move(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    structure = written_down(one_sided(-1), 0)
    with caplog.at_level(logging.INFO, "rlpath.sampling"):
        run(structure, **SMALL)
    said = infer_roles(structure).describe()
    assert [r.message for r in caplog.records if "atoms move" in r.message] == [said]
    assert "the adsorbate is CO (atoms 12 13), guessed" in said
    recorded = json.loads((tmp_path / "a" / "run" / "roles.json").read_text())
    assert recorded[0]["described"] == said
    assert recorded[0]["adsorbate"] == [12, 13]
    assert recorded[0]["movable"] == [0, 1, 2, 3, 12, 13]
    assert recorded[0]["normal"] == pytest.approx(infer_roles(structure).normal)
    with Store(tmp_path / "a") as store, store.reading() as session:
        assert session.scalars(sa.select(orm.RunRow)).one().config["roles"] == recorded


def test_structures_with_the_same_roles_are_said_once(run, caplog: pytest.LogCaptureFixture) -> None:
    first = Structure.from_ase(one_sided())
    with caplog.at_level(logging.INFO, "rlpath.sampling"):
        run([first, first.moved(first.positions + 0.01), Structure.from_ase(two_sided())], **SMALL)
    said = [r.message for r in caplog.records if "atoms move" in r.message]
    assert len(said) == 2
    assert said[0].startswith("structures 0 1: ")
    assert said[1].startswith("structure 2: ")
    assert "adsorbates on both sides" in said[1]


def test_the_keys_decide_what_moves(run, tmp_path: Path) -> None:
    """Only the upper molecule is drawn, though there is one below; the lower layers stay."""
    structure = Structure.from_ase(two_sided())
    only = {name: {"weight": 0} for name in ("jitter", "md", "push_pull", "dihedral_twist", "site_hop")}
    run(structure, adsorbate=[12, 13], pipeline={"action_plugins": []}, **SMALL, **only)
    steps = [json.loads(line) for line in (tmp_path / "a" / "run" / "steps.jsonl").read_text().splitlines()]
    drawn = [step["parameters"]["atoms"] for step in steps if "atoms" in step.get("parameters", {})]
    assert drawn
    assert all(atoms == [12, 13] for atoms in drawn)


def test_the_same_adsorbate_is_needed_to_resume(run) -> None:
    structure = Structure.from_ase(one_sided())
    run(structure, adsorbate="CO", **SMALL)
    with pytest.raises(InputError, match="adsorbate"):
        run(structure, adsorbate=[12], resume=True, **SMALL)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"adsorbate": [40]}, r"start\.xyz: adsorbate: 40 is no atom"),
        ({"adsorbate": "NH3"}, r"start\.xyz: adsorbate: no atoms that move are bonded into NH3"),
        ({"normal": "x"}, r"start\.xyz: normal: there is no vacuum along a"),
        ({"normal": "-z"}, r"start\.xyz: normal: CO \(atoms 12 13\) is on the other side"),
    ],
)
def test_keys_that_do_not_fit_are_refused_with_the_file(keys: dict, said: str, tmp_path: Path) -> None:
    write(tmp_path / "start.xyz", one_sided())
    with pytest.raises(InputError, match=said):
        check_starts(read_structures(tmp_path / "start.xyz"), tmp_path / "start.xyz", check(SamplingConfig, keys, "x"))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"adsorbate": False}, 'in quotes, as in "NO"'),
        ({"adsorbate": 1.5}, "adsorbate"),
        ({"normal": "up"}, "normal"),
        ({"normal": [0, 1]}, "normal"),
    ],
)
def test_keys_of_the_wrong_kind_are_refused(keys: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(SamplingConfig, keys, "x.yaml")


def test_tags_that_cannot_be_are_refused() -> None:
    atoms = one_sided()
    atoms.set_tags(2)
    with pytest.raises(InputError, match=r"all atoms have tag 2.*name the adsorbate"):
        check_starts([Structure.from_ase(atoms)])
    check_starts([Structure.from_ase(atoms)], config=check(SamplingConfig, {"adsorbate": "CO"}, "x"))


def test_an_adsorbate_out_of_reach_is_said_or_refused(run, caplog: pytest.LogCaptureFixture) -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=15, periodic=True)
    slab += Atoms("CO", [[0, 0, slab.positions[:, 2].max() + z] for z in (9.0, 10.15)])
    slab.set_tags(0)
    structure = Structure.from_ase(slab)
    with caplog.at_level(logging.WARNING, "rlpath.sampling"):
        run(structure, **SMALL)
    assert any("itself fails detached:off_surface (9, limit 6)" in r.message for r in caplog.records)
    with pytest.raises(InputError, match="put its adsorbate nearer"):
        run(structure, "b", site_hop={"weight": 0}, **SMALL)


def test_the_shared_cases_move_what_they_should(run, tmp_path: Path) -> None:
    """The hydroxyl on two layers moves, and not the layer below; ethanol moves as a whole."""
    ethanol = Structure.from_ase(Atoms(molecule("CH3CH2OH"), cell=[15, 15, 15], pbc=True))
    assert infer_roles(ethanol).movable.all()
    start = read_structures(CASES / "two_layer_builder_tags.traj")[0]
    as_copper = Structure(
        np.where(start.numbers == 12, 29, start.numbers), start.positions * 0.8, start.cell * 0.8, start.pbc, start.tags
    )
    run(as_copper, **SMALL)
    steps = [json.loads(line) for line in (tmp_path / "a" / "run" / "steps.jsonl").read_text().splitlines()]
    assert any(step["accepted"] for step in steps)
