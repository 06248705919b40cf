"""Progress where it is looked for: a bar on a terminal, a line now and then in a log, an artifact in the UI."""

from __future__ import annotations

import logging
import re
import sys
import time
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger
from tqdm import tqdm

LINE_EVERY = 5.0
"""Seconds between two lines of a log, and between two updates of the artifact."""

FRACTIONS = (
    ("done", "wanted"),
    ("done", "total"),
    ("attempts", "steps"),
    ("searches", "max_searches"),
    ("step", "steps"),
    ("global_step", "total_steps"),
    ("epoch", "epochs"),
)
"""Pairs of keys that say how far a piece of work is."""


def logger() -> Any:
    """The run's logger inside a flow run, else the plain one."""
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return logging.getLogger("rlpath")
    return get_run_logger()


class Progress:
    """A callable for the ``progress`` argument of the core functions: takes their dicts, shows the latest.

    Inside a Prefect run also an artifact that the UI draws as a bar. Used as a context manager.
    """

    def __init__(self, what: str, total: int | None = None, bar: bool = True) -> None:
        self.what = what
        self._total = total
        self._logger = logger()
        self._terminal = sys.stderr.isatty()
        self._draws = bar and self._terminal
        self._bar: tqdm[Any] | None = None
        self._prefect = FlowRunContext.get() is not None or TaskRunContext.get() is not None
        self._artifact: UUID | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._artifact is not None and kind is None:
            self._update(100.0)

    def __call__(self, state: dict[str, Any]) -> None:
        done, total = _how_far(state, self._total)
        if self._draws:
            self._draw(state, done, total)
        now = time.monotonic()
        if now - self._last < LINE_EVERY:
            return
        self._last = now
        if not self._terminal or self._prefect:
            self._logger.info("%s: %s", self.what, show(state))
        if self._prefect and done is not None and total:
            self._update(100.0 * min(done / total, 1.0))

    def _draw(self, state: dict[str, Any], done: float | None, total: float | None) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, desc=self.what, leave=False, dynamic_ncols=True)
        self._bar.n = int(done or 0)
        self._bar.set_postfix_str(show({k: v for k, v in state.items() if v not in (done, total)}), refresh=True)

    def _update(self, percent: float) -> None:
        """An artifact is a convenience: no failure of it may end hours of work."""
        try:
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", self.what.lower()).strip("-")
                self._artifact = create_progress_artifact(percent, key=key, description=self.what)  # type: ignore[assignment]
            else:
                update_progress_artifact(self._artifact, progress=percent)
        except Exception as error:
            self._logger.warning("no progress artifact: %s", error)


def _how_far(state: dict[str, Any], total: float | None) -> tuple[float | None, float | None]:
    for done, wanted in FRACTIONS:
        if isinstance(state.get(done), (int, float)):
            if isinstance(state.get(wanted), (int, float)):
                return state[done], state[wanted]
            if total is not None:
                return state[done], total
    return None, total


def show(state: dict[str, Any]) -> str:
    """``attempts 40, accepted 31, energy 0.0123``: floats to three significant digits."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"
        for key, value in state.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    )
