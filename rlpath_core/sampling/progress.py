"""What a run reports while it is running."""

from __future__ import annotations

import time
from collections.abc import Sized

from rlpath_core.progress import Progress
from rlpath_core.sampling.stoppers import Counters

INTERVAL = 0.5
"""Seconds between two reports."""


class Reporter:
    """Calls ``progress`` about twice a second."""

    def __init__(self, progress: Progress | None, counters: Counters, basins: Sized) -> None:
        self.progress, self.counters, self.basins = progress, counters, basins
        self.calls_before = counters.force_calls
        self.began = self.last = time.monotonic()

    def __call__(self, force: bool = False) -> None:
        """Report if the last report was long enough ago; with ``force`` in any case."""
        now = time.monotonic()
        if self.progress is None or (now - self.last < INTERVAL and not force):
            return
        self.last = now
        counters = self.counters
        self.progress(
            {
                "attempts": counters.attempts,
                "accepted": counters.attempts - counters.rejected,
                "basins": len(self.basins),
                "candidates": counters.candidates,
                "force_calls_per_s": (counters.force_calls - self.calls_before) / max(now - self.began, 1e-9),
            }
        )
