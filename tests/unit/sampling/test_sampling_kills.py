"""SIGKILL at any moment: the files and the database agree, and resumed equals uninterrupted, byte for byte.

All that a run carries from one attempt to the next is on: basins, action statistics, the tabu memory, Hessians of
relaxations, attempts in flight at a checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from rlpath_core.store import Store, orm
from rlpath_core.testing.sampled import rows_of

FILES = ("steps.jsonl", "basins.jsonl", "dft_queue.jsonl", "viz/trajectory.extxyz")
CONFIG = {
    "walkers": 2,
    "steps": 40,
    "quench": {"method": "bfgs", "hessian": "lindh", "fmax": 0.2, "steps": 20},
    "basin": {"refine_fmax": 0.1},
    "walk": {"policy": "frontier", "growth": 2.0, "max_scale": 12.0, "learn": True, "relax_share": 0.6},
    "pipeline": {"recorders": ["step_trace", "basin_registry", "dft_queue", "viz"]},
}
WITH_LISTS = CONFIG | {"actions": {"list_action:BestOfThree": {"weight": 8.0}}}
"""An action whose calls of the model are lists, of structures with other atoms too, and ask for embeddings."""


@pytest.fixture
def killer(program) -> Iterator:
    """``killer(folder, config, n, pause)``: one run or resume, killed ``pause`` seconds after the model's n-th call."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        program("sampling_killer"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )

    def go(folder: Path, config: dict, batches: int | None = None, pause: float = 0.0) -> dict:
        job = {"folder": str(folder), "config": config, "batches": batches, "pause": pause}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield go
    process.communicate()


def rows(folder: Path) -> dict[str, list[str]]:
    """Every row of a run, and its state, but for its times."""
    with Store(folder) as store, store.reading() as session:
        (state,) = session.scalars(sa.select(orm.RunRow.state)).all()
    del state["state"]["counters"]["seconds"], state["state"]["summary"]["elapsed"]
    return rows_of(folder) | {"state": [json.dumps(state, sort_keys=True)]}


def n_in_flight(folder: Path) -> int:
    """Attempts in flight at the last checkpoint."""
    with Store(folder) as store, store.reading() as session:
        saved = session.scalar(sa.select(orm.RunRow.state)) or {}
    if saved:
        assert (folder / "run" / f"checkpoint-{saved['number']}.npz").exists()
    return len(saved["state"]["in_flight"]) if saved else 0


def check_agreement(folder: Path) -> int:
    """What the last checkpoint counts is in the files, and agrees with the database; returns its attempts."""
    with Store(folder) as store, store.reading() as session:
        state = session.scalar(sa.select(orm.RunRow.state)) or {}
        attempts = session.execute(
            sa.select(orm.AttemptRow.n, orm.AttemptRow.structure_id, orm.AttemptRow.energy).order_by(orm.AttemptRow.id)
        ).all()
        queued = session.scalars(sa.select(orm.QueueRow.structure_id).order_by(orm.QueueRow.id)).all()
        stored = [store.path_of(key).exists() for key in session.scalars(sa.select(orm.StructureRow.id))]
    lines = {}
    for name, length in state.get("lengths", {}).items():
        content = (folder / "run" / name).read_bytes()
        assert len(content) >= length
        if name.endswith(".jsonl"):
            lines[name] = [json.loads(line) for line in content[:length].decode().splitlines()]
    steps = [(s["n"], s["structure_id"], s["energy"]) for s in lines.get("steps.jsonl", [])]
    assert [(n, key) for n, key, _ in steps] == [(n, key) for n, key, _ in attempts]
    assert [e for *_, e in steps] == pytest.approx([e for *_, e in attempts], abs=1e-6)
    assert [line["structure_id"] for line in lines.get("dft_queue.jsonl", [])] == list(queued)
    assert all(stored)
    return len(steps)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "n_kills"), [(CONFIG, 20), (WITH_LISTS, 6)], ids=["plain", "lists"])
def test_kills_at_random_moments_change_nothing(killer, tmp_path: Path, config: dict, n_kills: int) -> None:
    whole, folders, seed = tmp_path / "whole", (tmp_path / f"killed-{k}" for k in count()), random.randrange(2**32)
    folder = next(folders)
    answer = killer(whole, config)
    assert answer["status"] == 0
    steps = [json.loads(line) for line in (whole / "run" / "steps.jsonl").read_text().splitlines()]
    assert max(step["scale"] for step in steps) > 1, "scales have grown"
    assert sum(step["new_basin"] for step in steps) > 2, "something was learned"
    for action in config.get("actions", {}):
        assert sum(step["action"] == action for step in steps) > len(steps) / 4
    expected, kills, met, reached = rows(whole), 0, 0, 0

    def finish() -> None:
        for name in FILES:
            assert (folder / "run" / name).read_bytes() == (whole / "run" / name).read_bytes(), (name, seed)
        assert rows(folder) == expected, seed
        assert n_in_flight(folder) == 0
        assert len(list((folder / "run").glob("checkpoint-*"))) == 1
        assert check_agreement(folder) == len(steps)

    chance, apart = random.Random(seed), answer["batches"] * 4 * config["walkers"] / len(steps)
    while kills < n_kills or (not met and kills < 60):
        # now and then while the database or the run is being opened, else less than a checkpoint further on or more
        batches = 0 if kills % 5 == 0 else 1 + int(chance.expovariate(1 / apart / chance.choice((0.5, 1, 4))))
        if killer(folder, config, batches, chance.uniform(0.0, 0.15 if batches == 0 else 0.02))["status"] == 0:
            finish()
            folder, reached = next(folders), 0
            continue
        kills += 1
        if (folder / "rlpath.db").exists():
            before, reached = reached, check_agreement(folder)
            assert reached >= before
            met += n_in_flight(folder) > 0
    assert killer(folder, config)["status"] == 0
    finish()
    assert met, f"no kill came after a checkpoint with attempts in flight: {seed}"
