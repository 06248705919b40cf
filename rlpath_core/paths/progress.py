"""What a run counts, when it stops, and what it reports on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rlpath_core.paths.options import PathsConfig
from rlpath_core.progress import Progress

INTERVAL = 0.5
"""Seconds between two reports."""


@dataclass
class Counters:
    """What a run has done so far, the parts before a resume included.

    Attributes
    ----------
    searches
        Searches that were started.
    converged
        Of these, the ones that ended in a stationary point.
    verified
        The ones that found a saddle which joins two minima, whether it was known or not.
    candidates
        Structures that went to the queue.
    force_calls
        Structures that the model evaluated.
    seconds
        Wall time.
    asymmetry, prefactor, disagreement
        The largest of all saddles that are first-order; of prefactors the furthest from 1, either way.
    """

    searches: int = 0
    converged: int = 0
    verified: int = 0
    candidates: int = 0
    force_calls: int = 0
    seconds: float = 0.0
    asymmetry: float | None = None
    prefactor: float | None = None
    disagreement: float | None = None


def stop_reason(config: PathsConfig, counters: Counters, unseen: float, joined: bool, seconds: float) -> str | None:
    """The first limit that is reached, None to continue.

    Parameters
    ----------
    config, counters
        The limits, and what is done.
    unseen
        Probability that the next verified saddle is new.
    joined
        Whether the two ends of a run between two structures are joined by steps.
    seconds
        Wall time, the parts before a resume included.
    """
    if joined:
        return "joined"
    if config.unseen is not None and unseen < config.unseen:
        return "unseen"
    limits: list[tuple[str, float, float | None]] = [
        ("max_searches", counters.searches, config.max_searches),
        ("max_force_calls", counters.force_calls, config.max_force_calls),
        ("max_seconds", seconds, config.max_seconds),
    ]
    return next((name for name, reached, limit in limits if limit is not None and reached >= limit), None)


class Reporter:
    """Calls ``progress`` about twice a second."""

    def __init__(self, progress: Progress | None, counters: Counters) -> None:
        self.progress, self.counters = progress, counters
        self.began = self.last = time.monotonic()

    def __call__(self, connected: int, calls: int, force: bool = False) -> None:
        """Report if the last report was long enough ago; with ``force`` in any case.

        ``connected`` are the different steps so far, ``calls`` the structures evaluated since the reporter was made.
        """
        now = time.monotonic()
        if self.progress is None or (now - self.last < INTERVAL and not force):
            return
        self.last = now
        counters = self.counters
        self.progress(
            {
                "searches": counters.searches,
                "converged": counters.converged,
                "verified": counters.verified,
                "connected": connected,
                "calls_per_s": calls / max(now - self.began, 1e-9),
            }
        )
