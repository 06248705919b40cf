"""Stoppers: when a run has done enough. A stopped run starts no new attempt and finishes those in flight."""

from __future__ import annotations

from dataclasses import dataclass

from rlpath_core.sampling.options import SamplingConfig


@dataclass
class Counters:
    """What a run has done so far, the parts before a resume included.

    Attributes
    ----------
    attempts
        Attempts that were started.
    rejected
        Of these, the ones that a validator ended.
    converged
        Relaxations that converged.
    candidates
        Structures that went to the queue.
    force_calls
        Structures that the model evaluated.
    idle
        Attempts that ended since the last one that found a basin.
    seconds
        Wall time.
    """

    attempts: int = 0
    rejected: int = 0
    converged: int = 0
    candidates: int = 0
    force_calls: int = 0
    idle: int = 0
    seconds: float = 0.0


def stop_reason(config: SamplingConfig, counters: Counters, basins: int, seconds: float) -> str | None:
    """The first limit that is reached, None to continue. ``seconds``: wall time, the parts before a resume included."""
    limits: list[tuple[str, float, float | None]] = [
        ("steps", counters.attempts, config.steps),
        ("target_basins", basins, config.target_basins),
        ("patience", counters.idle, config.patience),
        ("max_candidates", counters.candidates, config.max_candidates),
        ("max_force_calls", counters.force_calls, config.max_force_calls),
        ("max_seconds", seconds, config.max_seconds),
    ]
    return next((name for name, reached, limit in limits if limit is not None and reached >= limit), None)
