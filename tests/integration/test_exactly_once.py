"""Killed at every step, two hundred times: each label is there exactly once, and no job ran twice.

The submitting process, the collecting process and the controller of a real Slurm are killed with SIGKILL: at each
named step, in the middle of sbatch, and at random moments.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from ase.calculators.emt import EMT

from rlpath_core.data import S2EFReader
from rlpath_core.dft.steps import Step
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.mortal import Mortal
from rlpath_core.testing.slurm_cluster import SlurmCluster, missing_programs

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]

KILLS = 200
JOBS_PER_ROUND = 3
MARKS = '''
from ase.calculators.emt import EMT

class Marking(EMT):
    """EMT that leaves a line for every calculation."""

    def __init__(self, marks):
        super().__init__()
        self.marks = marks

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        super().calculate(atoms, properties, system_changes)
        if system_changes:
            with open(self.marks, "a") as marks:
                marks.write(f"{self.atoms.positions[1, 2]:.6f}\\n")
'''
SUBMITTING = [
    Step.PLANNED, Step.ASKED, Step.INTENT_OPEN, Step.INTENT, Step.POLLED, Step.INPUT, Step.INPUTS, Step.ANNOUNCED,
    Step.SUBMITTING, Step.SUBMITTED, Step.RECORDED,
]  # fmt: skip
COLLECTING = [
    Step.POLLED, Step.RUNNING, Step.ENDED, Step.JUDGED_OPEN, Step.JUDGED, Step.ENTERING, Step.ENTERED, Step.LABEL_OPEN,
    Step.LABELLED,
]  # fmt: skip
PLACES = [("submit", step) for step in SUBMITTING] + [("collect", step) for step in COLLECTING]


class Killer:
    """Kills, and counts whom and where."""

    def __init__(self, cluster: SlurmCluster, mortal: Mortal, store: Path) -> None:
        self.cluster, self.mortal, self.store = cluster, mortal, store
        self.kills: Counter[tuple[str, str]] = Counter()
        self.round = 0
        self.next = itertools.cycle(PLACES[::2] + PLACES[1::2])
        self.due: list[tuple[str, Step]] = []
        """Where the scheduler is to die in this round."""

    def process(self, what: str, step: Step, **more: Any) -> None:
        """The process dies at ``step``, if it comes to it; where it is due, the scheduler dies there instead."""
        if (what, step) in self.due:
            self.due.remove((what, step))
            self.scheduler(what, step, **more)
            return
        answer = self.mortal(what, step=step, round=self.round, **more)
        if answer["status"] == -signal.SIGKILL:
            self.kills[what, step] += 1

    def at_random(self, what: str, seconds: float, **more: Any) -> None:
        answer = self.mortal(what, after=seconds, round=self.round, **more)
        if answer["status"] == -signal.SIGKILL:
            self.kills[what, "at random"] += 1

    def scheduler(self, what: str, step: Step, **more: Any) -> None:
        """The controller dies while a process stands at ``step``, and comes back; the process dies a step later."""
        self.mortal.send(what, step=step, pause=True, round=self.round, **more)
        paused = self.store / "paused"
        while not paused.exists() and not self.mortal.has_answered():
            time.sleep(0.005)
        if paused.exists():
            self.cluster.kill_controller()
            self.kills["scheduler", f"{what}: {step}"] += 1
            self.cluster.start_controller()
            paused.unlink()
        if self.mortal.receive()["status"] == -signal.SIGKILL:
            self.kills[what, "after the scheduler"] += 1


@pytest.fixture
def killer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "marking_emt.py").write_text(MARKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = tmp_path / "store"
    options = {"poll_seconds": 0.1, "grace_seconds": 1.0, "margin_seconds": 10.0, "outage_seconds": 30.0}
    config = {
        "engine": "ase",
        "settings": {"calculator": "marking_emt:Marking", "kwargs": {"marks": str(tmp_path / "marks")}},
        "launcher": "slurm",
        "launcher_options": options,
        "wall_seconds": 60.0,
        "retries": 5,
    }
    with SlurmCluster(tmp_path / "slurm", cpus=8) as cluster:
        mortal = Mortal(store, config)
        yield Killer(cluster, mortal, store)
        mortal.close()
    sys.modules.pop("marking_emt", None)


def test_two_hundred_kills(tmp_path: Path, killer: Killer) -> None:
    rng = random.Random(5)
    began = time.monotonic()
    with Store(killer.store) as store:
        while sum(killer.kills.values()) < KILLS:
            killer.round += 1
            first = (killer.round - 1) * JOBS_PER_ROUND
            select(store, [dimer(first + n) for n in range(JOBS_PER_ROUND)], killer.round)
            killer.due += [next(killer.next) for _ in range(2)]
            one_round(killer, rng)
            assert time.monotonic() < began + 600, killer.kills
        for round in range(1, killer.round + 1):
            done = killer.mortal("label", round=round)["result"]
            assert (done["labelled"], done["failed"]) == (JOBS_PER_ROUND, 0), done
        killed_by_scheduler = check(store, killer.round, tmp_path / "marks")
    for victim, steps in (("submit", SUBMITTING), ("collect", COLLECTING), ("retry", [Step.ASIDE, Step.RETRY])):
        missed = [step for step in steps if not killer.kills[victim, step]]
        assert not missed, f"{victim} was never killed at {missed}"
    spared = [place for place in PLACES if not killer.kills["scheduler", "{}: {}".format(*place)]]
    assert len(spared) <= 4, f"the scheduler never died at {spared}"  # a place passed only after some kills of others
    victims: Counter[str] = Counter()
    for (victim, _), count in killer.kills.items():
        victims[victim] += count
    print(f"{dict(victims)}; {killer.round} rounds; {killed_by_scheduler} runs ended with the controller; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


def one_round(killer: Killer, rng: random.Random) -> None:
    """Each call gets one step further than the one before it.

    Every other round is first submitted on hold and cancelled, so that all of its jobs go through the retry.
    """
    if killer.round % 2:
        options = {**killer.mortal.job["config"]["launcher_options"], "extra": ["#SBATCH --hold"]}
        held = {**killer.mortal.job["config"], "launcher_options": options}
        submit_killed(killer, rng, config=held)
        killer.mortal("cancel", round=killer.round)
        killer.process("retry", Step.ASIDE)
        killer.process("retry", Step.RETRY)
        killer.process("submit", Step.ANNOUNCED)
        killer.process("submit", Step.SUBMITTED)
    else:
        submit_killed(killer, rng)
    for step in COLLECTING:
        killer.process("collect", step, wait=True)
    killer.at_random("collect", rng.uniform(0.0, 0.1))


def submit_killed(killer: Killer, rng: random.Random, **more: Any) -> None:
    for step in SUBMITTING[:7]:
        killer.process("submit", step, **more)
    killer.process("submit", Step.ANNOUNCED, count=rng.randint(1, JOBS_PER_ROUND), **more)
    killer.process("submit", Step.SUBMITTING, **more)
    killer.at_random("submit", rng.uniform(0.05, 0.2), **more)  # in the middle of sbatch, more or less
    killer.process("submit", Step.SUBMITTED, **more)
    killer.process("submit", Step.RECORDED, **more)
    killer.mortal("submit", round=killer.round, **more)


def dimer(n: int) -> Structure:
    return Structure([29, 29], [[0, 0, 0], [0, 0, 2.1 + 0.01 * n]])


def select(store: Store, structures: list[Structure], round: int) -> None:
    with store.session() as session:
        if session.get(orm.RunRow, "r") is None:
            session.add(orm.RunRow(id="r", kind="sample", folder="r"))
            session.flush()
        row = {"run_id": "r", "attempt": 0, "stage": "sample", "trigger": "all", "score": 1.0, "state": "selected"}
        for key in store.put(structures, session):
            session.add(orm.QueueRow(structure_id=key, round=round, **row))


def check(store: Store, rounds: int, marks: Path) -> int:
    """Everything once; returns how many runs were cut short by the scheduler or by a cancellation."""
    with store.reading() as session:
        jobs = list(session.scalars(sa.select(orm.JobRow)))
        labels = {row.structure_id: row for row in session.scalars(sa.select(orm.LabelRow))}
        queue = list(session.scalars(sa.select(orm.QueueRow).order_by(orm.QueueRow.id)))
    wanted = rounds * JOBS_PER_ROUND
    assert len(jobs) == len({job.structure_id for job in jobs}) == len(labels) == len(queue) == wanted
    assert {job.state for job in jobs} == {row.state for row in queue} == {"labelled"}

    entries = []
    for round in range(1, rounds + 1):
        with S2EFReader(store.folder / "labels" / f"round-{round}.lmdb") as reader:
            entries += list(reader)
    assert [entry.sid for entry in entries] == [row.structure_id for row in queue], "once each, in order"
    for entry in entries:
        atoms = entry.structure.to_ase()
        atoms.calc = EMT()
        assert labels[entry.sid].energy == pytest.approx(entry.energy, abs=1e-9)
        assert entry.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)  # float32 positions
        np.testing.assert_allclose(entry.forces, atoms.get_forces(), atol=1e-4)

    cut_short = 0
    for job in jobs:
        folder = store.folder / job.folder
        runs = [line.split("attempt ")[1].split()[0] for line in (folder / "runs.log").read_text().splitlines()]
        assert len(runs) == len(set(runs)), f"an attempt ran twice: {runs}"
        ended = [path for path in folder.glob("ended.*.json") if json.loads(path.read_text())["exit_code"] == 0]
        assert len(ended) == 1, "one run came to its end"
        assert len(runs) <= job.tries
        cut_short += len(runs) - 1
    calculated = Counter(marks.read_text().split())
    assert len(calculated) == wanted
    assert sum(calculated.values()) <= wanted + cut_short, "no calculation but those cut short was done again"
    return cut_short
