"""SIGKILL at any moment: the files and the database agree, and resumed equals uninterrupted, byte for byte.

All that a run carries from one search to the next is on: proposals that learn, the catalogue, searches in flight that
have asked it, bands and single-ended searches.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from rlpath_core.files import read_lines
from rlpath_core.store import Store, orm
from rlpath_core.testing.sampled import rows_of

FILES = (
    "saddles.jsonl",
    "dft_queue.jsonl",
    "network.json",
    "network.graphml",
    "steps.txt",
    "stationary.extxyz",
)
CONFIG = {
    "walkers": 3,
    "max_searches": 10,
    "searches": ["minmode", "band"],
    "proposals": ["pairs", "soft_modes", "displacements"],
    "pictures": False,
}


@pytest.fixture
def killer(program) -> Iterator:
    """``killer(folder, n, pause)``: one run or resume, killed ``pause`` seconds after the model's n-th call."""
    process = subprocess.Popen(program("paths_killer"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def go(folder: Path, batches: int | None = None, pause: float = 0.0) -> dict:
        job = {"folder": str(folder), "config": CONFIG, "between": False, "batches": batches, "pause": pause}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield go
    process.communicate()


def saved_state(folder: Path) -> dict:
    with Store(folder) as store, store.reading() as session:
        return session.scalar(sa.select(orm.RunRow.state)) or {}


def rows(folder: Path) -> dict[str, list[str]]:
    """Every row of a run, and its state, but for its times."""
    state = saved_state(folder)
    del state["state"]["counters"]["seconds"], state["state"]["summary"]["elapsed"]
    return rows_of(folder) | {"state": [json.dumps(state, sort_keys=True)]}


def check_agreement(folder: Path) -> int:
    """What the last checkpoint counts is in the files, and agrees with the database; returns its searches."""
    state = saved_state(folder)
    with Store(folder) as store, store.reading() as session:
        query = sa.select(orm.SearchRow.n, orm.SearchRow.calls, orm.SearchRow.state).order_by(orm.SearchRow.id)
        searches = session.execute(query).all()
        queued = session.scalars(sa.select(orm.QueueRow.structure_id).order_by(orm.QueueRow.id)).all()
        assert all(store.path_of(key).exists() for key in session.scalars(sa.select(orm.StructureRow.id)))
    lines = {"saddles.jsonl": [], "dft_queue.jsonl": []}
    for name, length in state.get("lengths", {}).items():
        content = (folder / "run" / name).read_bytes()
        lines[name] = [json.loads(line) for line in content[:length].decode().splitlines()]
    found = [(line["n"], line["calls"], line["state"]) for line in lines["saddles.jsonl"]]
    assert found == [tuple(row) for row in searches]
    assert [line["structure_id"] for line in lines["dft_queue.jsonl"]] == list(queued)
    if state:
        assert (folder / "run" / f"checkpoint-{state['number']}.npz").exists()
    return len(found)


@pytest.mark.parametrize(
    "n_kills", [3, pytest.param(20, marks=pytest.mark.nightly)], ids=["a_few_kills", "twenty_kills"]
)
def test_kills_at_random_moments_change_nothing(killer, tmp_path: Path, n_kills: int) -> None:
    whole, folders, seed = tmp_path / "whole", (tmp_path / f"killed-{k}" for k in count()), random.randrange(2**32)
    answer = killer(whole)
    assert answer["status"] == 0
    searches = read_lines(whole / "run" / "saddles.jsonl")
    assert sum(search["new"] for search in searches) > 0, "something was found"
    assert sum(search["saddle"] is not None and not search["new"] for search in searches) > 0, "and found again"
    assert {"minmode", "band"} == {search["search"] for search in searches}
    expected, folder, kills, in_flight, reached = rows(whole), next(folders), 0, 0, 0

    def finish() -> None:
        for name in FILES:
            assert (folder / "run" / name).read_bytes() == (whole / "run" / name).read_bytes(), (name, seed)
        assert rows(folder) == expected, seed
        assert len(list((folder / "run").glob("checkpoint-*"))) == 1
        assert check_agreement(folder) == len(searches)

    chance = random.Random(seed)
    while kills < n_kills or (not in_flight and kills < 60):
        # now and then while the database or the run is being opened, else before or after a checkpoint or two
        batches = 0 if kills % 5 == 4 else chance.randrange(1, 120)
        if killer(folder, batches, chance.uniform(0.0, 0.15 if batches == 0 else 0.02))["status"] == 0:
            finish()
            folder, reached = next(folders), 0
            continue
        kills += 1
        if (folder / "rlpath.db").exists():
            before, reached = reached, check_agreement(folder)
            assert reached >= before
            in_flight += bool(saved_state(folder).get("state", {}).get("in_flight"))
    assert killer(folder)["status"] == 0
    finish()
    assert in_flight, f"no kill came after a checkpoint with searches in flight: {seed}"
