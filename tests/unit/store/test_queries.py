"""Every question to the database against plain Python over all of its rows, read by sqlite3."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlpath_core.store import Store, orm, queries

Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tables(campaign: Path) -> Tables:
    with sqlite3.connect(campaign / "rlpath.db") as connection:
        connection.row_factory = sqlite3.Row
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in names}


@pytest.fixture(scope="module")
def store(campaign: Path) -> Iterator[Store]:
    with Store(campaign) as opened:
        yield opened


def by(rows: list[dict[str, Any]], key: str) -> dict[Any, dict[str, Any]]:
    out = {row[key]: row for row in rows}
    assert len(out) == len(rows)
    return out


def test_counts(store: Store, tables: Tables) -> None:
    counted = queries.counts(store)
    assert counted == {name: len(rows) for name, rows in tables.items() if name != "alembic_version"}
    assert all(counted[name] for name in ("attempts", "basins", "transitions", "queue", "jobs", "labels", "rounds"))


def test_rounds_runs_and_models(store: Store, tables: Tables) -> None:
    assert [(r.round, r.metrics) for r in queries.rounds(store)] == [
        (r["round"], json.loads(r["metrics"])) for r in sorted(tables["rounds"], key=lambda r: r["round"])
    ]
    runs = by(tables["runs"], "id")
    assert [run.id for run in queries.runs(store)] == sorted(runs)
    for run in queries.runs(store):
        assert run.folder == f"sampling/round-{run.round}" == runs[run.id]["folder"]
        assert run.seed == run.round == runs[run.id]["seed"]
    models = by(tables["models"], "sha256")
    assert {m.sha256: m.parent_sha256 for m in queries.models(store)} == {
        key: row["parent_sha256"] for key, row in models.items()
    }


@pytest.mark.parametrize("round_index", [None, 1, 2])
def test_the_network(store: Store, tables: Tables, round_index: int | None) -> None:
    runs = by(tables["runs"], "id")
    found_by = {(a["run_id"], a["n"]): a["action"] for a in tables["attempts"]}
    mine = [b for b in tables["basins"] if round_index in (None, runs[b["run_id"]]["round"])]
    lowest: dict[str, float] = {}
    for row in mine:
        lowest[row["run_id"]] = min(row["energy"], lowest.get(row["run_id"], row["energy"]))
    network = queries.network(store, round_index)
    assert [basin.id for basin in network.basins] == [b["id"] for b in sorted(mine, key=lambda b: b["energy"])]
    rows = by(mine, "id")
    for basin in network.basins:
        row = rows[basin.id]
        assert (basin.name, basin.energy, basin.visits) == (row["name"], row["energy"], row["visits"])
        assert (basin.run, basin.round) == (row["run_id"], runs[row["run_id"]]["round"])
        assert basin.above == pytest.approx(row["energy"] - lowest[row["run_id"]], abs=1e-12)
        assert basin.action == found_by.get((row["run_id"], row["first_attempt"]), "start")
    ids = set(rows)
    assert [(t.start, t.end, t.action, t.count) for t in network.transitions] == [
        (t["from_basin"], t["to_basin"], t["action"], t["count"])
        for t in tables["transitions"]
        if t["from_basin"] in ids
    ]
    assert network.transitions


def test_attempts(store: Store, tables: Tables) -> None:
    rounds = {row["id"]: row["round"] for row in tables["runs"]}
    names = {row["id"]: row["name"] for row in tables["basins"]}
    found = queries.attempts(store)
    assert [(a.run_id, a.n) for a in found] == [
        (a["run_id"], a["n"]) for a in sorted(tables["attempts"], key=lambda a: (a["run_id"], a["id"]))
    ]
    rows = {(a["run_id"], a["n"]): a for a in tables["attempts"]}
    for attempt in found:
        row = rows[attempt.run_id, attempt.n]
        assert attempt.basin == names.get(row["basin_id"])
        assert (attempt.action, attempt.accepted, attempt.reason) == (row["action"], row["accepted"], row["reason"])
    action = Counter(a["action"] for a in tables["attempts"]).most_common(1)[0][0]
    some = queries.attempts(store, 2, action=action, accepted=True)
    mine = [a for a in tables["attempts"] if rounds[a["run_id"]] == 2 and a["action"] == action and a["accepted"]]
    assert [a.n for a in some] == [a["n"] for a in sorted(mine, key=lambda a: a["id"])]
    assert queries.attempts(store, run_id="sample/round-2", limit=3) == [a for a in found if a.run_id.endswith("2")][:3]
    assert some


@pytest.mark.parametrize("round_index", [None, 2])
def test_action_counts(store: Store, tables: Tables, round_index: int | None) -> None:
    rounds = {row["id"]: row["round"] for row in tables["runs"]}
    mine = [a for a in tables["attempts"] if round_index in (None, rounds[a["run_id"]])]
    attempts, accepted = (Counter(a["action"] for a in part) for part in (mine, [a for a in mine if a["accepted"]]))
    assert [(c.action, c.attempts, c.accepted) for c in queries.action_counts(store, round_index)] == [
        (action, attempts[action], accepted[action]) for action in sorted(attempts)
    ]


def test_job_states_and_failures(store: Store, tables: Tables) -> None:
    rounds = {row["structure_id"]: row["round"] for row in tables["queue"]}
    states = queries.job_states(store)
    assert [s.round for s in states] == [1, 2]
    for state in states:
        assert state.counts == Counter(q["state"] for q in tables["queue"] if q["round"] == state.round)
        jobs = [j for j in tables["jobs"] if rounds[j["structure_id"]] == state.round]
        assert state.tries == sum(j["tries"] for j in jobs) > 0
        assert state.core_seconds == pytest.approx(sum(j["core_seconds"] for j in jobs))
    assert queries.job_states(store, 2) == states[1:]
    failed = [j for j in tables["jobs"] if j["state"] == "failed"]
    assert failed, "the campaign has calculations that failed"
    found = queries.failures(store)
    assert {f.job_id: (f.round, f.kind, f.reason) for f in found} == {
        j["id"]: (j["round"], j["failure"], j["reason"]) for j in failed
    }
    place = {row["structure_id"]: row["id"] for row in tables["queue"]}
    structures = {j["id"]: j["structure_id"] for j in failed}
    assert [f.job_id for f in found] == sorted(structures, key=lambda key: place[structures[key]])


def test_labels_and_what_models_were_trained_on(store: Store, tables: Tables) -> None:
    labels = by(tables["labels"], "job_id")
    assert {x.job_id: (x.energy, x.lmdb, x.lmdb_key) for x in queries.labels(store)} == {
        key: (row["energy"], row["lmdb"], row["lmdb_key"]) for key, row in labels.items()
    }
    assert {x.job_id for x in queries.labels(store, 2)} == {k for k, row in labels.items() if row["round"] == 2}
    assert {x.job_id for x in queries.labels(store, up_to=1)} == {k for k, row in labels.items() if row["round"] == 1}
    for model in tables["models"]:
        used = {t["job_id"] for t in tables["training_labels"] if t["model_sha256"] == model["sha256"]}
        assert {x.job_id for x in queries.training_labels(store, model["sha256"])} == used


def test_label_origins(store: Store, tables: Tables) -> None:
    attempts = {(a["run_id"], a["n"]): a["action"] for a in tables["attempts"]}
    queue = by(tables["queue"], "structure_id")
    expected: dict[tuple[str, str], list[float]] = {}
    for label in tables["labels"]:
        row = queue[label["structure_id"]]
        expected.setdefault((attempts[row["run_id"], row["attempt"]], row["stage"]), []).append(label["max_force"])
    origins = queries.label_origins(store)
    assert {(o.action, o.stage): (o.labels, o.max_force) for o in origins} == {
        key: (len(forces), max(forces)) for key, forces in expected.items()
    }
    assert [o.labels for o in origins] == sorted((o.labels for o in origins), reverse=True)


def test_the_story_of_every_label(store: Store, tables: Tables) -> None:
    """The README's question: which action, seed, model and engine settings made it."""
    attempts = {(a["run_id"], a["n"]): a for a in tables["attempts"]}
    queue, runs, jobs = by(tables["queue"], "structure_id"), by(tables["runs"], "id"), by(tables["jobs"], "id")
    for label in tables["labels"]:
        (story,) = queries.label_story(store, label["structure_id"][:16])
        assert queries.label_story(store, label["job_id"]) == [story]
        queued, job = queue[label["structure_id"]], jobs[label["job_id"]]
        attempt, run = attempts[queued["run_id"], queued["attempt"]], runs[queued["run_id"]]
        assert (story.action, story.parameters) == (attempt["action"], json.loads(attempt["parameters"]))
        assert (story.seed, story.model_sha256, story.run_id) == (run["seed"], run["model_sha256"], run["id"])
        assert (story.engine, story.settings) == (job["engine"], json.loads(job["settings"]))
        assert (story.energy, story.predicted_energy) == (label["energy"], queued["energy"])
        assert story.predicted_energy == pytest.approx(story.energy, abs=1e-4), "the model and the engine are both EMT"
        trained = {t["model_sha256"] for t in tables["training_labels"] if t["job_id"] == label["job_id"]}
        assert set(story.trained) == trained
        assert len(story.trained) == 3 - label["round"]
    assert queries.label_story(store, "%") == []


def test_find_by_the_beginning_of_an_id(store: Store, tables: Tables) -> None:
    label = tables["labels"][0]
    found = queries.find(store, label["structure_id"][:20])
    assert {name: len(rows) for name, rows in found.items()} == {"structures": 1, "queue": 1, "jobs": 1, "labels": 1}
    assert found["labels"][0]["job_id"] == label["job_id"]
    assert set(queries.find(store, "sample/round-")) == {"runs"}
    assert queries.find(store, "_") == {}


def test_the_queue_and_the_decisions_on_it(store: Store, tables: Tables) -> None:
    entries = queries.queue(store)
    assert [e.structure_id for e in entries] == [
        q["structure_id"] for q in sorted(tables["queue"], key=lambda q: q["id"])
    ]
    for run in {e.run_id for e in entries}:
        assert [e.n for e in entries if e.run_id == run] == list(range(1, 1 + sum(e.run_id == run for e in entries)))
    assert queries.queue(store, 2) == [e for e in entries if e.round == 2]
    assert all(e.max_force is not None and e.energy is not None for e in entries)
    decided = queries.decisions(store)
    rows = by(tables["decisions"], "structure_id")
    assert [d.structure_id for d in decided] == [
        d["structure_id"] for d in sorted(rows.values(), key=lambda d: d["id"])
    ]
    queue = by(tables["queue"], "structure_id")
    for decision in decided:
        row, queued = rows[decision.structure_id], queue[decision.structure_id]
        assert (decision.folder, decision.verdict, decision.rmsd) == (row["folder"], row["verdict"], row["rmsd"])
        assert (decision.run_id, decision.score) == (queued["run_id"], queued["score"])


def test_runs_are_found_where_the_store_is(store: Store, tmp_path: Path) -> None:
    """Also those of version 0.1, which kept absolute paths, after a move."""
    (run,) = queries.runs_in(store, store.folder / "sampling" / "round-2")
    assert run.id == "sample/round-2"
    assert queries.runs_in(store, store.folder / "sampling") == []
    with Store(tmp_path / "moved") as moved:
        with moved.session() as session:
            for number in (1, 11):
                old = f"/gone/campaigns/mine/sampling/round-{number}"
                session.add(orm.RunRow(id=f"sample/round-{number}", kind="sampling", folder=old))
        (run,) = queries.runs_in(moved, moved.folder / "sampling" / "round-1")
        assert run.id == "sample/round-1"
        assert queries.runs_in(moved, moved.folder / "sampling" / "round-2") == []
    with Store(tmp_path / "alone") as alone:
        with alone.session() as session:
            session.add(orm.RunRow(id="sample-old", kind="sampling", folder="/gone/runs/old"))
        assert [run.id for run in queries.runs_in(alone, alone.folder)] == ["sample-old"]
