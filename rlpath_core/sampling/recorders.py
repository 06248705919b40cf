"""Recorders: what of a run lands in its folder, as text that is appended one checkpoint at a time.

A recorder turns a block of outcomes into text. The run appends the text of all of them, flushes the files to disk, and
notes their lengths in the database in the same transaction that holds the attempts. After a kill, the files are
cut back to those lengths. So no line may hold anything that differs when the same attempts run again (no times).
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rlpath_core.config.load import Section
from rlpath_core.errors import InputError
from rlpath_core.registry import Registry
from rlpath_core.sampling.film import extxyz
from rlpath_core.sampling.options import VizOptions
from rlpath_core.sampling.policies import KnownBasin
from rlpath_core.sampling.triggers import Candidate
from rlpath_core.sampling.walker import Outcome


@dataclass(frozen=True)
class Block:
    """The attempts of one checkpoint, in the order of their numbers.

    kept     ids of the structures that are stored
    queued   candidates that were not in the queue before, each with its attempt
    basins   all basins of the run so far
    """

    run_id: str
    outcomes: Sequence[Outcome]
    kept: frozenset[str]
    queued: Sequence[tuple[Outcome, Candidate]]
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
    return f"b{number:04d}"


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def _round(value: float | None, digits: int = 6) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), digits)


def rounded(value: Any) -> Any:
    """Floats to 6 digits, at any depth; numpy scalars and arrays as plain values."""
    if isinstance(value, dict):
        return {str(key): rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(entry) for entry in value]
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    return _round(float(value)) if isinstance(value, float | np.floating) else value


@RECORDERS.register("step_trace")
class StepTrace(Recorder):
    """steps.jsonl: every attempt, the rejected ones too."""

    path = "steps.jsonl"

    def text(self, block: Block) -> str:
        return "".join(_line(self.record(outcome, block.kept)) for outcome in block.outcomes)

    @staticmethod
    def record(outcome: Outcome, kept: frozenset[str]) -> dict[str, Any]:
        rejection, quenched = outcome.rejection, outcome.quenched
        record: dict[str, Any] = {
            "n": outcome.n,
            "walker": outcome.walker,
            "start_id": outcome.start.structure.id,
            "start_basin": None if outcome.start.basin is None else basin_name(outcome.start.basin),
            "action": outcome.action,
            "parameters": rounded(outcome.parameters),
            "scale": _round(outcome.scale),
            "accepted": outcome.accepted,
            "reason": rejection.reason if rejection else None,
            "figure": _round(rejection.figure) if rejection else None,
            "limit": _round(rejection.limit) if rejection else None,
            "structure_id": outcome.structure.id if outcome.structure and outcome.structure.id in kept else None,
            "magnitude": _round(outcome.magnitude),
            "energy": _round(outcome.energy),
            "max_force": _round(outcome.max_force),
            "top_mean_force": _round(outcome.top_mean),
            "quench": None,
            "basin": None if outcome.known is None else basin_name(outcome.known),
            "new_basin": outcome.new_basin,
            "candidates": [candidate.structure.id for candidate in outcome.candidates],
            "force_calls": outcome.force_calls,
        }
        if quenched is not None:
            record["quench"] = {
                "converged": quenched.converged,
                "cut": outcome.cut,
                "steps": quenched.steps,
                "energy": _round(quenched.energy),
                "fmax": _round(quenched.fmax),
                "reason": outcome.quench_rejection.reason if outcome.quench_rejection else None,
            }
        return record


@RECORDERS.register("basin_registry")
class BasinRegistry(Recorder):
    """basins.jsonl: a line for every new basin."""

    path = "basins.jsonl"

    def text(self, block: Block) -> str:
        lines = []
        for outcome in block.outcomes:
            if outcome.new_basin and outcome.known is not None:
                basin = block.basins[outcome.known]
                start = outcome.start.basin
                lines.append(
                    (
                        outcome.known,
                        {
                            "basin": basin_name(outcome.known),
                            "structure_id": basin.site.structure.id,
                            "energy": _round(basin.energy),
                            "attempt": outcome.n,
                            "action": outcome.action,
                            "from": None if start is None else basin_name(start),
                        },
                    )
                )
        return "".join(_line(line) for _, line in sorted(lines, key=lambda entry: entry[0]))


@RECORDERS.register("dft_queue")
class DftQueue(Recorder):
    """dft_queue.jsonl: candidates for a label, each structure once."""

    path = "dft_queue.jsonl"

    def text(self, block: Block) -> str:
        return "".join(
            _line(
                {
                    "id": block.first_queue_id + k,
                    "structure_id": candidate.structure.id,
                    "attempt": outcome.n,
                    "action": outcome.action,
                    "stage": candidate.stage,
                    "trigger": candidate.trigger,
                    "score": _round(candidate.score),
                    "max_force": _round(candidate.max_force),
                    "energy": _round(candidate.energy),
                    "run_id": block.run_id,
                }
            )
            for k, (outcome, candidate) in enumerate(block.queued)
        )


@RECORDERS.register("viz")
class Viz(Recorder):
    """viz/trajectory.extxyz: the way of the attempts that are kept, with marks for a film."""

    Options = VizOptions
    path = "viz/trajectory.extxyz"

    def text(self, block: Block) -> str:
        frames = []
        for outcome in block.outcomes:
            start = outcome.start.basin
            for frame in outcome.film:
                norms = np.sort(np.linalg.norm(frame.forces[~frame.structure.fixed], axis=1))[::-1]
                info = {
                    "attempt": outcome.n,
                    "stage": frame.stage,
                    "quench_step": frame.step,
                    "action": outcome.action,
                    "from_basin": "none" if start is None else basin_name(start),
                    "basin": "none" if outcome.known is None else basin_name(outcome.known),
                    "new_basin": bool(outcome.new_basin),
                    "trigger": frame.trigger is not None,
                    "trigger_reason": frame.trigger or "none",
                    "energy": _round(frame.energy),
                    "max_force": _round(norms.max(initial=0.0)),
                    "mean_force": _round(norms.mean() if len(norms) else 0.0),
                }
                frames.append((frame, info))
        return extxyz(frames)


class Journal:
    """The files of a run: cut to known lengths at the start, appended and flushed to disk at every checkpoint."""

    def __init__(self, run_dir: Path, recorders: Sequence[Recorder], lengths: dict[str, int]) -> None:
        self.recorders = recorders
        self.paths = {recorder.path: run_dir / recorder.path for recorder in recorders}
        for name, path in self.paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            wanted = lengths.get(name, 0)
            with path.open("ab") as stream:
                size = stream.tell()
                if size < wanted:
                    raise InputError(
                        f"is shorter ({size} bytes) than the run's last checkpoint left it ({wanted}): it was changed; "
                        "restore it or start in another run_dir",
                        path,
                    )
                stream.truncate(wanted)

    def append(self, block: Block) -> dict[str, int]:
        """Writes the block; returns the files' lengths in bytes, which are on disk by then."""
        lengths = {}
        for recorder in self.recorders:
            with self.paths[recorder.path].open("ab") as stream:
                stream.write(recorder.text(block).encode())
                stream.flush()
                os.fsync(stream.fileno())
                lengths[recorder.path] = stream.tell()
        return lengths
