"""``rlpath store``: what it prints of a small campaign, and every kind of damage that ``check`` reports."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from flows.outbox import main as outbox
from flows.store import LISTS, main
from rlpath_core.data import read_labelled
from rlpath_core.files import read_lines, write_json
from rlpath_core.store.npz import write_npz
from rlpath_core.structure import Structure

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(campaign: Path, tmp_path: Path) -> Path:
    """The campaign in another place, to be damaged."""
    return Path(shutil.copytree(campaign, tmp_path / "copy"))


def ids(folder: Path, query: str) -> list[str]:
    with closing(sqlite3.connect(folder / "rlpath.db")) as connection:
        return [row[0] for row in connection.execute(query)]


def test_ls_counts_and_lists_every_kind_of_row(campaign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--run_dir", str(campaign)]) == 0
    counted = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert counted["labels"] == str(len(ids(campaign, "SELECT job_id FROM labels")))
    for what in LISTS:
        assert main(["ls", what, "--run_dir", str(campaign), "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert main(["ls", what, "--run_dir", str(campaign)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1
        if what in counted:
            assert len(rows) == int(counted[what])
    assert main(["ls", "queue", "--run_dir", str(campaign), "--round", "2", "--limit", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["round"] for row in rows] == [2, 2, 2]


def test_why_and_show_find_a_label_by_the_beginning_of_its_id(
    campaign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (key, *_) = ids(campaign, "SELECT structure_id FROM labels")
    assert main(["why", key[:12], "--run_dir", str(campaign)]) == 0
    printed = capsys.readouterr().out
    assert f"structure_id: {key}" in printed
    assert "action: " in printed
    assert "engine: ase" in printed
    assert main(["show", key[:12], "--run_dir", str(campaign)]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("[")] == [
        "[structures]",
        "[queue]",
        "[jobs]",
        "[labels]",
    ]
    assert main(["why", "nothing", "--run_dir", str(campaign)]) == 2
    assert main(["show", "nothing", "--run_dir", str(campaign)]) == 2
    assert capsys.readouterr().err.count("starts with 'nothing'") == 2


@pytest.mark.parametrize("name", ["out.xyz", "out.lmdb"])
def test_export_writes_the_labels_of_a_round(campaign: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert main(["export", "--round", "2", str(out), "--run_dir", str(campaign)]) == 0
    exported = read_labelled(out)
    expected = read_labelled(campaign / "labels" / "round-2.lmdb")
    assert len(exported) == len(expected) > 0
    for one, other in zip(exported, expected, strict=True):
        assert one.structure.numbers.tolist() == other.structure.numbers.tolist()
        np.testing.assert_allclose(one.structure.positions, other.structure.positions, atol=1e-5)
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-6)
        assert one.energy == pytest.approx(other.energy, abs=1e-6)
    assert main(["export", "--round", "2", str(out), "--run_dir", str(campaign)]) == 2, "never overwritten"


def test_a_queue_file_without_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The outbox names the command; after it the outbox works."""
    structure = Structure.from_ase(molecule("H2O"))
    run_dir = tmp_path / "mine"
    write_npz(run_dir / "structures" / f"{structure.id}.npz", structure)
    queue = run_dir / "dft_queue.jsonl"
    queue.write_text(json.dumps({"structure_id": structure.id}) + "\n")
    assert outbox(["--run_dir", str(run_dir)]) == 2
    command = capsys.readouterr().err.partition("rlpath store ")[2].split()
    assert command == ["queue", str(queue), "--run_dir", str(run_dir)]
    assert main(command) == 0
    assert outbox(["--run_dir", str(run_dir)]) == 0
    assert [line["structure_id"] for line in read_lines(run_dir / "dft_submit.jsonl")] == [structure.id]
    assert main(["check", "--run_dir", str(run_dir)]) == 0
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert main(["queue", str(queue), "--run_dir", str(tmp_path / "empty")]) == 2
    assert list((tmp_path / "empty").iterdir()) == []


def test_check_finds_nothing_wrong_with_a_finished_campaign(
    campaign: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (campaign, copy):
        assert main(["check", "--run_dir", str(folder)]) == 0
        assert capsys.readouterr().out == "files and rows agree\n"


def structure_of(folder: Path) -> Path:
    return folder / "structures" / f"{ids(folder, 'SELECT structure_id FROM labels')[0]}.npz"


def exchange_structure(folder: Path) -> None:
    write_npz(structure_of(folder), Structure.from_ase(molecule("H2O")))


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / "sampling" / "round-2" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def drop_last_line(folder: Path, name: str) -> None:
    path = folder / "sampling" / "round-1" / name
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def execute(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "rlpath.db")) as connection, connection:
        assert connection.execute(statement).rowcount > 0


def replace_manifest(folder: Path) -> None:
    write_json(folder / "m.json", {})
    execute(folder, f"UPDATE models SET manifest = '{folder / 'm.json'}'")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "structure gone": (lambda f: structure_of(f).unlink(), "no such structure file"),
    "structure cut": (lambda f: structure_of(f).write_bytes(structure_of(f).read_bytes()[:200]), "is damaged"),
    "another structure": (exchange_structure, "it was changed"),
    "step edited": (lambda f: edit(f, "steps.jsonl", '"accepted": true', '"accepted": false'), "accepted is False"),
    "step line lost": (lambda f: drop_last_line(f, "steps.jsonl"), "lines, in the database"),
    "basin edited": (lambda f: edit(f, "basins.jsonl", '"basin": "b0001"', '"basin": "b0009"'), "basin is 'b0009'"),
    "score edited": (lambda f: edit(f, "dft_queue.jsonl", '"score": ', '"score": 1'), "score is 1"),
    "no JSON": (lambda f: edit(f, "dft_queue.jsonl", "{", ""), "not JSON"),
    "queue row lost": (lambda f: execute(f, "UPDATE queue SET attempt = 999"), "in the database 999"),
    "submitted lost": (lambda f: (f / "sampling/round-1/dft_submit.jsonl").unlink(), "dft_submit.jsonl: missing"),
    "skipped edited": (lambda f: drop_last_line(f, "dft_skip.jsonl"), "dft_skip.jsonl: "),
    "LMDB gone": (lambda f: (f / "labels" / "round-1.lmdb").unlink(), "has no entry 0"),
    "label energy": (lambda f: execute(f, "UPDATE labels SET energy = energy + 0.1"), "is another label"),
    "manifest": (replace_manifest, "no longer the manifest"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_reports(copy: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    harm, reported = DAMAGE[damage]
    harm(copy)
    assert main(["check", "--run_dir", str(copy)]) == 1
    assert reported in capsys.readouterr().out
