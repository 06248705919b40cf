"""Killed at every step, two hundred times: each label is there exactly once, and no job ran twice.

The submitting process, the collecting process and the controller of a real Slurm are killed with SIGKILL: at each
named step, in the middle of sbatch, and at random moments. Calculations wait for a file to go away, so that which step
is reached does not depend on how fast the machine is.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from ase.calculators.emt import EMT

from rlpath_core.data import S2EFReader
from rlpath_core.dft.faultpoints import Step
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.killable import KillableProcess
from rlpath_core.testing.slurm_cluster import SlurmCluster, missing_programs
from rlpath_core.testing.store import select

pytestmark = [
    pytest.mark.integration,
    pytest.mark.nightly,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]

KILLS = 200
JOBS_PER_ROUND = 3
MOST_ROUNDS = 15
SCHEDULER_PER_ROUND = 3
MARKS = '''
import os
import time
from ase.calculators.emt import EMT

class Marking(EMT):
    """EMT that waits while the file ``wait`` is there, and leaves a line for every calculation."""

    def __init__(self, marks, wait):
        super().__init__()
        self.marks, self.wait = marks, wait

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        while os.path.exists(self.wait):
            time.sleep(0.01)
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
RETRYING = [Step.ASIDE, Step.RETRY]
PLACES = [("submit", step) for step in SUBMITTING] + [("collect", step) for step in COLLECTING]


class Killer:
    """Kills, and counts whom and where."""

    def __init__(self, cluster: SlurmCluster, process: KillableProcess, store: Path, wait: Path) -> None:
        self.cluster, self.process, self.store, self.wait = cluster, process, store, wait
        self.kills: Counter[tuple[str, str]] = Counter()
        self.round = 0
        self.due: list[tuple[str, Step]] = []
        """Where the scheduler is to die in this round."""

    def next_round(self) -> None:
        self.round += 1
        self.due = self.spared()[:SCHEDULER_PER_ROUND]
        self.wait.touch()

    def spared(self) -> list[tuple[str, Step]]:
        """Where the scheduler has not died yet."""
        return [(what, step) for what, step in PLACES if not self.kills["scheduler", f"{what}: {step}"]]

    def walk(self, what: str, steps: Sequence[Step], times: int = 1, **more: Any) -> None:
        """Call after call, each killed at the first of ``steps`` where none was, until one comes to its end.

        ``times``: ANNOUNCED is passed so many times before it counts. Calculations wait until RUNNING has been met.
        """
        left = list(steps)
        while left:
            wanted = {step: times if step is Step.ANNOUNCED else 1 for step in left}
            frees = [] if what != "collect" or Step.RUNNING in left else [Step.ASKED, str(self.wait)]
            met = self.call(what, steps=wanted, frees=frees, **more)
            if not met:
                break
            left = [step for step in left if step not in met]

    def call(self, what: str, **more: Any) -> list[str]:
        """One process; returns the steps at which the scheduler or it were killed.

        Where the scheduler is due, it dies while the process stands there, and comes back; the process dies a step
        later.
        """
        met = []
        pause = [step for due, step in self.due if due == what]
        paused = self.store / "paused"
        self.process.send(what, pause=pause, round=self.round, **more)
        while not self.process.has_answered():
            if paused.exists():
                met.append(step := paused.read_text())
                self.cluster.kill_controller()
                self.kills["scheduler", f"{what}: {step}"] += 1
                self.due.remove((what, Step(step)))
                self.cluster.start_controller()
                paused.unlink()
            time.sleep(0.005)
        if self.process.receive()["status"] == -signal.SIGKILL:
            met.append((self.store / "killed").read_text())
            self.kills[what, met[-1]] += 1
        return met

    def at_random(self, what: str, seconds: float, **more: Any) -> None:
        answer = self.process(what, after=seconds, round=self.round, **more)
        if answer["status"] == -signal.SIGKILL:
            self.kills[what, "at random"] += 1


@pytest.fixture
def killer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "marking_emt.py").write_text(MARKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = tmp_path / "store"
    options = {"poll_seconds": 0.1, "grace_seconds": 1.0, "margin_seconds": 10.0, "outage_seconds": 30.0}
    kwargs = {"marks": str(tmp_path / "marks"), "wait": str(tmp_path / "wait")}
    config = {
        "engine": "ase",
        "settings": {"calculator": "marking_emt:Marking", "kwargs": kwargs},
        "launcher": "slurm",
        "launcher_options": options,
        "wall_seconds": 60.0,
        "retries": 5,
    }
    with SlurmCluster(tmp_path / "slurm", cpus=8) as cluster:
        process = KillableProcess(store, config)
        yield Killer(cluster, process, store, tmp_path / "wait")
        process.close()
    sys.modules.pop("marking_emt", None)


def test_two_hundred_kills(tmp_path: Path, killer: Killer) -> None:
    rng = random.Random(5)
    began = time.monotonic()
    with Store(killer.store) as store:
        while sum(killer.kills.values()) < KILLS or killer.spared():
            assert killer.round < MOST_ROUNDS, f"the scheduler never died at {killer.spared()}: {killer.kills}"
            killer.next_round()
            first = (killer.round - 1) * JOBS_PER_ROUND
            select(store, [dimer(first + n) for n in range(JOBS_PER_ROUND)], killer.round)
            one_round(killer, rng)
        for round in range(1, killer.round + 1):
            done = killer.process("label", round=round)["result"]
            assert (done["labelled"], done["failed"]) == (JOBS_PER_ROUND, 0), done
        killed_by_scheduler = check(store, killer.round, tmp_path / "marks")
    for victim, steps in (("submit", SUBMITTING), ("collect", COLLECTING), ("retry", RETRYING)):
        missed = [step for step in steps if not killer.kills[victim, step]]
        assert not missed, f"{victim} was never killed at {missed}"
    victims: Counter[str] = Counter()
    for (victim, _), count in killer.kills.items():
        victims[victim] += count
    print(f"{dict(victims)}; {killer.round} rounds; {killed_by_scheduler} runs ended with the controller; "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


def one_round(killer: Killer, rng: random.Random) -> None:
    """Every other round is first submitted on hold and cancelled, so that all of its jobs go through the retry."""
    if killer.round % 2:
        options = {**killer.process.job["config"]["launcher_options"], "extra": ["#SBATCH --hold"]}
        held = {**killer.process.job["config"], "launcher_options": options}
        submit_killed(killer, rng, config=held)
        killer.process("cancel", round=killer.round)
        killer.walk("retry", RETRYING)
        killer.walk("submit", [Step.ANNOUNCED, Step.SUBMITTED])
    else:
        submit_killed(killer, rng)
    killer.walk("collect", COLLECTING, wait=True)
    killer.at_random("collect", rng.uniform(0.0, 0.1))


def submit_killed(killer: Killer, rng: random.Random, **more: Any) -> None:
    sbatch = SUBMITTING.index(Step.SUBMITTED)
    killer.walk("submit", SUBMITTING[:sbatch], times=rng.randint(1, JOBS_PER_ROUND), **more)
    killer.at_random("submit", rng.uniform(0.05, 0.2), **more)  # in the middle of sbatch, more or less
    killer.walk("submit", SUBMITTING[sbatch:], **more)
    killer.process("submit", round=killer.round, **more)


def dimer(n: int) -> Structure:
    return Structure([29, 29], [[0, 0, 0], [0, 0, 2.1 + 0.01 * n]])


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
