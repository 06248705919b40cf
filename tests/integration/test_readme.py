"""What the README says to type, typed in a copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlpath_core.testing.pictures import missing_for

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
SMALL = {
    "rounds": 1,
    "labels_per_round": 3,
    "sampling": {
        "steps": 12,
        "walkers": 6,
        "quench": {"steps": 8},
        "pipeline": {"recorders": {"viz": {"keep": "accepted"}}},
    },
    "paths": {"max_searches": 2},
    "train": {"epochs": 1},
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git tracks, in another folder."""
    folder = tmp_path_factory.mktemp("clone")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(copy: Path, command: str, *more: str, timeout: int = 400) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | {
        "RLPATH_PORT": "4391",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
    }
    words = [*shlex.split(command), *more]
    if words[0] == "rlpath":
        words[:1] = ["python", "-m", "flows.main"]
    done = subprocess.run(
        words, cwd=copy, env=env, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_every_command_is_tried_here() -> None:
    assert all(c.startswith(("make ", "rlpath ", "prefect deployment run al-loop/default")) for c in COMMANDS)


def test_the_python_example(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "attempts_total=100" in done.stdout
    assert (tmp_path / "quickstart" / "rlpath.db").is_file()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(copy: Path, command: str) -> None:
    run(copy, command, "--dry-run")


def test_commands_without_a_server(copy: Path) -> None:
    commands = [c for c in COMMANDS if c.startswith("rlpath ") and "visualize" not in c]
    assert len(commands) == 6
    for command in commands:
        more = ["--params", json.dumps(SMALL)] if "rlpath loop" in command else []
        if "rlpath paths" in command:
            more = ["--params", "max_searches=2", "paths.pictures=false"]
        printed = run(copy, command, *more)
        if "rlpath sample" in command:
            assert "attempts_total" in printed
        if "rlpath check" in command:
            assert printed.count("nothing looks wrong") == 2
    assert [e["round"] for e in json.loads((copy / "campaigns/mine/rounds.json").read_text())] == [0, 1]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "rlpath visualize" in c])
def test_pictures(copy: Path, command: str) -> None:
    """Of what the test above has made: films of the campaign, basins of the run, whose quenches have time to end."""
    if missing := missing_for("blender" if "blender" in command else "ovito", film="--run_dir" in command):
        pytest.skip(f"needs {', '.join(missing)}")
    small = ["--max_frames", "3", "--width", "240", "--height", "180", "--samples", "2"]
    there = "campaigns/mine" if "--run_dir" in command else "runs/sample"
    printed = run(copy, command.replace("campaigns/default", there), *small)
    assert ("film.frames: 3" if "--run_dir" in command else "contact_sheet.basins") in printed


def test_the_query_tells_where_each_label_came_from(copy: Path) -> None:
    query = (ROOT / "docs" / "store.md").read_text(encoding="utf-8").partition("```sql\n")[2].partition("```")[0]
    models = [e["model"]["sha256"] for e in json.loads((copy / "campaigns/mine/rounds.json").read_text())]
    with sqlite3.connect(copy / "campaigns/mine/rlpath.db") as connection:
        connection.row_factory = sqlite3.Row
        ids = [row[0] for row in connection.execute("SELECT structure_id FROM labels")]
        assert ids
        for structure_id in ids:
            (row,) = connection.execute(query, {"id": structure_id}).fetchall()
            of_search = row["stage"] in ("saddle", "mode", "end")
            assert row["proposal" if of_search else "action"]
            assert row["seed"] == 1001
            assert row["model_sha256"] == models[0]
            assert row["engine"] == "tblite"
            assert json.loads(row["settings"])["method"] == "GFN1-xTB"
            printed = run(copy, f"rlpath store why {structure_id[:12]} --run_dir campaigns/mine")
            assert f"action: {row['action']}\n" in printed
            assert f"model_sha256: {row['model_sha256']}\n" in printed
        trained = connection.execute(
            "SELECT job_id FROM training_labels WHERE model_sha256 = ?", (models[1],)
        ).fetchall()
    assert len(trained) == len(ids)


@pytest.fixture
def services(copy: Path) -> Iterator[None]:
    run(copy, "rlpath services up")
    yield
    run(copy, "rlpath services down")


def test_the_deployment_runs_on_the_pools(copy: Path, services: None) -> None:
    (command,) = [c for c in COMMANDS if c.startswith("prefect deployment run")]
    run(copy, command, "--param", f"params={json.dumps(SMALL)}", "--watch", "--watch-timeout", "300")
    entries = json.loads((copy / "campaigns/default/rounds.json").read_text())
    assert [entry["round"] for entry in entries] == [0, 1]
    assert entries[1]["labels"] == 3
    assert entries[1]["model"]["sha256"] != entries[0]["model"]["sha256"]
