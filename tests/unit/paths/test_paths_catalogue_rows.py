"""The catalogue goes into the database and comes back: to the last digit, and as it was before a killed run began."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlpath_core.errors import InputError
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.paths.catalogue import Catalogue, Status
from rlpath_core.paths.catalogue_rows import load_catalogue
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.store import Store, saddles
from rlpath_core.structure import Structure
from rlpath_core.testing.steps import begin_run, catalogue_of, lifted, save, verdict_of, water_on_copper

WATER = water_on_copper()


def load(store: Store, structure: Structure = WATER, before: str | None = None) -> Catalogue:
    return load_catalogue(store, BasinOptions(), infer_roles(structure), structure, before)


def two_steps() -> Catalogue:
    catalogue = catalogue_of(WATER)
    for k in range(3):
        catalogue.add_minimum(lifted(WATER, 0.8 * k), 0.2 * k, 0.003)
    catalogue.minima["B002"].frequencies = np.array([100.5, 3000.25])
    catalogue.minima["B002"].searches = 4
    catalogue.add_saddle(verdict_of(lifted(WATER, 0.4), 0.5), "B001", "B002", degeneracy=2, evidence={"calls": 7})
    catalogue.add_saddle(verdict_of(lifted(WATER, 0.5), 0.7), "B001", "B001", frequencies=np.array([-300.0, 50.0]))
    catalogue.saddles["TS002"].found = 3
    return catalogue


def test_what_was_saved_comes_back(tmp_path: Path):
    before = two_steps()
    with Store(tmp_path) as store:
        begin_run(store, "first", 1, "a" * 64)
        assert list(save(store, "first", before)) == ["TS001", "TS002"]
        after = load(store)
    assert after.model_sha256 == "a" * 64
    assert not after.new
    assert list(after.minima) == ["B001", "B002", "B003"]
    for name, old in before.minima.items():
        new = after.minima[name]
        np.testing.assert_array_equal(new.structure.positions, old.structure.positions)
        assert (new.energy, new.fmax, new.found, new.searches) == (old.energy, old.fmax, old.found, old.searches)
        assert (new.status, new.merged_into) == (Status.PRESENT, None)
        np.testing.assert_array_equal(new.frequencies, old.frequencies)
    for name, saddle in before.saddles.items():
        new_saddle, old_verdict = after.saddles[name], saddle.verdict
        verdict = new_saddle.verdict
        for field in ("start", "end", "found", "degeneracy", "degeneracy_back", "evidence", "status"):
            assert getattr(new_saddle, field) == getattr(saddle, field)
        for field in ("state", "energy", "fmax", "curvatures", "rejection"):
            assert getattr(verdict, field) == getattr(old_verdict, field)
        np.testing.assert_array_equal(new_saddle.frequencies, saddle.frequencies)
        np.testing.assert_array_equal(verdict.structure.positions, old_verdict.structure.positions)
        np.testing.assert_allclose(verdict.mode, old_verdict.mode, atol=1e-12)
        assert verdict.sides == old_verdict.sides
        for end, old_end in zip(verdict.ends, old_verdict.ends, strict=True):
            assert end.structure == old_end.structure
            assert end.energy == pytest.approx(old_end.energy, abs=1e-12)
    for minimum in before.minima.values():
        assert after.minimum_of(minimum.structure, minimum.energy) == minimum.name
    assert after.saddle_of(lifted(WATER, 0.4), 0.5, ("B002", "B001")) == "TS001"


def test_saving_again_changes_only_what_changed(tmp_path: Path):
    catalogue = two_steps()
    with Store(tmp_path) as store:
        begin_run(store, "first")
        ids = save(store, "first", catalogue)
        catalogue.minima["B001"].found = 9
        catalogue.add_minimum(lifted(WATER, -0.9), 0.9)
        assert save(store, "first", catalogue) == ids
        assert save(store, "first", catalogue) == ids
        found = saddles.network(store)
    assert found is not None
    assert [(m.name, m.found, m.first_run) for m in found.minima] == [
        ("B001", 9, "first"),
        ("B002", 1, "first"),
        ("B003", 1, "first"),
        ("B004", 1, "first"),
    ]
    assert [(s.name, s.start, s.end, s.barrier, s.curvature) for s in found.saddles] == [
        ("TS001", "B001", "B002", pytest.approx(0.3), -1.0),
        ("TS002", "B001", "B001", pytest.approx(0.3), -1.0),
    ]


def test_a_run_that_was_killed_begins_again_with_what_it_began_with(tmp_path: Path):
    with Store(tmp_path) as store:
        begin_run(store, "first")
        save(store, "first", two_steps())
        begin_run(store, "second")
        catalogue = load(store, before="second")
        catalogue.minima["B003"].status, catalogue.minima["B003"].merged_into = Status.MERGED, "B002"
        assert catalogue.add_minimum(lifted(WATER, -0.9), 0.9) == "B004"
        save(store, "second", catalogue)
        again = load(store, before="second")
        assert list(again.minima) == ["B001", "B002", "B003"]
        assert again.minima["B003"].status is Status.PRESENT
        assert again.add_minimum(lifted(WATER, -0.9), 0.9) == "B004"
        save(store, "second", again)
        third = load(store, before="third")
        assert list(third.minima) == ["B001", "B002", "B003", "B004"]


def test_what_merged_or_vanished_is_kept(tmp_path: Path):
    with Store(tmp_path) as store:
        begin_run(store, "first", 1)
        save(store, "first", two_steps())
        begin_run(store, "second", 2)
        catalogue = load(store, before="second")
        catalogue.minima["B003"].status, catalogue.minima["B003"].merged_into = Status.MERGED, "B002"
        catalogue.saddles["TS001"].status = Status.VANISHED
        save(store, "second", catalogue)
        again = load(store)
        story = saddles.saddle_story(store, "TS001")
        network = saddles.network(store, 1)
    assert (again.minima["B003"].status, again.minima["B003"].merged_into) == (Status.MERGED, "B002")
    assert [saddle.name for saddle in again.present_saddles] == ["TS002"]
    assert again.add_saddle(verdict_of(WATER, 3.0), "B001", "B001") == "TS003"
    assert story is not None
    assert [(model.run_id, model.round, model.status) for model in story.models] == [
        ("first", 1, "present"),
        ("second", 2, "vanished"),
    ]
    assert network is not None
    assert [minimum.status for minimum in network.minima] == ["present"] * 3


def test_surfaces_in_one_store_have_catalogues_of_their_own_but_no_common_names(tmp_path: Path):
    wider = replace(WATER, cell=WATER.cell * [[1.0], [1.0], [1.2]])
    moved = WATER.positions.copy()
    moved[0, 0] += 0.1  # a fixed atom
    with Store(tmp_path) as store:
        begin_run(store, "first")
        save(store, "first", two_steps())
        for number, other in enumerate((wider, WATER.moved(moved))):
            run_id = f"other-{number}"
            begin_run(store, run_id)
            catalogue = load(store, other, before=run_id)
            assert not catalogue.minima
            assert catalogue.add_minimum(other, 0.0) == f"B{4 + number:03d}"
            save(store, run_id, catalogue)
        assert list(load(store).minima) == ["B001", "B002", "B003"]
        assert list(load(store, wider).minima) == ["B004"]


def test_two_runs_at_once_do_not_share_a_name(tmp_path: Path):
    with Store(tmp_path) as store:
        begin_run(store, "first")
        begin_run(store, "second")
        mine, other = load(store, before="first"), load(store, before="second")
        mine.add_minimum(WATER, 0.0)
        other.add_minimum(lifted(WATER, 0.8), 0.0)
        save(store, "first", mine)
        with pytest.raises(InputError, match="run first named B001 meanwhile"):
            save(store, "second", other)
        assert load(store).minima["B001"].structure == WATER
