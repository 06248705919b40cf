"""The state of a store's calculations: what the database knows, and why the scheduler lets jobs wait."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rlpath_core.dft.launchers import LAUNCHERS, Submission
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.verdict import EXPLAINED
from rlpath_core.errors import InputError, TransientError
from rlpath_core.store import Store, queries

log = logging.getLogger("rlpath.dft")

STATES = ("selected", "submitted", "running", "done", "labelled", "failed")


def status(store: Store, round_index: int | None = None, config: DftConfig | None = None) -> list[dict[str, Any]]:
    """One row per round: number of structures in each state, tries and core-hours so far, and what jobs wait for.

    The last, ``waiting``, counts jobs by the scheduler's own reasons. It is asked once; if it does not answer, that is
    said. ``config`` has the options of its launcher.
    """
    waiting = reasons(store, round_index, config)
    out = []
    for found in queries.job_states(store, round_index):
        counts = {state: found.counts.get(state, 0) for state in STATES}
        if any(counts.values()):
            row: dict[str, Any] = {"round": found.round, **counts}
            row |= {"tries": found.tries, "core_hours": float(f"{found.core_seconds / 3600:.4g}")}
            out.append(row | {"waiting": dict(waiting.get(found.round, {}))})
    return out


def reasons(
    store: Store, round_index: int | None = None, config: DftConfig | None = None
) -> dict[int | None, Counter[str]]:
    """How many jobs of each round wait at a scheduler, by its own reasons."""
    jobs = queries.open_jobs(store, round_index)
    submissions = [
        Submission(f"{job.id}-{job.tries}", store.folder / job.folder, (), attempt=job.tries) for job in jobs
    ]
    said: dict[str, str] = {}
    for name in {job.launcher for job in jobs} | ({config.launcher} if jobs and config is not None else set()):
        if name == "hook":
            continue
        try:
            options = config.launcher_options if config is not None and config.launcher == name else {}
            with LAUNCHERS[name](options=options) as launcher:
                said |= launcher.reasons(submissions)
        except (InputError, TransientError) as error:
            log.info("why jobs wait is not known: %s", error)
    out: dict[int | None, Counter[str]] = {}
    for job, submission in zip(jobs, submissions, strict=True):
        if submission.name in said:
            out.setdefault(job.round, Counter())[said[submission.name]] += 1
    return out


def failures(store: Store, round_index: int | None = None) -> list[dict[str, Any]]:
    """One row per job that failed or is being tried again: kind, tries, folder and reason."""
    return [
        {
            "job": failure.job_id[:12],
            "round": failure.round,
            "state": failure.state,
            "kind": EXPLAINED.get(failure.kind or "", failure.kind or ""),
            "tries": failure.tries,
            "folder": failure.folder[: len("dft/") + 12],
            "reason": failure.reason or "",
        }
        for failure in queries.failures(store, round_index)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as aligned text columns."""
    if not rows:
        return "nothing"
    texts = [list(rows[0])] + [[_text(value) for value in row.values()] for row in rows]
    widths = [max(len(line[n]) for line in texts) for n in range(len(texts[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in texts
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {what}" for what, count in value.items()) or "-"
    return "-" if value is None else str(value)
