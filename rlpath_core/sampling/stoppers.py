"""Stoppers: when a run has done enough. A stopped run starts no new attempt; those on their way come to their end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rlpath_core.sampling.options import SamplingConfig


@dataclass
class Counters:
    """What a run has done so far, the interrupted parts before a resume included.

    attempts counts the attempts that were started, ``rejected`` those that a validator ended; ``force_calls`` are
    structures that the model was asked for; ``candidates`` went to the queue; ``converged`` quenches; ``idle`` attempts
    have ended since the last one that found a basin.
    """

    attempts: int = 0
    rejected: int = 0
    converged: int = 0
    candidates: int = 0
    force_calls: int = 0
    idle: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stop_reason(config: SamplingConfig, counters: Counters, basins: int, seconds: float) -> str | None:
    """The name of the first limit that is reached, None to go on. ``seconds`` of wall time, earlier parts included."""
    limits: list[tuple[str, float, float | None]] = [
        ("steps", counters.attempts, config.steps),
        ("target_basins", basins, config.target_basins),
        ("patience", counters.idle, config.patience),
        ("max_candidates", counters.candidates, config.max_candidates),
        ("max_force_calls", counters.force_calls, config.max_force_calls),
        ("max_seconds", seconds, config.max_seconds),
    ]
    return next((name for name, reached, limit in limits if limit is not None and reached >= limit), None)
