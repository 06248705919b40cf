"""``kill -9`` in the middle of sampling, of saddle searches, of labelling and of training; then the command again."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, *more: str) -> list[str]:
    params = [
        f"campaigns_dir={folder / 'campaigns'}",
        f"models_dir={folder / 'models'}",
        "campaign=killed",
        "execution=inline",
        "device=cpu",
        "rounds=2",
        "labels_per_round=5",
        "sampling.steps=60",
        "sampling.walkers=4",
        "sampling.quench.steps=10",
        "paths.max_searches=4",
        "paths.walkers=2",
        "train.epochs=6",
        "train.save_every=1",
        *more,
    ]
    return [sys.executable, "-m", "flows.al_loop", *(word for p in params for word in ("--params", p))]


def environment(folder: Path) -> dict[str, str]:
    # No server may answer: the loop runs in its own process.
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }


def wait_and_kill(folder: Path, reached: Callable[[], bool], log: Path) -> bool:
    """Start the loop, SIGKILL its process when ``reached``; False if it ended before."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command(folder), cwd=ROOT, env=environment(folder), stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
        )
    deadline = time.monotonic() + 240
    while process.poll() is None and not reached():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.01)
    if process.poll() is not None:
        assert process.returncode == 0, log.read_text()[-3000:]
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def test_every_label_once_whatever_was_killed(tmp_path: Path) -> None:
    campaign, models, log = tmp_path / "campaigns" / "killed", tmp_path / "models" / "killed", tmp_path / "log"

    def sampling(round: int) -> Callable[[], bool]:
        steps = campaign / "sampling" / f"round-{round}" / "steps.jsonl"
        record = campaign / "stages" / f"round-{round}-explore.json"
        return lambda: steps.exists() and steps.stat().st_size > 0 and not record.exists()

    def searching(round: int) -> Callable[[], bool]:
        searches = campaign / "paths" / f"round-{round}" / "saddles.jsonl"
        record = campaign / "stages" / f"round-{round}-find_paths.json"
        return lambda: searches.exists() and not record.exists()

    def labelling(round: int) -> Callable[[], bool]:
        record = campaign / "stages" / f"round-{round}-label.json"

        def reached() -> bool:
            with sqlite3.connect(f"file:{campaign / 'rlpath.db'}?mode=ro", uri=True) as connection:
                done = connection.execute("SELECT count(*) FROM labels WHERE round = ?", (round,)).fetchone()[0]
            return done > 0 and not record.exists()

        return lambda: (campaign / "stages" / f"round-{round}-explore.json").exists() and reached()

    def training(round: int) -> Callable[[], bool]:
        checkpoint = models / f"round-{round}" / "checkpoints" / "checkpoint.pt"
        record = campaign / "stages" / f"round-{round}-learn.json"
        return lambda: checkpoint.exists() and not record.exists()

    hits = [
        wait_and_kill(tmp_path, reached, log)
        for reached in (sampling(1), searching(1), labelling(1), training(1), sampling(2), searching(2), training(2))
    ]
    assert all(hits[:4]), f"a stage ended before it could be killed: {hits}\n{log.read_text()[-2000:]}"

    end = subprocess.run(
        command(tmp_path), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=400
    )
    assert end.returncode == 0, end.stdout[-2000:] + end.stderr[-3000:]

    rounds = json.loads((campaign / "rounds.json").read_text())
    assert [entry["round"] for entry in rounds] == [0, 1, 2]
    assert rounds[-1]["labels"] == sum(entry["submitted"] - entry["failed"] for entry in rounds)

    with sqlite3.connect(campaign / "rlpath.db") as connection:
        rows = connection.execute("SELECT job_id, structure_id, round FROM labels").fetchall()
        jobs = connection.execute("SELECT count(*), count(DISTINCT structure_id) FROM jobs").fetchone()
        story = connection.execute(STORY).fetchall()
    assert len(rows) == len({structure for _, structure, _ in rows}) == rounds[-1]["labels"]
    assert jobs[0] == jobs[1]
    assert len(story) == len(rows), "one row per training structure says where it came from"

    for round in (1, 2):
        submitted = [
            json.loads(line)["structure_id"]
            for stage in ("sampling", "paths")
            for line in (campaign / stage / f"round-{round}" / "dft_submit.jsonl").read_text().splitlines()
        ]
        assert len(submitted) == len(set(submitted)) == rounds[round]["submitted"]

        from rlpath_core.data import S2EFReader

        assert len(S2EFReader(campaign / "labels" / f"round-{round}.lmdb")) == sum(r[2] == round for r in rows)


PAGE = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
STORY = PAGE.partition("```sql\n")[2].partition("```")[0].replace("WHERE labels.structure_id = :id", "")


def test_a_finished_campaign_says_so(tmp_path: Path) -> None:
    small = ["rounds=1", "sampling.steps=12", "train.epochs=1", "labels_per_round=2"]
    for _ in range(2):
        end = subprocess.run(
            command(tmp_path, *small),
            cwd=ROOT,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert end.returncode == 0, end.stderr[-3000:]
    assert "done" in end.stdout
