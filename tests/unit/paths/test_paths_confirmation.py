"""Confirmation against ASE's EMT: forces, a curvature from energies alone, and barriers, of a hop known by symmetry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from scipy.optimize import minimize_scalar

from rlpath_core.lockstep.relax import Quenched
from rlpath_core.paths.catalogue import Catalogue, Status
from rlpath_core.paths.catalogue_rows import load_catalogue
from rlpath_core.paths.confirmation import confirm, movable_atoms
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.store import Store, queries, saddles
from rlpath_core.store.check import check
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.steps import begin_run, catalogue_of, save
from rlpath_core.testing.store import enter_labels


def energy(structure: Structure) -> float:
    atoms = structure.to_ase()
    atoms.calc = EMT()
    return float(atoms.get_potential_energy())


def adatom(fraction: float, height: float | None = None) -> Structure:
    """Cu on rigid Cu(100), at a fraction of the way from one hollow to the next: as high as its energy is lowest."""
    atoms = fcc100("Cu", (2, 2, 2), vacuum=7, periodic=True)
    add_adsorbate(atoms, "Cu", 1.7, "hollow")
    atoms.set_constraint(FixAtoms(range(8)))
    atoms.positions[8, 0] += fraction * 3.61 / np.sqrt(2)
    structure = Structure.from_ase(atoms)
    if height is None:
        found = minimize_scalar(lambda z: energy(raised(structure, z)), (0.0, 0.3), options={"xtol": 1e-7})
        height = float(found.x)
    return raised(structure, height)


def raised(structure: Structure, height: float) -> Structure:
    return structure.moved(structure.positions + np.eye(9)[8][:, None] * [0, 0, height])


@pytest.fixture(scope="module")
def hop() -> Verdict:
    """The hop over the bridge, by a model that is 0.1 eV off at the saddle and 0.02 eV at the end."""
    saddle, start, end = adatom(0.5), adatom(0.0), adatom(1.0)
    mode = np.zeros((9, 3))
    mode[8, 0] = 1.0
    sides = (saddle.moved(saddle.positions - 0.05 * mode), saddle.moved(saddle.positions + 0.05 * mode))
    ends = Quenched(start, energy(start), 0.0, True, 3), Quenched(end, energy(end) + 0.02, 0.0, True, 3)
    return Verdict(
        State.CONNECTED,
        saddle,
        energy(saddle) + 0.1,
        0.001,
        curvatures=(-1.0, 1.0),
        mode=mode,
        sides=sides,
        ends=ends,
    )


def with_hop(store: Store, verdict: Verdict, run_id: str = "r1", round_index: int = 1) -> Catalogue:
    assert verdict.ends is not None
    catalogue = catalogue_of(verdict.structure)
    catalogue.add_minimum(verdict.ends[0].structure, verdict.ends[0].energy)
    catalogue.add_saddle(verdict, "B001", "B001")
    begin_run(store, run_id, round_index)
    save(store, run_id, catalogue)
    return catalogue


def label(store: Store, verdict: Verdict, *which: str, **options: str) -> list[str]:
    assert verdict.ends is not None
    assert verdict.sides is not None
    named = {
        "saddle": verdict.structure,
        "minus": verdict.sides[0],
        "plus": verdict.sides[1],
        "start": verdict.ends[0].structure,
        "end": verdict.ends[1].structure,
    }
    stages = {"minus": "mode", "plus": "mode", "start": "end"}
    return [enter_labels(store, [named[one]], EMTModel(), 1, stages.get(one, one), **options)[0] for one in which]


def second_derivative(verdict: Verdict) -> float:
    """Along the hop by energies: an independent way to the curvature, of fourth order."""
    assert verdict.mode is not None
    h = 0.025
    at = [energy(verdict.structure.moved(verdict.structure.positions + k * h * verdict.mode)) for k in range(-2, 3)]
    return float(np.dot([-1, 16, -30, 16, -1], at) / (12 * h**2))


def test_a_true_saddle_is_confirmed(tmp_path: Path, hop: Verdict):
    with Store(tmp_path) as store:
        with_hop(store, hop)
        assert confirm(store, 1) == []
        jobs = label(store, hop, "saddle", "minus", "plus", "start", "end")
        (saddle,) = confirm(store, 1)
        said = saddle.reference
        assert said is not None
        assert (saddle.state, said.confirmed, said.sides) == ("reference_confirmed", True, 2)
        assert said.fmax < 1e-3
        assert said.curvature == pytest.approx(second_derivative(hop), rel=0.02)
        assert said.curvature < -0.5
        start, middle, end = (energy(adatom(fraction)) for fraction in (0.0, 0.5, 1.0))
        assert said.energy == pytest.approx(middle, abs=1e-6)
        assert (said.barrier, said.barrier_back) == pytest.approx((middle - start, middle - end), abs=1e-6)
        assert said.barrier_error == pytest.approx(0.1, abs=1e-6)  # 0.1 from the start, 0.08 from the end
        assert [said.saddle_job, said.minus_job, said.plus_job, said.start_job, said.end_job] == jobs
        before = queries.counts(store)
        assert confirm(store, 1) == [saddle]
        assert queries.counts(store) == before
        figures = saddles.step_figures(store, 1)
        assert (figures.known, figures.confirmed, figures.labels, figures.labels_per_step) == (1, 1, 5, 5.0)
        assert figures.barrier_error == said.barrier_error
        assert load_catalogue(store, *loading(hop)).saddles["TS001"].verdict.state is State.REFERENCE_CONFIRMED
        assert check(store) == []


def loading(verdict: Verdict):
    catalogue = catalogue_of(verdict.structure)
    return catalogue.options, catalogue.roles, catalogue.template


@pytest.mark.parametrize(("side", "sign"), [("minus", -1), ("plus", 1)])
def test_one_side_serves_with_the_saddle_itself(tmp_path: Path, hop: Verdict, side: str, sign: int):
    with Store(tmp_path) as store:
        with_hop(store, hop)
        label(store, hop, "saddle", side, "start")
        (saddle,) = confirm(store, 1)
    said = saddle.reference
    assert said is not None
    assert (said.confirmed, said.sides) == (True, 1)
    moved = hop.structure.moved(hop.structure.positions + 0.05 * sign * hop.mode)
    forces = [prediction.forces[8, 0] for prediction in EMTModel().predict([hop.structure, moved])]
    assert said.curvature == pytest.approx(-(forces[1] - forces[0]) / (0.05 * sign), rel=1e-4)
    # the end has no label, but it is a copy of the start, the minimum of the catalogue
    assert said.barrier_back == said.barrier
    assert said.end_job == said.start_job


def test_what_is_no_saddle_to_the_reference_is_not_confirmed(tmp_path: Path, hop: Verdict):
    moved = hop.structure.positions + 0.2 * hop.mode
    beside = replace(hop, structure=hop.structure.moved(moved))
    with Store(tmp_path) as store:
        with_hop(store, beside)
        label(store, beside, "saddle", "minus", "plus")
        (saddle,) = confirm(store, 1)
        assert saddle.reference is not None
        assert not saddle.reference.confirmed
        assert saddle.state == "connected"
        forces = EMTModel().predict([beside.structure])[0].forces
        assert saddle.reference.fmax == pytest.approx(np.linalg.norm(forces[8]), rel=1e-5)
        assert saddles.step_figures(store, 1).labels_per_step is None
        # with a tolerance above its force it would be
        assert confirm(store, 1, tolerance=0.5)[0].state == "reference_confirmed"


def test_a_minimum_is_not_confirmed(tmp_path: Path, hop: Verdict):
    """No force, but a positive curvature."""
    hollow = adatom(0.0)
    sides = tuple(hollow.moved(hollow.positions + sign * 0.05 * hop.mode) for sign in (-1, 1))
    bottom = replace(hop, structure=hollow, sides=sides)
    with Store(tmp_path) as store:
        with_hop(store, bottom)
        label(store, bottom, "saddle", "minus", "plus")
        (saddle,) = confirm(store, 1)
    assert saddle.reference is not None
    assert saddle.reference.fmax < 1e-3
    assert saddle.reference.curvature > 0.5
    assert not saddle.reference.confirmed


def test_energies_of_two_methods_are_not_compared(tmp_path: Path, hop: Verdict):
    with Store(tmp_path) as store:
        with_hop(store, hop)
        label(store, hop, "saddle", "plus")
        label(store, replace(hop, structure=adatom(0.3)), "minus", "start", engine="tblite")
        (saddle,) = confirm(store, 1)
    assert saddle.reference is not None
    assert (saddle.reference.sides, saddle.reference.minus_job, saddle.reference.barrier) == (1, None, None)


def test_steps_confirmed_once_count_for_all_rounds(tmp_path: Path, hop: Verdict):
    with Store(tmp_path) as store:
        with_hop(store, hop)
        label(store, hop, "saddle", "minus", "plus", "start", "end")
        confirm(store, 1)
        catalogue = load_catalogue(store, *loading(hop))
        catalogue.saddles["TS001"].verdict = replace(hop, structure=adatom(0.45), energy=hop.energy - 0.01)
        begin_run(store, "r2", 2)
        save(store, "r2", catalogue)
        assert confirm(store, 2) == []
        assert (saddles.step_figures(store, 2).known, saddles.step_figures(store, 2).confirmed) == (1, 1)
        catalogue.saddles["TS001"].status = Status.VANISHED
        save(store, "r2", catalogue)
        assert (saddles.step_figures(store, 2).known, saddles.step_figures(store, 2).confirmed) == (0, 1)
        assert [step.run_id for step in saddles.confirmed_steps(store)] == ["r1"]
        assert saddles.confirmed_steps(store, up_to=0) == []
        story = saddles.saddle_story(store, "TS001")
    assert story is not None
    assert [model.state for model in story.models] == ["reference_confirmed", "connected"]


def test_atoms_that_move_are_seen_where_none_is_fixed(hop: Verdict):
    assert hop.sides is not None
    loose = [replace(one, fixed=np.zeros(9, bool)) for one in (hop.structure, *hop.sides)]
    np.testing.assert_array_equal(movable_atoms(loose), movable_atoms([hop.structure]))
