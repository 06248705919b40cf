"""Names stay when the model changes: hops of copper on Cu(111) by EMT, and by EMT that likes one hollow better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.lockstep.relax import quench
from rlpath_core.paths.catalogue import Catalogue, Status
from rlpath_core.paths.catalogue_rows import load_catalogue
from rlpath_core.paths.confirmation import confirm
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.renewal import Change, Renewal, renew, renewing_search, told, turned_round
from rlpath_core.paths.run import find_paths
from rlpath_core.paths.search_run import rounded_verdict
from rlpath_core.paths.searches import SEARCHES, Guess, Surface
from rlpath_core.paths.verdict import State
from rlpath_core.paths.verification import verify
from rlpath_core.store import Store, queries, saddles
from rlpath_core.store.check import check
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.steps import begin_run, catalogue_of, save
from rlpath_core.testing.store import enter_labels

CONFIG = PathsConfig(searches={"dimer": {}})
SIDE = 3.61 / np.sqrt(2)
WAVES = 4 * np.pi / (np.sqrt(3) * SIDE) * np.array([[np.cos(t), np.sin(t)] for t in np.pi / 2 + np.arange(3) * 2.0944])
ADATOM = np.eye(9)[8][:, None]


def copper(site: str, off: Sequence[float] = (0.0, 0.0, 0.0)) -> Structure:
    """An atom on two rigid layers of Cu(111)."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=7, periodic=True)
    add_adsorbate(atoms, "Cu", 1.8, site)
    atoms.set_constraint(FixAtoms(range(8)))
    structure = Structure.from_ase(atoms)
    return structure.moved(structure.positions + ADATOM * off)


class TiltedEMT(EMTModel):
    """EMT plus ``tilt`` times three sines of the surface's lattice: fcc hollows 2.6 tilt higher, hcp as much lower.

    On tops and bridges they are zero, so that the symmetry of the surface stays.
    """

    def __init__(self, tilt: float) -> None:
        super().__init__()
        self.tilt, self.digest = tilt, f"{round(1e6 * (1 + tilt)):064d}"

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        out = []
        for structure, emt in zip(structures, super().predict(structures), strict=True):
            phases = WAVES @ (structure.positions[8] - structure.positions[4])[:2]
            assert emt.forces is not None
            more = np.zeros((9, 3))
            more[8, :2] = -self.tilt * np.cos(phases) @ WAVES
            out.append(Prediction(emt.energy + self.tilt * float(np.sin(phases).sum()), emt.forces + more))
        return out


def found_by(model: TiltedEMT) -> Catalogue:
    """Both hollows and the bridge between them, each searched for from near it."""
    catalogue = catalogue_of(copper("fcc"))
    catalogue.model_sha256 = model.digest
    movable = catalogue.roles.movable
    search = SEARCHES["dimer"](SEARCHES["dimer"].Options())

    def walk(evaluate: Evaluator) -> None:
        for site in ("fcc", "hcp"):
            start = copper(site, [0.02, 0.05, 0.0])
            end = quench(start, movable, evaluate(start), evaluate, CONFIG.verify.quench)
            catalogue.add_minimum(end.structure, end.energy, end.fmax)
        surface = Surface(evaluate, movable, catalogue.roles, np.random.default_rng(0))
        verdict = verify(search.run(Guess(copper("bridge", [0.05, 0.05, 0.0])), surface), surface, CONFIG.verify)
        assert verdict.state is State.CONNECTED
        assert verdict.ends is not None
        start_name, end_name = (catalogue.minimum_of(end.structure, end.energy) for end in verdict.ends)
        assert {start_name, end_name} == {"B001", "B002"}
        if start_name == "B002":
            verdict = turned_round(verdict)
        catalogue.add_saddle(rounded_verdict(verdict), "B001", "B002")

    Hub(model).run([walk])
    catalogue.saddles["TS001"].found = 3
    return catalogue


@pytest.fixture(scope="module")
def before() -> Catalogue:
    return found_by(TiltedEMT(0.0))


def renewed(catalogue: Catalogue, tilt: float, seed: int = 1) -> tuple[Catalogue, dict[str, Change]]:
    search = renewing_search({name: SEARCHES[name](SEARCHES[name].Options()) for name in ("band", "dimer")})
    assert type(search) is SEARCHES["dimer"]
    new, changes, sides = renew(catalogue, Hub(TiltedEMT(tilt)), search, CONFIG, seed)
    assert [change.name for change in changes] == [*catalogue.minima, *catalogue.saddles]
    for saddle in new.present_saddles:
        assert len(sides[saddle.name]) == 2
    return new, {change.name: change for change in changes}


@pytest.mark.parametrize("tilt", [0.01, -0.03])
def test_names_stay_and_figures_are_the_new_models(before: Catalogue, tilt: float):
    model = TiltedEMT(tilt)
    new, changes = renewed(before, tilt)
    fresh = found_by(model)  # the same, searched for by the new model from the beginning
    assert new.model_sha256 == model.digest
    assert list(new.minima) == ["B001", "B002"]
    assert list(new.saddles) == ["TS001"]
    for name, minimum in new.minima.items():
        assert minimum.status is Status.PRESENT
        assert minimum.energy == pytest.approx(fresh.minima[name].energy, abs=1e-4)
        assert minimum.frequencies is not None
        assert (minimum.frequencies > 50).all()
    saddle, other = new.saddles["TS001"], fresh.saddles["TS001"]
    assert (saddle.start, saddle.end, saddle.status, saddle.found) == ("B001", "B002", Status.PRESENT, 3)
    assert saddle.verdict.state is State.RATE_READY
    assert saddle.verdict.energy == pytest.approx(other.verdict.energy, abs=1e-4)
    assert (saddle.degeneracy, saddle.degeneracy_back) == (3, 3)
    again = model.predict([saddle.verdict.structure])[0]
    assert np.linalg.norm(again.forces[8]) < 0.011
    assert changes["TS001"].moved == pytest.approx(
        float(np.linalg.norm(saddle.verdict.structure.positions - before.saddles["TS001"].verdict.structure.positions))
    )
    assert 0.02 < changes["TS001"].moved < 0.5
    assert (saddle.verdict.mode * before.saddles["TS001"].verdict.mode).sum() > 0.9
    # the catalogue before is as it was
    assert before.saddles["TS001"].frequencies is None
    assert before.minima["B001"].status is Status.PRESENT


def test_a_minimum_that_slides_into_another_is_merged_and_may_come_back(before: Catalogue):
    """With a strong tilt the fcc hollow is a hill, although no force acts on its very top."""
    top = TiltedEMT(0.15).predict([before.minima["B001"].structure])[0]
    assert np.linalg.norm(top.forces[8]) < 0.05
    new, changes = renewed(before, 0.15)
    assert (new.minima["B001"].status, new.minima["B001"].merged_into) == (Status.MERGED, "B002")
    assert (new.minima["B002"].status, new.minima["B002"].found) == (Status.PRESENT, 2)
    assert new.saddles["TS001"].status is Status.VANISHED
    assert new.saddles["TS001"].reason == changes["TS001"].reason
    assert not new.landscape().saddles
    assert not new.network().saddles
    np.testing.assert_array_equal(
        new.minima["B001"].structure.positions, before.minima["B001"].structure.positions
    )  # where it was last
    line = told(list(changes.values()))
    assert "1 of 2 minima stay" in line
    assert "B001 became B002" in line
    assert "TS001 vanished (" in line
    third, _ = renewed(new, 0.01)
    assert [minimum.status for minimum in third.minima.values()] == [Status.PRESENT] * 2
    assert third.saddles["TS001"].status is Status.PRESENT
    assert third.saddles["TS001"].reason is None
    assert list(third.minima) == ["B001", "B002"]
    assert not third.new


def test_the_well_that_stays_keeps_its_name_whichever_was_first(before: Catalogue):
    """The other way round: now hcp, the second one, slides into fcc."""
    new, _ = renewed(before, -0.15)
    assert (new.minima["B002"].status, new.minima["B002"].merged_into) == (Status.MERGED, "B001")
    assert new.minima["B001"].status is Status.PRESENT


def test_two_names_that_become_one_point(before: Catalogue):
    """A copy of the saddle under a second name, as two models may have had two: the nearer keeps its name."""
    verdict = before.saddles["TS001"].verdict
    away = replace(verdict, structure=copper("bridge", [0.15, 0.1, -0.05]), energy=verdict.energy + 0.1)
    twice = Catalogue(
        before.options, before.roles, before.template, before.minima.values(), before.saddles.values(), (0, 4)
    )
    assert twice.add_saddle(away, "B001", "B002") == "TS005"
    new, changes = renewed(twice, 0.0)
    assert (changes["TS001"].status, changes["TS005"].status) == (Status.PRESENT, Status.MERGED)
    assert new.saddles["TS005"].merged_into == "TS001"
    assert new.saddles["TS001"].found == 4
    assert new.add_saddle(away, "B001", "B002") == "TS006"


class Broken(TiltedEMT):
    """No finite energy near some hollows: those with the atom within 0.3 Å of ``place``, or all hcp ones."""

    def __init__(self, place: np.ndarray | None = None) -> None:
        super().__init__(0.0)
        self.place = place

    def is_broken(self, structure: Structure) -> bool:
        atom = structure.positions[8]
        if self.place is not None:
            return bool(np.linalg.norm(atom - self.place) < 0.3)
        return bool(np.sin(WAVES @ (atom - structure.positions[4])[:2]).sum() < -2.2)

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        found = super().predict(structures)
        return [
            replace(one, energy=np.nan) if self.is_broken(structure) else one
            for structure, one in zip(structures, found, strict=True)
        ]


def test_what_explodes_vanishes_and_the_rest_stays(before: Catalogue):
    search = SEARCHES["dimer"](SEARCHES["dimer"].Options())
    new, changes, _ = renew(before, Hub(Broken()), search, CONFIG, 1)
    assert [change.status for change in changes] == [Status.PRESENT, Status.VANISHED, Status.VANISHED]
    assert (new.minima["B002"].reason, new.saddles["TS001"].reason) == ("not_finite", "end_not_converged")
    # a later search finds it after all: the old name
    minimum = before.minima["B002"]
    assert new.add_minimum(minimum.structure, minimum.energy) == "B002"


def test_a_minimum_that_was_lost_is_found_from_its_saddle(before: Catalogue):
    """Its own place is broken; the saddle leads down to a copy of it."""
    search = SEARCHES["dimer"](SEARCHES["dimer"].Options())
    broken = Broken(before.minima["B002"].structure.positions[8])
    new, changes, _ = renew(before, Hub(broken), search, CONFIG, 1)
    assert [change.status for change in changes] == [Status.PRESENT] * 3
    assert (new.saddles["TS001"].start, new.saddles["TS001"].end) == ("B001", "B002")
    assert np.linalg.norm(new.minima["B002"].structure.positions[8] - broken.place) > 1.0
    assert not new.new


def test_all_of_it_is_one_batch_and_to_the_last_bit_the_same_again(before: Catalogue):
    search = SEARCHES["dimer"](SEARCHES["dimer"].Options())
    positions = []
    for _ in range(2):
        renewal = Renewal(before, search, CONFIG, 5)
        model = TiltedEMT(0.01)
        hub = Hub(model)
        hub.run(renewal.scripts())
        assert max(model.batches) >= 3
        assert hub.calls == sum(renewal.calls.values())
        new, _ = renewal.finish("x")
        positions.append([m.structure.positions for m in new.minima.values()])
        positions[-1] += [s.verdict.structure.positions for s in new.saddles.values()]
    np.testing.assert_array_equal(positions[0], positions[1])


def test_a_run_with_a_new_model_begins_with_what_the_last_one_found(tmp_path: Path):
    """Two runs in one store. What the second moves is queued again, unless the reference has confirmed it."""
    config = PathsConfig(
        searches={"dimer": {"max_calls": 150}}, proposals={"displacements": {}}, walkers=3, max_searches=6
    )
    with Store(tmp_path) as store:
        first = TiltedEMT(0.0)
        find_paths(config, first, copper("fcc", [0.02, 0.05, 0.0]), tmp_path / "first", store, seed=1, run_id="first")
        known = saddles.network(store, run_id="first")
        assert known is not None
        names = [saddle.name for saddle in known.saddles]
        assert names
        confirmed = known.saddles[0]
        structures = store.get([confirmed.structure_id, confirmed.minus_id, confirmed.plus_id])
        enter_labels(store, structures, first, stage="saddle")
        assert [saddle.name for saddle in confirm(store)] == names[:1]

        second = TiltedEMT(0.01)
        idle = config.model_copy(update={"max_searches": 1})
        start = copper("hcp", [0.02, 0.05, 0.0])
        find_paths(idle, second, start, tmp_path / "second", store, seed=2, run_id="second")
        again = saddles.network(store, run_id="second")
        assert again is not None
        assert [saddle.name for saddle in again.saddles][: len(names)] == names
        assert [minimum.name for minimum in again.minima][: len(known.minima)] == [m.name for m in known.minima]
        for old, new in zip(known.saddles, again.saddles, strict=False):
            assert (new.status, new.first_run) == ("present", "first")
            assert 0 < abs(new.energy - old.energy) < 0.05
            queued = {entry.structure_id for entry in queries.queue(store) if entry.run_id == "second"}
            assert (new.structure_id in queued) == (new.name != confirmed.name)
        assert [step.name for step in saddles.confirmed_steps(store)] == names[:1]
        # the same model once more: nothing is relaxed again
        before = len(second.batches)
        find_paths(idle, second, start, tmp_path / "third", store, seed=3, run_id="third")
        third = saddles.network(store, run_id="third")
        assert third is not None
        assert [s.structure_id for s in third.saddles][: len(names)] == [s.structure_id for s in again.saddles][
            : len(names)
        ]
        assert len(second.batches) > before
        assert check(store) == []


def test_killed_while_it_renews_a_run_resumes_to_the_same(tmp_path: Path, before: Catalogue):
    class Killed(Exception): ...

    class Dying(TiltedEMT):
        left = 10**9

        def predict(
            self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
        ) -> list[Prediction]:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return super().predict(structures)

    config = CONFIG.model_copy(update={"max_searches": 1, "walkers": 1})
    start = before.minima["B002"].structure
    ends: list[Any] = []
    for batches in (10**9, 5):
        folder = tmp_path / str(batches)
        with Store(folder) as store:
            begin_run(store, "first", model=before.model_sha256)
            save(store, "first", before)
            model = Dying(0.01)
            model.left = batches
            arguments = (config, model, start, folder / "second", store)
            if batches == 5:
                with pytest.raises(Killed):
                    find_paths(*arguments, seed=2, run_id="second")
                model.left = 10**9
            find_paths(*arguments, seed=2, run_id="second", resume=batches == 5)
            ends.append(saddles.network(store, run_id="second"))
            ends.append(queries.queue(store))
            assert load_catalogue(store, before.options, before.roles, start).model_sha256 == model.digest
    assert ends[:2] == ends[2:]
    assert [saddle.name for saddle in ends[0].saddles][:1] == ["TS001"]
    assert {entry.stage for entry in ends[1]} == {"saddle", "mode", "end"}
