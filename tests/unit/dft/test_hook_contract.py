"""A user's hook in place of a launcher: a function or a shell command, results by file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlpath_core.config import check
from rlpath_core.data import S2EFReader
from rlpath_core.dft import cancel, collect, label, submit
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.status import status
from rlpath_core.errors import FatalError, InputError
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure

HOOK = '''
import json, os
from pathlib import Path

CALLS = []

def calculate(folders):
    """A harmonic bond, for whoever asks."""
    CALLS.append(list(folders))
    for folder in map(Path, folders):
        request = json.loads((folder / "request.json").read_text())
        z = request["structure"]["positions"][1][2]
        result = {
            "schema_version": 1, "job_id": request["job_id"], "converged": z < 3, "reason": None if z < 3 else "NELM",
            "energy": 0.5 * (z - 2) ** 2, "forces": [[0, 0, z - 2], [0, 0, 2 - z]],
        } | {key: request["structure"][key] for key in ("numbers", "positions", "cell")}
        (folder / "result.part").write_text(json.dumps(result))
        os.rename(folder / "result.part", folder / "result.json")

def later(folders):
    CALLS.append(list(folders))

def broken(folders):
    raise OSError("no licence server")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "users_hook.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_hook"
    sys.modules.pop("users_hook", None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        with opened.session() as session:
            session.add(orm.RunRow(id="r", kind="sample", folder="r"))
            session.flush()
            row = {"run_id": "r", "attempt": 0, "stage": "sample", "trigger": "t", "score": 1.0, "state": "selected"}
            structures = [Structure([29, 29], [[0, 0, 0], [0, 0, z]]) for z in (2.1, 2.5, 3.5)]
            for key in opened.put(structures, session):
                session.add(orm.QueueRow(structure_id=key, round=1, **row))
        yield opened


def config(**given: Any) -> DftConfig:
    return check(DftConfig, {"engine": "ase", "settings": {"calculator": "ase.calculators.emt:EMT"}, **given}, "dft")


def test_a_function_is_given_the_folders(store: Store, module: str) -> None:
    hook = config(hook=f"{module}:calculate")
    done = label(store, hook, round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.labelled, done.failed, done.reasons) == (2, 1, {"NELM": 1})
    assert [entry.energy for entry in S2EFReader(store.folder / "l.lmdb")] == pytest.approx([0.005, 0.125])
    with store.reading() as session:
        assert set(session.scalars(sa.select(orm.JobRow.launcher))) == {"hook"}
    label(store, hook, round_index=1, lmdb=store.folder / "l.lmdb")
    assert len(sys.modules[module].CALLS) == 1


def test_a_shell_command_is_given_them_on_stdin(store: Store, module: str, tmp_path: Path) -> None:
    call = f'{sys.executable} -c \'import sys, json; sys.path.insert(0, "{tmp_path}"); import users_hook; '
    call += "users_hook.calculate(json.load(sys.stdin))'"
    done = label(store, config(hook=call), round_index=1, lmdb=store.folder / "l.lmdb")
    assert (done.labelled, done.failed) == (2, 1)


def test_results_may_come_later(store: Store, module: str) -> None:
    later = config(hook=f"{module}:later")
    lmdb = store.folder / "l.lmdb"
    assert submit(store, later, round_index=1, lmdb=lmdb).open == 3
    assert submit(store, later, round_index=1, lmdb=lmdb).open == 3
    (folders,) = sys.modules[module].CALLS
    assert collect(store, later, round_index=1, lmdb=lmdb).open == 3
    sys.modules[module].calculate(folders[:1])
    done = collect(store, later, round_index=1, lmdb=lmdb)
    assert (done.labelled, done.open) == (1, 2)
    sys.modules[module].calculate(folders[1:])
    done = collect(store, later, round_index=1, lmdb=lmdb)
    assert (done.labelled, done.failed, done.open) == (2, 1, 0)


def test_jobs_of_a_hook_are_cancelled_without_it(store: Store, module: str) -> None:
    submit(store, config(hook=f"{module}:later"), round_index=1, lmdb=store.folder / "l.lmdb")
    (row,) = status(store, 1, config())
    assert (row["submitted"], row["waiting"]) == (3, {})
    assert len(cancel(store, config(), round_index=1, jobs=["all"])) == 3


def test_results_that_never_come(store: Store, module: str) -> None:
    never = config(hook=f"{module}:later", wall_seconds=0.3)
    done = label(store, never, round_index=1, lmdb=store.folder / "l.lmdb")
    assert done.failed == 3
    assert "no result.json within 0.3 s" in next(iter(done.reasons))


def test_what_a_folder_holds(store: Store, module: str) -> None:
    submit(store, config(hook=f"{module}:later"), round_index=1, lmdb=store.folder / "l.lmdb")
    folder = Path(sys.modules[module].CALLS[0][0])
    request = json.loads((folder / "request.json").read_text())
    assert request["schema_version"] == 1
    assert request["job_id"] == folder.name
    assert request["engine"] == "ase"
    assert set(request["structure"]) == {"numbers", "positions", "cell", "pbc", "tags", "fixed"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("users_hook:broken", "no licence server"),
        ("echo no key >&2; exit 4", "no key"),
        ("printf 'kein Schl\\374ssel' >&2; exit 4", "kein Schl"),  # Latin-1
    ],
)
def test_a_hook_that_fails_loses_nothing(store: Store, module: str, call: str, says: str) -> None:
    lmdb = store.folder / "l.lmdb"
    with pytest.raises(FatalError, match=says):
        label(store, config(hook=call), round_index=1, lmdb=lmdb)
    assert label(store, config(hook=f"{module}:calculate"), round_index=1, lmdb=lmdb).labelled == 2


def test_wrong_hooks_say_so(store: Store) -> None:
    with pytest.raises(InputError, match="no_such_hook"):
        label(store, config(hook="no_such_hook:f"), round_index=1, lmdb=store.folder / "l.lmdb")
    with pytest.raises(InputError, match="place of a launcher"):
        config(hook="a:b", launcher="slurm")
