"""The hook's promise: every wanted label once, in the database and in the LMDB, whatever happens in between."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from ase.build import molecule
from tblite.ase import TBLite

from rlpath_core.data import S2EFReader
from rlpath_core.dft import job_id, label
from rlpath_core.dft.engines import ENGINES
from rlpath_core.dft.engines.base import RESULT
from rlpath_core.dft.faultpoints import Step
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.resolve import resolve_dft
from rlpath_core.errors import InputError
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.killable import KillableProcess
from rlpath_core.testing.store import select

SCHEDULER_STEPS = {Step.ANNOUNCED, Step.SUBMITTING, Step.POLLED, Step.RECORDED}
RETRY_STEPS = {Step.ASIDE, Step.RETRY}
EMT_COPPER = DftConfig(engine="ase", settings={"calculator": "ase.calculators.emt:EMT"}, workers=2)


def waters(count: int) -> list[Structure]:
    rng = np.random.default_rng(7)
    water = Structure.from_ase(molecule("H2O"))
    return [water.moved(water.positions + rng.normal(0, 0.05, (3, 3))) for _ in range(count)]


def dimers(count: int) -> list[Structure]:
    return [Structure([29, 29], [[0, 0, 0], [0, 0, 2.2 + 0.05 * k]]) for k in range(count)]


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path) as opened:
        yield opened


def rows(store: Store, table: Any) -> list[Any]:
    with store.reading() as session:
        return list(session.scalars(sa.select(table)))


def check_once(store: Store, lmdb: Path, ids: list[str]) -> None:
    """Each structure is labelled exactly once, here and there, with the same numbers, and no intermediate state."""
    labels = {row.structure_id: row for row in rows(store, orm.LabelRow)}
    assert sorted(labels) == sorted(ids)
    assert len(rows(store, orm.LabelRow)) == len(rows(store, orm.JobRow)) == len(ids)
    assert {row.state for row in rows(store, orm.QueueRow)} == {"labelled"}
    assert {row.state for row in rows(store, orm.JobRow)} == {"labelled"}
    with S2EFReader(lmdb) as reader:
        entries = list(reader)
    assert [entry.sid for entry in entries] == ids  # once each, in the order of the queue
    for place, entry in enumerate(entries):
        row = labels[ids[place]]
        assert row.lmdb_key == place
        assert row.energy == pytest.approx(entry.energy, abs=1e-9)
        assert row.lmdb == str(lmdb.relative_to(store.folder))
        result = json.loads((store.folder / row.forces).read_text())
        np.testing.assert_allclose(result["forces"], entry.forces, atol=1e-5)


@pytest.mark.slow
def test_labels_are_the_engines_own_numbers(store: Store) -> None:
    structures = waters(3)
    ids = select(store, structures)
    said: list[dict[str, Any]] = []
    lmdb = store.folder / "labels" / "round-1.lmdb"
    summary = label(store, DftConfig(workers=2), round_index=1, lmdb=lmdb, progress=said.append)
    assert (summary.wanted, summary.labelled, summary.failed, summary.reasons) == (3, 3, 0, {})
    assert said[-1]["done"] == said[-1]["wanted"] == 3
    check_once(store, lmdb, ids)
    with S2EFReader(lmdb) as reader:
        for structure, entry in zip(structures, reader, strict=True):
            atoms = structure.to_ase()
            atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
            assert entry.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
            np.testing.assert_allclose(entry.forces, atoms.get_forces(), atol=1e-5)
    again = label(store, DftConfig(workers=2), round_index=1, lmdb=lmdb)
    assert (again.wanted, again.labelled, again.failed) == (3, 3, 0)
    check_once(store, lmdb, ids)


@pytest.fixture
def process(tmp_path: Path):
    made: list[KillableProcess] = []

    def make(**config: Any) -> KillableProcess:
        settings = {"calculator": "ase.calculators.emt:EMT"}
        made.append(KillableProcess(tmp_path, {"engine": "ase", "settings": settings, "workers": 2, **config}))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.slow
def test_killed_at_each_step(store: Store, process: Callable[..., KillableProcess]) -> None:
    """SIGKILL at one named step after another: each call goes on where the last was killed, to the step after it."""
    ids = select(store, dimers(5))
    work = process()
    steps = [step for step in Step if step not in SCHEDULER_STEPS | RETRY_STEPS]
    killed = [step for step in steps if work("label", steps={step: 1})["status"] == -signal.SIGKILL]
    assert killed == steps
    assert work("label")["result"]["labelled"] == 5
    check_once(store, store.folder / "labels" / "round-1.lmdb", ids)
    runs = [(store.folder / row.folder / "runs.log").read_text().splitlines() for row in rows(store, orm.JobRow)]
    assert [len(lines) for lines in runs] == [1] * 5


@pytest.mark.slow
def test_killed_at_random_moments(store: Store, process: Callable[..., KillableProcess]) -> None:
    ids = select(store, waters(6))
    rng = random.Random(11)
    work = process(engine="tblite", settings={})
    for _ in range(6):
        work("label", after=rng.uniform(0.05, 2.0))
    work("label")
    check_once(store, store.folder / "labels" / "round-1.lmdb", ids)


@pytest.mark.slow
def test_no_calculation_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Callable[..., list[str]]
) -> None:
    """The parent is killed while two calculations run: they are finished, not repeated, by its successor."""
    with Store(tmp_path) as store:
        ids = select(store, dimers(4))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    command = program("label_counted", tmp_path)
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / "marks").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    first.kill()
    first.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    marks = (tmp_path / "marks").read_text().split()
    assert sorted(marks) == sorted(set(marks))
    with Store(tmp_path) as store:
        check_once(store, tmp_path / "l.lmdb", ids)


def put_result(store: Store, config: DftConfig, structure: Structure, **changes: Any) -> Path:
    """A result.json as an engine would have left it, with ``changes``."""
    engine = ENGINES[config.engine](config.settings)
    key = job_id(structure.id, engine.key, engine.identity())
    folder = store.folder / "dft" / key
    folder.mkdir(parents=True)
    (done,) = engine.calculate([structure])  # type: ignore[attr-defined]
    value = done.to_json(key, engine.key) | changes
    (folder / RESULT).write_text(json.dumps(value))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"converged": False, "reason": "NELM reached"}, "NELM reached"),
        ({"positions": [[0, 0, 0.001], [0, 0, 2.2]]}, "positions differ"),
        ({"cell": [[9, 0, 0], [0, 9, 0], [0, 0, 9]]}, "cell differ"),
        ({"numbers": [29, 28]}, "numbers differ"),
        ({"energy": None}, "energy"),
        ({"forces": [[0, 0, 0]]}, "forces"),
        ({"forces": [[0, 0, 1e4], [0, 0, -1e4]]}, "out of its depth"),
        ({"job_id": "0" * 64}, "answers job"),
        ({"schema_version": 7}, "schema"),
    ],
)
def test_what_is_no_label_fails_with_its_reason(store: Store, changes: dict[str, Any], reason: str) -> None:
    good, bad = dimers(2)[1], dimers(1)[0]
    ids = select(store, [bad, good])
    folder = put_result(store, EMT_COPPER, bad, **changes)
    summary = label(store, EMT_COPPER, round_index=1, lmdb=store.folder / "l.lmdb")
    assert (summary.wanted, summary.labelled, summary.failed) == (2, 1, 1)
    assert reason in next(iter(summary.reasons))
    assert folder.joinpath(RESULT).exists()
    states = {row.structure_id: (row.state, row.reason) for row in rows(store, orm.QueueRow)}
    assert states[ids[0]][0] == "failed"
    assert reason in (states[ids[0]][1] or "")
    assert states[ids[1]] == ("labelled", None)
    assert len(S2EFReader(store.folder / "l.lmdb")) == 1


def test_a_finished_result_is_not_calculated_again(store: Store) -> None:
    (dimer,) = dimers(1)
    select(store, [dimer])
    put_result(store, EMT_COPPER, dimer, evidence={"mark": "kept"})
    label(store, EMT_COPPER, round_index=1, lmdb=store.folder / "l.lmdb")
    (row,) = rows(store, orm.LabelRow)
    assert json.loads((store.folder / row.forces).read_text())["evidence"] == {"mark": "kept"}


def test_garbage_in_place_of_a_result(store: Store) -> None:
    (dimer,) = dimers(1)
    select(store, [dimer])
    (put_result(store, EMT_COPPER, dimer) / RESULT).write_text("{ not json")
    summary = label(store, EMT_COPPER, round_index=1, lmdb=store.folder / "l.lmdb")
    assert "cannot be read" in next(iter(summary.reasons))


@pytest.mark.slow
def test_scf_failure_is_never_a_label_and_may_be_tried_again(store: Store) -> None:
    select(store, waters(1))
    lmdb = store.folder / "l.lmdb"
    short = DftConfig(settings={"max_iterations": 2}, safer=False)
    summary = label(store, short, round_index=1, lmdb=lmdb)
    assert summary.failed == 1
    assert "SCF not converged" in next(iter(summary.reasons))
    assert not lmdb.exists()
    assert label(store, short, round_index=1, lmdb=lmdb).failed == 1
    (job,) = rows(store, orm.JobRow)
    assert job.tries == 1
    label(store, short.model_copy(update={"retry_failed": True}), round_index=1, lmdb=lmdb)
    (job,) = rows(store, orm.JobRow)
    assert job.tries == 2
    assert (store.folder / job.folder / "result.1.json").exists()
    # Other settings are another job, and that one may succeed.
    assert label(store, DftConfig(), round_index=1, lmdb=lmdb).labelled == 1
    assert len(S2EFReader(lmdb)) == 1


def test_a_structure_beyond_the_method_fails_alone(store: Store) -> None:
    uranium = Structure([92], [[0, 0, 0]])
    select(store, [uranium, *waters(1)])
    summary = label(store, DftConfig(), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (summary.labelled, summary.failed) == (1, 1)
    assert "radon" in next(iter(summary.reasons))


@pytest.mark.slow
def test_rounds_are_apart_and_none_means_all(store: Store) -> None:
    first, second = dimers(2)
    select(store, [first], round_index=1)
    select(store, [second], round_index=2)
    assert label(store, EMT_COPPER, round_index=1, lmdb=store.folder / "1.lmdb").wanted == 1
    assert label(store, EMT_COPPER, round_index=None, lmdb=store.folder / "2.lmdb").labelled == 2
    assert len(S2EFReader(store.folder / "1.lmdb")) == len(S2EFReader(store.folder / "2.lmdb")) == 1
    assert [row.round for row in rows(store, orm.LabelRow)] == [1, 2]


def test_nothing_selected_is_nothing_done(store: Store) -> None:
    summary = label(store, DftConfig(), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (summary.wanted, summary.labelled, summary.failed) == (0, 0, 0)
    assert not (store.folder / "l.lmdb").exists()


@pytest.mark.slow
def test_a_lost_lmdb_is_written_again(store: Store) -> None:
    ids = select(store, dimers(3))
    lmdb = store.folder / "labels" / "round-1.lmdb"
    label(store, EMT_COPPER, round_index=1, lmdb=lmdb)
    for path in lmdb.parent.iterdir():
        path.unlink()
    label(store, EMT_COPPER, round_index=1, lmdb=lmdb)
    check_once(store, lmdb, ids)


def test_two_hooks_do_not_share_a_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlpath_core.dft.labelling.LOCK_WAIT", 0.1)
    with open(store.folder / ".dft.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="already at work"):
            label(store, EMT_COPPER, round_index=1, lmdb=store.folder / "l.lmdb")


def test_an_engine_that_is_not_installed_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    select(store, waters(1))
    monkeypatch.setattr("rlpath_core.dft.engines.tblite.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        label(store, DftConfig(), round_index=1, lmdb=store.folder / "l.lmdb")
    assert [row.state for row in rows(store, orm.QueueRow)] == ["selected"]


def test_identity_of_a_job() -> None:
    water = waters(1)[0].id
    assert job_id(water, "tblite", {"a": 1, "b": 2}) == job_id(water, "tblite", {"b": 2, "a": 1})
    different = [(water, "tblite", {"a": 2}), (water, "ase", {"a": 1}), ("0" * 64, "tblite", {"a": 1})]
    assert len({job_id(*one) for one in [*different, (water, "tblite", {"a": 1})]}) == 4
    given = DftConfig(settings={"max_iterations": 250})
    assert resolve_dft(DftConfig(), "dft") == resolve_dft(given, "dft")
