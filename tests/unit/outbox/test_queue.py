"""The outbox over a store: what is read, decided, written, remembered, and what survives a kill."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from ase.build import molecule

from rlpath_core.config import check
from rlpath_core.errors import InputError
from rlpath_core.outbox import process_outbox, select_chosen, skip_rest
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.store import Store, orm, queries
from rlpath_core.structure import Structure


class Queue:
    """A store with the queue of one run, and the dft_queue.jsonl that goes with it, as sampling writes them."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.run_dir = folder / "sampling" / "round-1"
        self.run_dir.mkdir(parents=True)
        self.path = self.run_dir / "dft_queue.jsonl"
        self.path.touch()
        with self.store.session() as session:
            session.add(orm.RunRow(id="round-1", kind="sampling", folder="sampling/round-1"))
        self.n = 0

    def add(self, structure: Structure, **changes: Any) -> str:
        self.n += 1
        with self.store.session() as session:
            (key,) = self.store.put([structure], session)
            row = {"structure_id": key, "run_id": "round-1", "attempt": self.n, "stage": "sample"} | {
                "trigger": "max_force",
                "score": 1.0,
                "max_force": 1.5,
                "energy": -1.0,
            }
            row |= changes
            session.add(orm.QueueRow(**row))
        with open(self.path, "a") as stream:
            stream.write(json.dumps({"id": self.n, "action": "jitter"} | row) + "\n")
        return key

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.run_dir / f"dft_{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def state(self, key: str) -> tuple[str, str | None]:
        with self.store.reading() as session:
            row = session.scalar(sa.select(orm.QueueRow).where(orm.QueueRow.structure_id == key))
            assert row is not None
            return row.state, row.reason


@pytest.fixture
def queue(tmp_path: Path):
    made = Queue(tmp_path / "campaign")
    yield made
    made.store.close()


def water(k: float, seed: int = 0) -> Structure:
    """Water stretched by ``k`` tenths of an ångström, an id of its own by ``seed``."""
    atoms = molecule("H2O")
    atoms.positions[1] += 0.1 * k * (atoms.positions[1] - atoms.positions[0])
    atoms.positions += 1e-3 * np.random.default_rng(seed).normal(size=(3, 3)) * (seed > 0)
    return Structure.from_ase(atoms)


def spread(count: int) -> list[Structure]:
    return [water(6 * k) for k in range(count)]


def test_selects_and_skips_and_says_why(queue: Queue) -> None:
    first = queue.add(water(0), score=2.0)
    twin = queue.add(water(0, seed=1), score=1.0)
    far = queue.add(water(12), score=0.5)
    wild = queue.add(water(20), max_force=31.0)
    summary = process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    assert (summary.read, summary.selected, summary.new) == (4, 2, 2)
    assert summary.skipped == {"duplicate": 1, "exploded": 1}
    assert {line["structure_id"] for line in queue.lines("submit")} == {first, far}
    reasons = {line["structure_id"]: line["reason"] for line in queue.lines("skip")}
    assert reasons[twin].startswith(f"duplicate of {first} at RMSD 0.00")
    assert reasons[wild] == "exploded: max_force 31 is above 30"
    assert queue.state(first) == ("selected", None)
    assert queue.state(twin) == ("skipped", reasons[twin])
    for line in queue.lines("submit"):
        assert (queue.store.folder / line["file"]).is_file()
        assert (line["round"], line["max_force"], line["trigger"]) == (1, 1.5, "max_force")


def test_the_highest_score_stands_for_its_duplicates(queue: Queue) -> None:
    queue.add(water(0), score=0.1)
    best = queue.add(water(0, seed=1), score=0.9)
    process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    assert [line["structure_id"] for line in queue.lines("submit")] == [best]


def test_again_changes_nothing(queue: Queue) -> None:
    for k, structure in enumerate(spread(4)):
        queue.add(structure, score=k)
    first = process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=2), round_index=1)
    files = [(queue.run_dir / f"dft_{name}.jsonl").read_bytes() for name in ("submit", "skip")]
    again = process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=2), round_index=1)
    assert (again.read, again.selected, again.skipped, again.new) == (4, 2, {"over budget": 2}, 0)
    assert first.new == 2
    assert files == [(queue.run_dir / f"dft_{name}.jsonl").read_bytes() for name in ("submit", "skip")]


def test_the_memory_survives_a_restart_and_another_round(queue: Queue) -> None:
    first = queue.add(water(0))
    process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    with queue.store.session() as session:
        session.execute(sa.update(orm.QueueRow).values(state="labelled"))
    folder = queue.store.folder
    queue.store.close()
    queue.store = Store(folder)
    twin = queue.add(water(0, seed=3))
    summary = process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=2)
    assert (summary.selected, summary.skipped) == (0, {"duplicate": 1})
    assert queue.state(twin)[1] == queue.lines("skip")[0]["reason"]
    assert queue.lines("skip")[0]["duplicate_of"] == first


def eight_copies() -> list[Structure]:
    """Water at no site of symmetry on a fixed square layer of copper, under the layer's turns and mirrors."""
    side, height = 5.1, 2.3
    layer = [(x, y, 0.0) for x in (0, side / 2) for y in (0, side / 2)]
    water = [(0.5, 1.2, height), (1.3, 1.4, height + 0.5), (0.1, 2.0, height + 0.3)]
    numbers, fixed = [29] * 4 + [8, 1, 1], [True] * 4 + [False] * 3
    operations = [(turn @ np.diag((sign, 1, 1))) for sign in (1, -1) for turn in QUARTER_TURNS]
    shifts = np.array([(0, 0, 0), (side / 2, 0, 0), (0, side / 2, 0), (side / 2, side / 2, 0)])
    cell = np.diag([side, side, 20.0])
    return [
        Structure(numbers, [*layer, *(water @ operation + shifts[k % 4])], cell, [True] * 3, fixed=fixed)
        for k, operation in enumerate(operations)
    ]


QUARTER_TURNS = [np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]


@pytest.mark.parametrize("symmetry", [True, False])
def test_eight_copies_of_one_structure_are_one_label(
    queue: Queue, symmetry: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rlpath.outbox")
    first, *others = [queue.add(structure, score=10 - k) for k, structure in enumerate(eight_copies())]
    summary = process_outbox(queue.store, queue.run_dir, OutboxConfig(symmetry=symmetry), round_index=1)
    assert summary.selected == (1 if symmetry else 8)
    if symmetry:
        assert queue.state(first) == ("selected", None)
        assert {queue.state(key) for key in others} == {
            ("skipped", f"duplicate of {first} at RMSD 0.000 by symmetry"),
        }
        assert [record.getMessage() for record in caplog.records] == ["7 of 7 duplicates are symmetry copies"]


def test_copies_of_what_was_labelled_before_are_found(queue: Queue) -> None:
    """In an earlier round, in another run, and imported: whatever is in the database."""
    first, *others = eight_copies()
    label = queue.add(first)
    process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    with queue.store.session() as session:
        session.execute(sa.update(orm.QueueRow).values(state="labelled"))
        session.add(orm.RunRow(id="round-2", kind="imported", folder="sampling/round-2"))
    for structure in others[:4]:
        queue.add(structure)
    for structure in others[4:]:
        queue.add(structure, run_id="round-2")
    for folder in (queue.run_dir, queue.run_dir.with_name("round-2")):
        folder.mkdir(exist_ok=True)
        summary = process_outbox(queue.store, folder, OutboxConfig(), round_index=2)
        assert (summary.new, summary.skipped) == (0, {"duplicate": 4 if folder == queue.run_dir else 3})
        assert {line["duplicate_of"] for line in queue.lines("skip")} == {label}


def test_the_budget_is_of_the_round_not_of_the_call(queue: Queue) -> None:
    structures = spread(6)
    for structure in structures[:2]:
        queue.add(structure)
    process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=3), round_index=1)
    for structure in structures[2:]:
        queue.add(structure)
    summary = process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=3), round_index=1)
    assert (summary.selected, summary.new, summary.skipped) == (3, 1, {"over budget": 3})
    without = process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=3), round_index=None)
    assert without.new == 0


def test_kept_candidates_get_their_turn(queue: Queue) -> None:
    for k, structure in enumerate(spread(5)):
        queue.add(structure, score=k)
    config = OutboxConfig(budget=2, keep_unselected=True, select="score")
    assert process_outbox(queue.store, queue.run_dir, config, round_index=1).new == 2
    assert queue.lines("skip") == []
    assert process_outbox(queue.store, queue.run_dir, config, round_index=1).new == 0
    assert process_outbox(queue.store, queue.run_dir, config, round_index=2).new == 2
    queue.add(water(6, seed=2), score=100.0)  # a twin of one that was labelled meanwhile
    last = process_outbox(queue.store, queue.run_dir, config, round_index=3)
    assert (last.new, last.skipped) == (1, {"duplicate": 1})
    submitted = [line["structure_id"] for line in queue.lines("submit")]
    assert submitted == [s.id for s in reversed(spread(5))]


def test_what_others_queued_is_left_alone(queue: Queue) -> None:
    """Each outbox takes the candidates of its own run folder, and names each by its line in the queue file."""
    first = queue.add(water(0))
    with queue.store.session() as session:
        session.add(orm.RunRow(id="round-2", kind="sampling", folder="sampling/round-2"))
    other = queue.add(water(12), run_id="round-2")
    last = queue.add(water(24))
    summary = process_outbox(queue.store, queue.run_dir, OutboxConfig(select="score"), round_index=1)
    assert (summary.read, summary.selected) == (2, 2)
    assert [(line["id"], line["structure_id"]) for line in queue.lines("submit")] == [(1, first), (2, last)]
    assert queue.state(other) == ("queued", None)


def test_candidates_are_not_read_from_the_file(queue: Queue) -> None:
    keys = {queue.add(structure) for structure in spread(3)}
    queue.path.unlink()
    assert process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1).selected == 3
    assert {line["structure_id"] for line in queue.lines("submit")} == keys


def test_lines_that_the_database_does_not_know_are_reported(queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    queue.add(water(0))
    process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    assert not caplog.records
    with open(queue.path, "a") as stream:
        stream.write(json.dumps({"structure_id": water(12).id}) + "\n")
    process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    (record,) = caplog.records
    assert "1 lines are not in the database" in record.getMessage()
    assert f"rlpath store queue {queue.path} --run_dir {queue.run_dir}" in record.getMessage()


def test_a_folder_without_a_run_is_an_error_that_says_how_to_import(queue: Queue) -> None:
    elsewhere = queue.store.folder / "mine"
    with pytest.raises(InputError, match="no run that was written here"):
        process_outbox(queue.store, elsewhere, OutboxConfig(), round_index=1)
    elsewhere.mkdir()
    (elsewhere / "dft_queue.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=f"rlpath store queue {elsewhere}/dft_queue.jsonl --run_dir {elsewhere}"):
        process_outbox(queue.store, elsewhere, OutboxConfig(), round_index=1)
    assert not (elsewhere / "dft_submit.jsonl").exists()


def test_a_missing_structure_is_named_and_nothing_is_decided(queue: Queue) -> None:
    first, second = queue.add(water(0)), queue.add(water(12))
    queue.store.path_of(second).unlink()
    with pytest.raises(InputError, match=rf"{second}\.npz: no such structure file"):
        process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    assert queue.state(first) == ("queued", None)
    assert not (queue.run_dir / "dft_submit.jsonl").exists()


def test_rounding_noise_does_not_decide_between_equal_scores(queue: Queue) -> None:
    first = queue.add(water(0), score=1.0)
    queue.add(water(0, seed=1), score=1.0 + 1e-9)
    process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    assert [line["structure_id"] for line in queue.lines("submit")] == [first]


def test_output_files_are_brought_to_agree(queue: Queue) -> None:
    """Whatever a kill or an editor left there, the next call writes what the database says."""
    for structure in spread(3):
        queue.add(structure)
    process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=2), round_index=1)
    submit = queue.run_dir / "dft_submit.jsonl"
    right = submit.read_text()
    submit.write_text(right + right)
    (queue.run_dir / "dft_skip.jsonl").unlink()
    process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=2), round_index=1)
    assert submit.read_text() == right
    assert len(queue.lines("skip")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "at"),
    [("_decide", 1), ("_decide", -1), ("commit", 1), ("commit", -1), ("_write", 1), ("_write", -1), ("_write", 2)],
)
def test_killed_between_any_two_steps(queue: Queue, step: str, at: int, program: Callable[..., list[str]]) -> None:
    """Before (positive) and after (negative) the step; the next call gives what an undisturbed one gives."""
    for k, structure in enumerate(spread(4)):
        queue.add(structure, score=k)
    command = program("killed_outbox", queue.store.folder, queue.run_dir, step, at)
    assert subprocess.run(command).returncode == -signal.SIGKILL
    summary = process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=2), round_index=1)
    assert (summary.read, summary.selected, summary.skipped) == (4, 2, {"over budget": 2})
    ids = [line["structure_id"] for name in ("submit", "skip") for line in queue.lines(name)]
    assert len(ids) == len(set(ids)) == 4


def test_raw_coordinates_are_kept(queue: Queue) -> None:
    moved = water(0).moved(water(0).positions + [11.0, -7.0, 3.0])
    key = queue.add(moved)
    process_outbox(queue.store, queue.run_dir, OutboxConfig(), round_index=1)
    np.testing.assert_array_equal(queue.store.get([key])[0].positions, moved.positions)


def test_a_selection_that_nobody_provides_decides_nothing(queue: Queue) -> None:
    queue.add(water(0))
    with pytest.raises(InputError, match=r"select: no selection is called 'best'.* Known: diverse, random, score"):
        process_outbox(queue.store, queue.run_dir, OutboxConfig(select="best"), round_index=1)
    assert queries.decisions(queue.store) == []
    assert not (queue.run_dir / "dft_submit.jsonl").exists()


@pytest.mark.parametrize(("value", "says"), [({"rsmd": 0.2}, "rmsd"), ({"budget": 0}, "budget")])
def test_wrong_configs(value: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check(OutboxConfig, value, "outbox.yaml")


def twins(count: int) -> list[Structure]:
    """Structures that an outbox would take for one."""
    first = water(0)
    return [first.moved(first.positions + np.array([0.01 * k, 0, 0])) for k in range(count)]


def test_chosen_ones_in_the_given_order_and_without_looking_for_duplicates(queue: Queue) -> None:
    ids = [queue.add(structure, score=k) for k, structure in enumerate(twins(4))]
    wanted = [ids[2], ids[0], ids[2], "not-in-the-queue", ids[1]]
    assert select_chosen(queue.store, queue.run_dir, wanted, OutboxConfig(budget=2), round_index=1) == [ids[2], ids[0]]
    assert [queue.state(key)[0] for key in ids] == ["selected", "queued", "selected", "queued"]
    skip_rest(queue.store, queue.run_dir, round_index=1)
    assert queue.state(ids[1]) == queue.state(ids[3]) == ("skipped", "over budget")
    assert [line["structure_id"] for line in queue.lines("submit")] == [ids[2], ids[0]]
    assert [line["structure_id"] for line in queue.lines("skip")] == [ids[1], ids[3]]


def test_chosen_before_counts(queue: Queue) -> None:
    ids = [queue.add(structure) for structure in twins(4)]
    config = OutboxConfig(budget=3)
    for _ in range(2):  # as after a kill
        assert select_chosen(queue.store, queue.run_dir, ids[:2], config, round_index=1) == ids[:2]
    assert select_chosen(queue.store, queue.run_dir, ids, config, round_index=1) == ids[:3]
    assert queue.state(ids[3]) == ("queued", None)
    assert select_chosen(queue.store, queue.run_dir, ids, config, round_index=2) == [ids[3]]


def test_the_outbox_chooses_with_what_is_left(queue: Queue) -> None:
    ids = [queue.add(structure) for structure in spread(5)]
    select_chosen(queue.store, queue.run_dir, ids[:2], OutboxConfig(budget=2), round_index=1)
    summary = process_outbox(queue.store, queue.run_dir, OutboxConfig(budget=3), round_index=1)
    assert (summary.selected, summary.new) == (3, 1)


@pytest.mark.parametrize("limit", [{"max_force": 1.0}, {"max_score": 0.5}])
def test_exploded_chosen_ones_are_skipped_with_the_reason(queue: Queue, limit: dict[str, float]) -> None:
    key = queue.add(water(0))
    assert select_chosen(queue.store, queue.run_dir, [key], OutboxConfig(**limit), round_index=1) == []
    state, reason = queue.state(key)
    assert (state, (reason or "").split(":")[0]) == ("skipped", "exploded")
