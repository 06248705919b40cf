"""Queue files that no sampler wrote: imported into the database, then taken by the outbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ase.build import molecule

from rlpath_core.errors import InputError
from rlpath_core.outbox import import_queue, process_outbox
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.store import Store, orm, queries
from rlpath_core.structure import Structure


def molecules() -> list[Structure]:
    return [Structure.from_ase(molecule(name)) for name in ("H2O", "NH3", "CH4")]


@pytest.fixture
def store(tmp_path: Path):
    """Three structures that are stored, and no run."""
    with Store(tmp_path / "mine") as opened:
        with opened.session() as session:
            opened.put(molecules(), session)
        yield opened


def write(store: Store, *lines: Any) -> Path:
    path = store.folder / "dft_queue.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_an_imported_queue_is_taken_by_the_outbox_once(store: Store) -> None:
    first, second, third = (structure.id for structure in molecules())
    path = write(store, {"structure_id": first}, {"structure_id": second, "score": 2, "note": "mine"})
    summary = import_queue(store, path, store.folder)
    assert (summary.lines, summary.queued, summary.known) == (2, 2, 0)
    assert process_outbox(store, store.folder, OutboxConfig(), round_index=None).selected == 2
    path = write(store, {"structure_id": first}, {"structure_id": third, "max_force": 40.0}, {"structure_id": third})
    summary = import_queue(store, path, store.folder)
    assert (summary.lines, summary.queued, summary.known) == (3, 1, 2)
    result = process_outbox(store, store.folder, OutboxConfig(), round_index=None)
    assert (result.read, result.selected, result.new, result.skipped) == (3, 2, 0, {"exploded": 1})
    submitted = [json.loads(line) for line in (store.folder / "dft_submit.jsonl").read_text().splitlines()]
    assert [(line["structure_id"], line["score"]) for line in submitted] == [(second, 2.0), (first, 0.0)]


def test_predicted_values_that_a_row_lacks_are_filled_in(store: Store) -> None:
    key = molecules()[0].id
    import_queue(store, write(store, {"structure_id": key, "score": 3.0, "energy": -1.0}), store.folder)
    import_queue(store, write(store, {"structure_id": key, "score": 9.0, "energy": -7, "max_force": 1}), store.folder)
    (entry,) = queries.queue(store)
    assert (entry.score, entry.energy, entry.max_force) == (3.0, -1.0, 1.0)


def test_lines_belong_to_the_run_of_the_folder_or_say_which(store: Store) -> None:
    first, second, third = (structure.id for structure in molecules())
    with store.session() as session:
        session.add(orm.RunRow(id="sampled", kind="sampling", folder="run"))
        session.add(orm.RunRow(id="other", kind="sampling", folder="elsewhere"))
    path = write(store, {"structure_id": first}, {"structure_id": second, "run_id": "new", "attempt": 7})
    import_queue(store, path, store.folder / "run")
    entries = {entry.structure_id: entry for entry in queries.queue(store)}
    assert entries[first].run_id == "sampled"
    assert (entries[second].run_id, entries[second].attempt) == ("new", 7)
    with pytest.raises(InputError, match="line 1: run other was written to elsewhere: give that as --run_dir"):
        import_queue(store, write(store, {"structure_id": third, "run_id": "other"}), store.folder / "run")


ID = "0" * 64


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ('{"structure_id": "', "not JSON"),
        ("[1, 2]", "expected a JSON object"),
        ({"score": 1.0}, "structure_id"),
        ({"structure_id": "../../etc/passwd", "score": 1.0}, "structure_id"),
        ({"structure_id": ID, "score": "high"}, "score"),
        ({"structure_id": ID, "score": float("nan")}, "score"),
        ({"structure_id": ID, "score": True}, "score"),
        ({"structure_id": ID, "max_force": "x"}, "max_force"),
        ({"structure_id": ID, "attempt": "x"}, "attempt"),
        ({"structure_id": ID, "score": 1.0}, "no such structure file"),
        ("", "not JSON"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_queued(store: Store, line: Any, reported: str) -> None:
    path = write(store, {"structure_id": molecules()[0].id}, line)
    with pytest.raises(InputError, match=reported) as caught:
        import_queue(store, path, store.folder)
    assert "dft_queue.jsonl: line 2" in str(caught.value)
    with store.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(orm.QueueRow)) == 0
