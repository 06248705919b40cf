"""Do the files of a store agree with its rows? ``check`` lists what does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rlpath_core.errors import InputError
from rlpath_core.files import read_lines, sha256_of
from rlpath_core.store import orm, queries, saddles
from rlpath_core.store.records import ModelMinimum, ModelSaddle
from rlpath_core.store.store import Store

SAME = 1e-6
"""Numbers in JSONL files are rounded to six decimals."""


def check(store: Store) -> list[str]:
    """One line per file that is missing, damaged or in disagreement with the database; empty if all is well.

    Covers ``structures/*.npz`` (also their content), the JSONL files of every run folder, what models say of minima and
    saddles and what the reference says of that, the labels in their LMDB and results, and the manifests of registered
    models, if they are still there.
    """
    return [*_structures(store), *_runs(store), *_steps(store), *_labels(store), *_models(store)]


def _structures(store: Store) -> Iterator[str]:
    with store.reading() as session:
        ids = session.scalars(sa.select(orm.StructureRow.id).order_by(orm.StructureRow.id)).all()
    for structure_id in ids:
        try:
            store.get([structure_id])
        except InputError as error:
            yield str(error)


def _runs(store: Store) -> Iterator[str]:
    keys: tuple[str, ...]
    queue, decided, basins = queries.queue(store), queries.decisions(store), queries.basins(store)
    for run in queries.runs(store):
        folder = store.folder / run.folder
        if run.kind == "sampling":
            keys = ("n", "walker", "action", "accepted", "reason", "start_id", "structure_id", "basin", "force_calls")
            yield from _lines(folder / "steps.jsonl", keys, queries.attempts(store, run_id=run.id))
            mine = sorted((basin for basin in basins if basin.run == run.id), key=lambda basin: int(basin.name[1:]))
            yield from _lines(folder / "basins.jsonl", ("basin=name", "structure_id", "energy", "action"), mine)
        if run.kind == "paths":
            keys = ("n", "proposal", "search", "state", "rejection", "structure_id=result_id", "saddle", "calls")
            yield from _lines(folder / "saddles.jsonl", keys, saddles.searches(store, run_id=run.id))
        if run.kind in ("sampling", "paths"):
            keys = ("id=n", "structure_id", "attempt", "stage", "trigger", "score", "max_force", "energy", "run_id")
            yield from _lines(folder / "dft_queue.jsonl", keys, [entry for entry in queue if entry.run_id == run.id])
    for name in sorted({decision.folder for decision in decided}):
        for verdict, file in (("selected", "dft_submit.jsonl"), ("skipped", "dft_skip.jsonl")):
            rows = [d for d in decided if d.folder == name and d.verdict == verdict]
            keys = ("id=n", "structure_id", "round", "run_id", "attempt", "score", "max_force")
            yield from _lines(store.folder / name / file, keys, rows, required=bool(rows))


def _lines(path: Path, keys: Sequence[str], rows: Sequence[Any], required: bool = False) -> Iterator[str]:
    """The first difference between a JSONL file and rows; ``a=b`` is the key ``a`` of a line and field ``b`` of a row.

    A recorder may have been switched off, so a missing file is an error only if it is ``required``.
    """
    if not path.exists():
        if required:
            yield f"{path}: missing, and the database has {len(rows)} lines for it"
        return
    try:
        lines = read_lines(path)
    except InputError as error:
        yield str(error)
        return
    for number, (line, row) in enumerate(zip(lines, rows, strict=False), start=1):
        for key, _, field in (key.partition("=") for key in keys):
            if not _same(line.get(key), value := getattr(row, field or key)):
                yield f"{path}: line {number}: {key} is {line.get(key)!r}, in the database {value!r}"
                return
    if len(lines) != len(rows):
        yield f"{path}: {len(lines)} lines, in the database {len(rows)}"


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return abs(found - expected) <= SAME
    return bool(found == expected)


def _steps(store: Store) -> Iterator[str]:
    """What a catalogue says twice, and confirmations by labels of other structures or with other energies."""
    labels = {label.job_id: label for label in queries.labels(store)}
    for run_id in saddles.runs_with_catalogues(store):
        network = saddles.network(store, run_id=run_id)
        assert network is not None
        minima = {minimum.name: minimum for minimum in network.minima}
        points: list[ModelMinimum | ModelSaddle] = [*network.minima, *network.saddles]
        for point in points:
            if (point.status == "merged") != (point.merged_into is not None):
                yield f"{point.name} of run {run_id}: {point.status}, and merged into {point.merged_into}"
        for saddle in network.saddles:
            ends = [minima.get(name) for name in (saddle.start, saddle.end)]
            if saddle.status == "present" and not all(end is not None and end.status == "present" for end in ends):
                yield f"{saddle.name} of run {run_id}: joins a minimum that this run's model does not have"
            if (said := saddle.reference) is None:
                continue
            for job_id, structure_id in (
                (said.saddle_job, saddle.structure_id),
                (said.minus_job, saddle.minus_id),
                (said.plus_job, saddle.plus_id),
            ):
                if job_id is not None and labels[job_id].structure_id != structure_id:
                    yield f"{saddle.name} of run {run_id}: confirmed by label {job_id[:12]} of another structure"
            if abs(labels[said.saddle_job].energy - said.energy) > SAME:
                yield f"{saddle.name} of run {run_id}: confirmed with another energy than that of its label"


def _labels(store: Store) -> Iterator[str]:
    from rlpath_core.data import S2EFReader

    readers: dict[str, S2EFReader] = {}
    for label in queries.labels(store):
        name = f"label {label.job_id[:12]}"
        if label.lmdb is None or label.lmdb_key is None:
            yield f"{name}: is in no LMDB"
            continue
        try:
            reader = readers.setdefault(label.lmdb, S2EFReader(store.folder / label.lmdb))
            entry = reader[label.lmdb_key]
        except (InputError, IndexError) as error:
            yield f"{name}: {label.lmdb} has no entry {label.lmdb_key} ({error})"
            continue
        if entry.energy is None or entry.forces is None:
            yield f"{name}: entry {label.lmdb_key} of {label.lmdb} has no energy or no forces"
        elif abs(entry.energy - label.energy) > SAME or entry.sid != label.structure_id:
            yield f"{name}: entry {label.lmdb_key} of {label.lmdb} is another label"


def _models(store: Store) -> Iterator[str]:
    for model in queries.models(store):
        path = Path(model.manifest)
        if path.is_file() and sha256_of(path) != model.sha256:
            yield f"{path}: is no longer the manifest {model.sha256[:12]} that the database names"
