"""The store: files first, rows second, one transaction at a time."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from ase.build import fcc111, molecule

from rlpath_core.errors import InputError
from rlpath_core.store import Store, insert_new, orm
from rlpath_core.store.npz import read_npz
from rlpath_core.structure import Structure


@pytest.fixture
def water() -> Structure:
    return Structure.from_ase(molecule("H2O"))


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "campaign") as opened:
        yield opened


def test_round_trip_keeps_every_array_unrounded(store: Store) -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=6)
    slab.rattle(1e-6, seed=1)
    structure = Structure(
        slab.numbers, slab.positions, slab.cell.array, slab.pbc, slab.get_tags(), fixed=slab.get_tags() > 2
    )
    with store.session() as session:
        (key,) = store.put([structure], session)
    (back,) = store.get([key])
    for name in ("numbers", "positions", "cell", "pbc", "tags", "fixed"):
        np.testing.assert_array_equal(getattr(back, name), getattr(structure, name))


def test_put_is_idempotent_and_keeps_order(store: Store, water: Structure) -> None:
    other = water.moved(water.positions + 0.1)
    with store.session() as session:
        assert store.put([water, other, water], session) == [water.id, other.id, water.id]
        assert store.put([other], session) == [other.id]
    with store.session() as session:
        store.put([water], session)
        assert session.scalar(sa.select(sa.func.count()).select_from(orm.StructureRow)) == 2
        assert session.get(orm.StructureRow, water.id).formula == "H2O"
    assert len(list(store.structures.iterdir())) == 2


def test_an_error_rolls_back_the_rows(store: Store, water: Structure) -> None:
    def fails() -> None:
        with store.session() as session:
            store.put([water], session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with store.reading() as session:
        assert session.get(orm.StructureRow, water.id) is None
    with store.session() as session:
        store.put([water], session)
    assert store.get([water.id]) == [water]


@pytest.mark.parametrize("damage", ["cut", "changed", "pickle", "missing", "other format"])
def test_a_damaged_file_is_named(store: Store, water: Structure, damage: str) -> None:
    with store.session() as session:
        store.put([water], session)
    path = store.path_of(water.id)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "changed":
        np.savez(path, format=1, **{k: getattr(water.moved(water.positions + 1), k) for k in _fields()})
    elif damage == "pickle":
        np.savez(path, format=1, **{k: np.array([getattr(water, k)], dtype=object) for k in _fields()})
    elif damage == "other format":
        np.savez(path, format=99, **{k: getattr(water, k) for k in _fields()})
    else:
        path.unlink()
    with pytest.raises(InputError, match=path.name):
        store.get([water.id])


def _fields() -> tuple[str, ...]:
    return ("numbers", "positions", "cell", "pbc", "tags", "fixed")


def test_the_first_file_format_still_loads() -> None:
    """``format1.npz`` was written by the first version; it must load for ever."""
    (path,) = (Path(__file__).parent / "format1").glob("*.npz")
    structure = read_npz(path)
    assert structure == Structure.from_ase(molecule("H2O", vacuum=3.0, pbc=True))


def test_foreign_keys_are_held(store: Store) -> None:
    label = {"job_id": "0", "structure_id": "0", "energy": 0, "max_force": 0, "forces": "x"}
    with store.session() as session, pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
        insert_new(session, orm.LabelRow, [label])


def test_register_model_twice_is_one_row(store: Store, tmp_path: Path) -> None:
    first, moved = tmp_path / "a.json", tmp_path / "b.json"
    moved.touch()
    with store.session() as session:
        store.register_model(session, first, "d" * 64, "mace", "e" * 64)
        store.register_model(session, moved, "d" * 64, "mace", "e" * 64)
        store.register_model(session, moved, "f" * 64, "mace", "e" * 64, parent="d" * 64)
    with store.reading() as session:
        rows = {row.sha256: row for row in session.scalars(sa.select(orm.ModelRow))}
    assert len(rows) == 2
    assert rows["d" * 64].manifest == str(moved)
    assert rows["f" * 64].parent_sha256 == "d" * 64


@pytest.mark.slow
def test_writers_in_two_processes_lose_nothing(store: Store, program: Callable[..., list[str]]) -> None:
    with store.session() as session:
        session.add(orm.RunRow(id="x", kind="sampling", folder="x", seed=0))
    command = program("increment_twenty_times", store.folder)
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with store.reading() as session:
        assert session.get(orm.RunRow, "x").seed == 40


@pytest.mark.slow
def test_two_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = "import sys; from rlpath_core.store import Store; Store(sys.argv[1]).close()"
    opened = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new")]) for _ in range(4)]
    assert [process.wait(60) for process in opened] == [0, 0, 0, 0]


def test_reading_does_not_wait_for_a_writer(store: Store) -> None:
    with store.session() as writer:
        writer.add(orm.RunRow(id="x", kind="sampling", folder="x"))
        writer.flush()
        started = time.monotonic()
        with store.reading() as session:
            assert session.get(orm.RunRow, "x") is None
        assert time.monotonic() - started < 5


@pytest.mark.slow
def test_killed_in_a_transaction(tmp_path: Path, water: Structure, program: Callable[..., list[str]]) -> None:
    """SIGKILL after the files and before the commit: no rows, and the same put works afterwards."""
    done = subprocess.run(program("killed_in_transaction", tmp_path), check=False)
    assert done.returncode == -signal.SIGKILL
    with Store(tmp_path) as store:
        with store.session() as session:
            assert session.get(orm.StructureRow, water.id) is None
            store.put([water], session)
        assert store.get([water.id]) == [water]


def test_what_is_no_store_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "rlpath.db").write_bytes(b"no database at all, but long enough to be taken for one" * 50)
    with pytest.raises(InputError, match=r"rlpath\.db"):
        Store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        Store(tmp_path / "file")
    with pytest.raises(InputError, match="database URL"):
        Store(tmp_path / "other", url="nonsense")


def test_a_newer_schema_is_refused(store: Store) -> None:
    store.close()
    with sqlite3.connect(store.folder / "rlpath.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match="newer"):
        Store(store.folder)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_opening_an_old_store_imports_no_alembic(store: Store) -> None:
    code = "import sys; from rlpath_core.store import Store; Store(sys.argv[1]); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(store.folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
