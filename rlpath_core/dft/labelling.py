"""The built-in DFT hook: what an outbox selected becomes labels, each exactly once.

States of a job, in the database: submitted -> running -> done | failed -> labelled; the queue row of its structure
follows. Every step (``faultpoints.py`` names them) is written so that the next call completes what a kill interrupted:

1. intent: job rows (the id is a unique key) before anything is written or launched
2. inputs, then the launcher, which is first asked whether it has the job from before
3. the engine's process writes ``result.json`` whole; if it exists already, nothing is calculated again
4. ``done``, ``failed`` (with kind and reason; the folder stays), or another try: with more time or memory if those ran
   out, as another job with safer settings if the electronic steps did
5. the LMDB entry, idempotent under the job's id, then the label's row

``label`` does all of it and waits; ``submit`` and ``collect`` do it in parts, with a scheduler in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from rlpath_core.dft.labelling_round import FULL, LabellingRound, LabelSummary
from rlpath_core.dft.options import DftConfig
from rlpath_core.errors import TransientError
from rlpath_core.locks import exclusive
from rlpath_core.progress import Progress
from rlpath_core.store import Store

LOCK_WAIT = 60.0


def label(
    store: Store, config: DftConfig, *, round_index: int | None, lmdb: str | Path, progress: Progress | None = None
) -> LabelSummary:
    """Calculate every structure that is selected, wait, and collect the labels.

    Returns when each is labelled or failed, or the budget is spent. Resumes whatever a killed call left; called again
    it changes nothing.

    Parameters
    ----------
    store
        Holds the queue, the structures and, in ``dft/<job id>/``, the calculations.
    config
        Engine, launcher, limits, retries and budget.
    round_index
        Only what was selected in this round of the campaign; None: in any.
    lmdb
        The labels' LMDB file; entries are appended.
    progress
        Called with ``done``, ``failed``, ``wanted`` and ``per_second``.

    Raises
    ------
    InputError
        If the engine is not installed, or another process is labelling in this store.
    TransientError
        If the scheduler does not answer or the disk is full.
    """
    with _locked(store, config, round_index, lmdb, progress) as work:
        if config.retry_failed:
            work.retry(None)
        work.run()
    return work.summary()


def submit(store: Store, config: DftConfig, *, round_index: int | None, lmdb: str | Path) -> LabelSummary:
    """Give what is selected to the scheduler and return. A launcher without one only records what it will calculate.

    Parameters and errors are those of ``label``.
    """
    with _locked(store, config, round_index, lmdb, None) as work:
        if config.retry_failed:
            work.retry(None)
        work.submit_only()
    return work.summary()


def collect(
    store: Store,
    config: DftConfig,
    *,
    round_index: int | None,
    lmdb: str | Path,
    wait: bool = False,
    progress: Progress | None = None,
) -> LabelSummary:
    """Collect what has ended, and submit again what failed because of its machine; nothing new is submitted.

    Looks once, or with ``wait`` until all jobs have ended. Without a scheduler, submitted jobs are calculated now.
    Other parameters and errors are those of ``label``.
    """
    with _locked(store, config, round_index, lmdb, progress) as work:
        work.collect(wait)
    return work.summary()


def retry(store: Store, config: DftConfig, *, round_index: int | None, jobs: Iterable[str] | None = None) -> list[str]:
    """Set failed jobs (ids or their beginnings; None or ``all``: all of the round) to submitted.

    The next call runs them. Returns their ids.
    """
    with _locked(store, config, round_index, "", None) as work:
        return work.retry(None if jobs is None else list(jobs))


def cancel(store: Store, config: DftConfig, *, round_index: int | None, jobs: Iterable[str] | None = None) -> list[str]:
    """End submitted or running jobs (ids or their beginnings; None or ``all``: all), which then fail as cancelled.

    Returns their ids.
    """
    with _locked(store, config, round_index, "", None) as work:
        return work.cancel(None if jobs is None else list(jobs))


@contextmanager
def _locked(
    store: Store, config: DftConfig, round_index: int | None, lmdb: str | Path, progress: Progress | None
) -> Iterator[LabellingRound]:
    """The round's work, under the store's lock. Raises TransientError for a full disk."""
    with exclusive(store.folder / ".dft.lock", "the DFT hook of this store", wait=LOCK_WAIT):
        work = LabellingRound(store, config, round_index, Path(lmdb), progress)
        try:
            work.table.read()
            yield work
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise TransientError(f"the disk is full: {error.filename or store.folder}") from error
        except sa.exc.OperationalError as error:
            if "full" not in str(error.orig):
                raise
            raise TransientError(f"the disk is full: {store.folder}: {error.orig}") from error
