"""Recorders: the files of a run, to which text is appended one checkpoint at a time.

A recorder turns a block of attempts into text. The run appends the text of all recorders, flushes the files to disk,
and keeps their lengths in the database in the same transaction that holds the attempts. After a kill, the files are cut
back to those lengths. So no line may hold anything that differs when the same attempts run again (no times).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlpath_core.config import Section
from rlpath_core.registry import Registry
from rlpath_core.sampling.attempt import Attempt
from rlpath_core.sampling.known_basins import KnownBasin
from rlpath_core.sampling.options import VizOptions
from rlpath_core.sampling.plain import line, rounded
from rlpath_core.sampling.queueing import Queued, queue_text
from rlpath_core.sampling.trajectory import extxyz


@dataclass(frozen=True)
class Block:
    """The attempts of one checkpoint, in the order of their numbers.

    Attributes
    ----------
    kept
        Ids of the structures that are stored.
    queued
        Candidates that were not in the queue before.
    basins
        All basins of the run so far.
    """

    run_id: str
    attempts: Sequence[Attempt]
    kept: frozenset[str]
    queued: Sequence[Queued]
    basins: Sequence[KnownBasin]
    first_queue_id: int


class Recorder(ABC):
    """``path`` is the file's, relative to run_dir."""

    Options: ClassVar[type[Section]] = Section
    path: ClassVar[str]

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def text(self, block: Block) -> str:
        """What to append for this block."""


RECORDERS: Registry[type[Recorder]] = Registry("recorder", "rlpath.recorders")


def basin_name(number: int) -> str:
    """The name of a basin in files and tables."""
    return f"b{number:04d}"


def _basin(number: int | None) -> str | None:
    return None if number is None else basin_name(number)


@RECORDERS.register("step_trace")
class StepTrace(Recorder):
    """steps.jsonl: every attempt, the rejected ones too."""

    path = "steps.jsonl"

    def text(self, block: Block) -> str:
        return "".join(line(self.record(attempt, block.kept)) for attempt in block.attempts)

    @staticmethod
    def record(attempt: Attempt, kept: frozenset[str]) -> dict[str, Any]:
        plan, trial, result = attempt.plan, attempt.trial, attempt.result
        rejection, relaxed = trial.rejection, result.relaxed
        record: dict[str, Any] = {
            "n": plan.n,
            "walker": plan.walker,
            "start_id": plan.start.structure.id,
            "start_basin": _basin(plan.start.basin),
            "action": trial.action,
            "parameters": rounded(trial.parameters),
            "scale": rounded(trial.scale),
            "accepted": attempt.accepted,
            "reason": rejection.reason if rejection else None,
            "figure": rounded(rejection.figure) if rejection else None,
            "limit": rounded(rejection.limit) if rejection else None,
            "structure_id": trial.structure.id if trial.structure and trial.structure.id in kept else None,
            "magnitude": rounded(trial.magnitude),
            "energy": rounded(trial.energy),
            "max_force": rounded(trial.max_force),
            "top_mean_force": rounded(trial.top_mean_force),
            "quench": None,
            "basin": _basin(result.basin),
            "new_basin": result.new_basin,
            "candidates": [candidate.structure.id for candidate in result.candidates],
            "force_calls": result.force_calls,
        }
        if relaxed is not None:
            record["quench"] = {
                "converged": relaxed.converged,
                "cut": result.stopped_early,
                "steps": relaxed.steps,
                "energy": rounded(relaxed.energy),
                "fmax": rounded(relaxed.fmax),
                "reason": result.relaxed_rejection.reason if result.relaxed_rejection else None,
            }
        return record


@RECORDERS.register("basin_registry")
class BasinRegistry(Recorder):
    """basins.jsonl: a line for every new basin."""

    path = "basins.jsonl"

    def text(self, block: Block) -> str:
        lines = {}
        for attempt in block.attempts:
            number = attempt.result.basin
            if attempt.result.new_basin and number is not None:
                basin = block.basins[number]
                lines[number] = {
                    "basin": basin_name(number),
                    "structure_id": basin.minimum.structure.id,
                    "energy": rounded(basin.energy),
                    "attempt": attempt.n,
                    "action": attempt.trial.action,
                    "from": _basin(attempt.start.basin),
                }
        return "".join(line(lines[number]) for number in sorted(lines))


@RECORDERS.register("dft_queue")
class DftQueue(Recorder):
    """dft_queue.jsonl: candidates for a label, each structure once."""

    path = "dft_queue.jsonl"

    def text(self, block: Block) -> str:
        return queue_text(block.queued, block.run_id, block.first_queue_id)


@RECORDERS.register("viz")
class Viz(Recorder):
    """viz/trajectory.extxyz: the trajectories of the attempts that are kept, with marks for a film."""

    Options = VizOptions
    path = "viz/trajectory.extxyz"

    def text(self, block: Block) -> str:
        frames = []
        for attempt in block.attempts:
            for frame in attempt.result.frames:
                norms = np.sort(np.linalg.norm(frame.forces[~frame.structure.fixed], axis=1))[::-1]
                info = {
                    "attempt": attempt.n,
                    "stage": frame.stage,
                    "quench_step": frame.step,
                    "action": attempt.trial.action,
                    "from_basin": _basin(attempt.start.basin) or "none",
                    "basin": _basin(attempt.result.basin) or "none",
                    "new_basin": bool(attempt.result.new_basin),
                    "trigger": frame.trigger is not None,
                    "trigger_reason": frame.trigger or "none",
                    "energy": rounded(frame.energy),
                    "max_force": rounded(norms.max(initial=0.0)),
                    "mean_force": rounded(norms.mean() if len(norms) else 0.0),
                }
                frames.append((frame, info))
        return extxyz(frames)
