"""What goes wrong on machines: tried again, given up, paid for; the rest of the round unharmed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa

from rlpath_core.config import Section, check
from rlpath_core.data import S2EFReader
from rlpath_core.dft import collect, label, retry, submit
from rlpath_core.dft.engines import Engine
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.status import failures, status, table
from rlpath_core.errors import InputError
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.store import select

PROGRAM = Path(__file__).resolve().parents[2] / "programs" / "scripted_engine.py"


class Nothing(Section):
    strict: bool = False


class Program(Engine):
    """A program of its own; what it does with a structure is in the file ``do-<z>`` of the store."""

    name: ClassVar[str] = "program"
    Settings: ClassVar[type[Section]] = Nothing

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, "-S", str(PROGRAM), str(folder)]

    def safer(self) -> dict[str, Any] | None:
        return None if self.settings.strict else {"strict": True}


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DftConfig]:
    monkeypatch.setitem(sys.modules, "engines_of_this_test", sys.modules[__name__])
    monkeypatch.setattr(Program, "__module__", "engines_of_this_test")
    return lambda **given: check(DftConfig, {"engine": "engines_of_this_test:Program", "workers": 2, **given}, "dft")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        yield opened


def dimers(*heights: float) -> list[Structure]:
    return [Structure([29, 29], [[0, 0, 0], [0, 0, z]]) for z in heights]


def jobs(store: Store) -> dict[str, orm.JobRow]:
    with store.reading() as session:
        return {row.structure_id: row for row in session.scalars(sa.select(orm.JobRow))}


SECOND = "if attempt < 2: "


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param("import time; time.sleep(1000)", "wall", marks=pytest.mark.slow),
        ("os.kill(os.getpid(), 9)", "memory"),
        ("sys.exit('OSError: [Errno 28] No space left on device')", "disk"),
    ],
)
def test_what_a_machine_failed_is_tried_again(
    store: Store, configured: Callable[..., DftConfig], script: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rlpath.dft")
    ids = select(store, dimers(2.0, 2.1))
    (store.folder / "do-2.0").write_text(SECOND + script)
    config = configured(wall_seconds=4.0 if kind == "wall" else 60.0, memory_mb=200)
    done = label(store, config, round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.labelled, done.failed) == (2, 0)
    job = jobs(store)[ids[0]]
    assert (job.tries, job.state) == (2, "labelled")
    assert job.wall_seconds == (8.0 if kind == "wall" else None)
    assert job.memory_mb == (400 if kind == "memory" else None)
    assert jobs(store)[ids[1]].tries == 1
    (message,) = [record.getMessage() for record in caplog.records if record.name == "rlpath.dft"]
    assert message.startswith(f"job {job.id[:12]}: try 2 after {kind}: ")
    runs = (store.folder / job.folder / "runs.log").read_text()
    assert ["attempt 1" in runs, "attempt 2" in runs, len(runs.splitlines())] == [True, True, 2]


@pytest.mark.slow
def test_tries_are_bounded(store: Store, configured: Callable[..., DftConfig]) -> None:
    ids = select(store, dimers(2.0, 2.1))
    (store.folder / "do-2.0").write_text("import time; time.sleep(1000)")
    done = label(store, configured(wall_seconds=2.0, retries=2), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.labelled, done.failed) == (1, 1)
    assert next(iter(done.reasons)) == "wall-time limit of 8 s"
    assert jobs(store)[ids[0]].tries == 3
    assert jobs(store)[ids[0]].core_seconds == pytest.approx(2.0 + 4.0 + 8.0, rel=0.5)
    (row,) = failures(store)
    assert (row["kind"], row["tries"], row["state"]) == ("ran out of time", 3, "failed")
    (row,) = status(store)
    assert (row["labelled"], row["failed"], row["tries"]) == (1, 1, 4)
    assert "wall-time" in table(failures(store))


def test_an_scf_that_ran_out_is_tried_once_with_safer_settings(
    store: Store, configured: Callable[..., DftConfig]
) -> None:
    ids = select(store, dimers(2.0, 2.1, 2.2))
    scf = "r = {**request, 'converged': False, 'reason': 'NELM', 'failure': 'scf'}; "
    scf += "(folder / 'result.json').write_text(json.dumps(r)); sys.exit()"
    (store.folder / "do-2.0").write_text("if not request['settings']['strict']: " + scf.replace("; ", ";"))
    (store.folder / "do-2.1").write_text(scf)
    done = label(store, configured(), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.wanted, done.labelled, done.failed, done.reasons) == (3, 2, 1, {"NELM": 1})
    with store.reading() as session:
        rows = list(session.scalars(sa.select(orm.JobRow)))
    second = {row.structure_id: row for row in rows if row.retry_of is not None}
    assert set(second) == set(ids[:2])
    assert all(row.settings == {"strict": True} and row.tries == 1 for row in second.values())
    assert [second[key].state for key in ids[:2]] == ["labelled", "failed"]
    assert len(rows) == 5
    again = label(store, configured(), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (again.labelled, again.failed) == (2, 1)
    assert len(S2EFReader(store.folder / "l.lmdb")) == 2


def test_retry_by_hand(store: Store, configured: Callable[..., DftConfig]) -> None:
    ids = select(store, dimers(2.0, 2.1))
    for z in ("2.0", "2.1"):
        (store.folder / f"do-{z}").write_text("sys.exit('no licence')")
    config, lmdb = configured(), store.folder / "l.lmdb"
    assert label(store, config, round_index=1, lmdb=lmdb).failed == 2
    assert "no licence" in failures(store)[0]["reason"]
    (store.folder / "do-2.0").unlink()
    first = jobs(store)[ids[0]].id
    assert retry(store, config, round_index=1, jobs=[first[:10]]) == [first]
    done = collect(store, config, round_index=1, lmdb=lmdb)
    assert (done.labelled, done.failed) == (1, 1)
    assert jobs(store)[ids[0]].tries == 2
    with pytest.raises(InputError, match="no job"):
        retry(store, config, round_index=1, jobs=["xyz"])


@pytest.mark.slow
def test_one_that_hangs_and_one_that_prints_garbage(store: Store, configured: Callable[..., DftConfig]) -> None:
    select(store, dimers(2.0, 2.1, 2.2, 2.3))
    (store.folder / "do-2.0").write_text("os.system('sleep 1000')")  # a child that would survive its parent
    (store.folder / "do-2.1").write_text("sys.stdout.buffer.write(bytes(range(256)) * 100); sys.exit(0)")
    (store.folder / "do-2.2").write_text("(folder / 'result.json').write_bytes(b'\\x00\\xff{]'); sys.exit(0)")
    done = label(store, configured(wall_seconds=5.0, retries=0), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.labelled, done.failed) == (1, 3)
    reasons = " ".join(done.reasons)
    assert "wall-time limit of 5 s" in reasons
    assert "no such file" in reasons
    assert "cannot be read" in reasons
    assert not _is_running(str(store.folder))


def _is_running(text: str) -> bool:
    found = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True).stdout.split()
    return bool({int(pid) for pid in found} - {os.getpid(), os.getppid()})


def test_a_full_disk(store: Store, configured: Callable[..., DftConfig]) -> None:
    """One job's folder lies on a disk of 64 kB, which its program fills; the others have room."""
    ids = select(store, dimers(2.0, 2.1))
    config, lmdb = configured(retries=1), store.folder / "l.lmdb"
    submit(store, config, round_index=1, lmdb=lmdb)
    folder = store.folder / jobs(store)[ids[0]].folder
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        (store.folder / "do-2.0").write_text("(folder / 'scratch').write_bytes(bytes(1 << 20))")
        done = label(store, config, round_index=1, lmdb=lmdb)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert (done.labelled, done.failed) == (1, 1)
    (row,) = failures(store)
    assert row["kind"] == "the disk was full"
    assert "No space left on device" in row["reason"]


def test_the_budget_in_labels(store: Store, configured: Callable[..., DftConfig]) -> None:
    select(store, dimers(2.0, 2.1, 2.2))
    select(store, dimers(3.0, 3.1, 3.2), 2)
    config, lmdb = configured(budget={"labels": 4, "labels_per_round": 3}), store.folder / "l.lmdb"
    first = label(store, config, round_index=1, lmdb=lmdb)
    assert (first.labelled, first.stopped) == (3, None)
    second = label(store, config, round_index=2, lmdb=lmdb)
    assert (second.wanted, second.labelled) == (3, 1)
    assert second.stopped == "budget.labels: 4 of 4 are spent"
    with store.reading() as session:
        states = session.scalars(sa.select(orm.QueueRow.state).where(orm.QueueRow.round == 2)).all()
    assert sorted(states) == ["labelled", "selected", "selected"]
    assert label(store, configured(), round_index=2, lmdb=lmdb).labelled == 3


def test_a_failure_makes_room_in_the_budget_of_labels(store: Store, configured: Callable[..., DftConfig]) -> None:
    select(store, dimers(2.0, 2.1, 2.2))
    (store.folder / "do-2.0").write_text("sys.exit(1)")
    done = label(store, configured(budget={"labels": 2}), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.labelled, done.failed, done.stopped) == (2, 1, None)


@pytest.mark.slow
def test_the_budget_in_core_hours_is_never_overrun(store: Store, configured: Callable[..., DftConfig]) -> None:
    """Each may take 10 s and takes half a second: 25 s are enough for two at a time, and for all one after another."""
    select(store, dimers(*[2.0 + 0.1 * n for n in range(5)]))
    for n in range(5):
        (store.folder / f"do-{2.0 + 0.1 * n:.1f}").write_text("import time; time.sleep(0.5)")
    lmdb = store.folder / "l.lmdb"
    config = configured(budget={"core_hours": 25 / 3600}, wall_seconds=10.0, workers=4)
    done = label(store, config, round_index=1, lmdb=lmdb)
    assert (done.labelled, done.stopped) == (5, None)
    assert 2.5 / 3600 <= done.core_hours <= 25 / 3600
    select(store, dimers(3.0), 2)
    small = configured(budget={"core_hours": done.core_hours + 1 / 3600}, wall_seconds=10.0)
    stopped = label(store, small, round_index=2, lmdb=lmdb)
    assert (stopped.wanted, stopped.labelled) == (1, 0)
    assert (stopped.stopped or "").startswith("budget.core_hours")
    assert "one more may take 0.00278" in (stopped.stopped or "")
    per_round = configured(budget={"core_hours_per_round": 11 / 3600}, wall_seconds=10.0)
    assert label(store, per_round, round_index=2, lmdb=lmdb).labelled == 1


def test_too_many_failures_stop_the_round(store: Store, configured: Callable[..., DftConfig]) -> None:
    select(store, dimers(*[2.0 + 0.1 * n for n in range(6)]))
    for n in range(4):
        (store.folder / f"do-{2.0 + 0.1 * n:.1f}").write_text("sys.exit(1)")
    config = configured(max_failed_fraction=0.5, budget={"core_hours": 100 / 3600}, wall_seconds=99.0, workers=1)
    done = label(store, config, round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.wanted, done.labelled, done.failed) == (6, 0, 4)
    assert done.stopped == "4 of 6 calculations failed: no more are submitted"


@pytest.mark.slow
def test_memory_bounds_what_runs_at_a_time(store: Store, configured: Callable[..., DftConfig]) -> None:
    select(store, dimers(2.0, 2.1, 2.2))
    log = store.folder / "log"
    for z in ("2.0", "2.1", "2.2"):
        text = (
            f"import time; log = open({str(log)!r}, 'a', buffering=1); log.write('+'); time.sleep(0.4); log.write('-')"
        )
        (store.folder / f"do-{z}").write_text(text)
    config = configured(memory_mb=300, launcher_options={"memory_mb": 500, "cores": 4}, workers=None)
    assert label(store, config, round_index=1, lmdb=store.folder / "l.lmdb").labelled == 3
    assert log.read_text() == "+-+-+-"
    select(store, dimers(4.0), 2)
    with pytest.raises(InputError, match="600 MB"):
        label(store, config.model_copy(update={"memory_mb": 600}), round_index=2, lmdb=store.folder / "l.lmdb")


def test_memory_limits_hold(store: Store, configured: Callable[..., DftConfig]) -> None:
    select(store, dimers(2.0, 2.1))
    (store.folder / "do-2.0").write_text("x = bytearray(500 << 20)")
    done = label(store, configured(memory_mb=200, retries=0), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.labelled, done.failed) == (1, 1)
    assert "MemoryError" in next(iter(done.reasons))


def test_an_engine_that_is_not_installed_is_said_before_anything(
    store: Store, configured: Callable[..., DftConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    select(store, dimers(2.0))

    def missing(self: Engine) -> None:
        raise InputError("engine program is not installed: apt-get install program")

    monkeypatch.setattr(Program, "require", missing)
    with pytest.raises(InputError, match="apt-get install"):
        submit(store, configured(), round_index=1, lmdb=store.folder / "l.lmdb")
    assert jobs(store) == {}


def test_a_wrong_potcar_path_is_said_before_anything(store: Store, tmp_path: Path) -> None:
    select(store, dimers(2.0))
    settings = {"potcar_dir": str(tmp_path / "no such library"), "potcar_symbols": ["Cu"], "check_installed": False}
    config = check(DftConfig, {"engine": "vasp", "settings": settings}, "dft")
    with pytest.raises(InputError, match="no such library"):
        label(store, config, round_index=1, lmdb=store.folder / "l.lmdb")
    assert jobs(store) == {}


def test_results_name_their_engine_and_round(store: Store, configured: Callable[..., DftConfig]) -> None:
    select(store, dimers(2.0), 4)
    label(store, configured(), round_index=None, lmdb=store.folder / "l.lmdb")
    with store.reading() as session:
        (row,) = session.scalars(sa.select(orm.LabelRow))
    assert row.round == 4
    assert json.loads((store.folder / row.forces).read_text())["energy"] == 2.0
