"""The row of a run: begun, or found again by a resume that wants the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rlpath_core.backends.base import Model
from rlpath_core.config import first_change
from rlpath_core.errors import InputError, TransientError
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """A full or failing disk becomes a TransientError: what was durable before stays so, and a resume continues."""
    try:
        yield
    except (OSError, sa.exc.OperationalError) as error:
        what = error.orig if isinstance(error, sa.exc.OperationalError) else error
        raise TransientError(
            f"{run_dir}: cannot be written ({what}); what the last checkpoint holds is safe: make room, then --resume"
        ) from error


def open_run(
    store: Store,
    run_id: str,
    kind: str,
    run_dir: Path,
    files: Sequence[str],
    config: dict[str, Any],
    *,
    format: int,
    changeable: str,
    model: Model,
    starts: Sequence[Structure],
    round_index: int | None,
    resume: bool,
) -> dict[str, Any]:
    """Begin a run, or continue it.

    Parameters
    ----------
    store, run_id, kind
        Where its row is, its name, and what kind of run it is.
    run_dir, files
        Its folder, and the files in it to which the run appends.
    config
        ``config`` and ``identity``, which must not change, and ``limits``, which may.
    format
        Of the state that the run saves.
    changeable
        The limits, in words.
    model, starts, round_index
        What it begins with.
    resume
        Whether a run that is there is continued.

    Returns
    -------
    dict
        What the last checkpoint saved, empty for a new run.

    Raises
    ------
    InputError
        The run exists and is not to be resumed, or differs from the one to resume.
    """
    with store.reading() as session:
        row = session.get(orm.RunRow, run_id)
        saved = None if row is None else dict(row.state)
        before = {} if row is None else dict(row.config)
        known_kind = None if row is None else row.kind
    there = [name for name in files if (run_dir / name).exists()]
    if saved is None:
        if there:
            raise InputError(
                f"exists, but the database {store.folder} knows no run {run_id!r} that wrote it; "
                "choose another run_dir",
                run_dir / there[0],
            )
        _begin(store, run_id, kind, run_dir, config, model, starts, round_index)
        return {}
    if known_kind != kind:
        raise InputError(f"the database has a {known_kind} run of this name; choose another", "run_id", run_id)
    if not resume:
        what = run_dir / there[0] if there else f"run {run_id}"
        raise InputError("exists already: use --resume to continue, or choose another run_dir", what)
    _check_format(run_id, run_dir, saved, format)
    for part in ("identity", "config"):
        if change := first_change(before[part], config[part]):
            raise InputError(
                f"is {change.new!r}, but the run to resume began with {change.old!r}; "
                f"only the limits ({changeable}) may change",
                run_dir,
                change.key,
            )
    return saved


def _begin(
    store: Store,
    run_id: str,
    kind: str,
    run_dir: Path,
    config: dict[str, Any],
    model: Model,
    starts: Sequence[Structure],
    round_index: int | None,
) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    with store.session() as session:
        if model.digest and session.get(orm.ModelRow, model.digest) is None:
            store.register_model(session, model.reference, model.digest, model.backend, model.weights_sha256)
        store.put(starts, session)
        session.add(
            orm.RunRow(
                id=run_id,
                kind=kind,
                folder=store.relative(run_dir),
                round=round_index,
                seed=config["identity"]["seed"],
                model_sha256=model.digest or None,
                config=config,
            )
        )


def _check_format(run_id: str, run_dir: Path, saved: dict[str, Any], format: int) -> None:
    found = saved.get("format", 1)
    if saved and found != format:
        version = "0.1" if found < format else "a later version"
        raise InputError(
            f"run {run_id} was begun by another version of rlpath ({version}: its state has format {found}, "
            f"this one reads {format}) and cannot be resumed: choose another run_dir, or finish it with {version}",
            run_dir,
        )
