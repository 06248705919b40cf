"""The totals of a run of searches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PathsSummary:
    """Totals of a run.

    Attributes
    ----------
    searches, converged, verified
        Searches, those that ended in a stationary point, and those that found a saddle which joins two minima.
    saddles, minima
        Different ones, symmetry copies counted once, that the model has by the end.
    rate_ready
        Saddles for which there are rates.
    candidates
        Structures that went to the queue.
    force_calls
        Structures that the model evaluated.
    unseen
        Probability that the next verified saddle would be new (Good-Turing).
    elapsed
        Seconds of wall time, earlier parts of a resumed run included.
    asymmetry, prefactor, disagreement
        For forces that are no gradient: the largest of the run's first-order saddles; see ``Verdict``.
    stop_reason
        The limit that was reached, ``joined`` for two ends that steps now join, or ``nothing_left``.
    """

    searches: int
    converged: int
    verified: int
    saddles: int
    rate_ready: int
    minima: int
    candidates: int
    force_calls: int
    unseen: float
    elapsed: float
    stop_reason: str
    asymmetry: float | None = None
    prefactor: float | None = None
    disagreement: float | None = None
