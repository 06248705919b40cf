"""The catalogue in the database: every run leaves all of it, as its model has it, and the next run takes it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.errors import InputError
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.paths.catalogue import Catalogue, CataloguedMinimum, CataloguedSaddle, Status, number_of
from rlpath_core.paths.identity import same_surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.store import Store, orm, saddles
from rlpath_core.store.records import ModelMinimum, ModelSaddle, StepNetwork
from rlpath_core.structure import Structure


def save_catalogue(session: Session, store: Store, run_id: str, catalogue: Catalogue) -> dict[str, int]:
    """Write what the model of a run says of every minimum and saddle; what the run wrote before is brought up to date.

    Parameters
    ----------
    session : Session
        The transaction that the rows belong to. The structures' files are on disk when this returns.
    store : Store
    run_id : str
        A row of ``runs``. All that the catalogue has is by this run's model: after a change of model, renew it first.
    catalogue : Catalogue

    Returns
    -------
    dict of str to int
        Ids of the rows of ``saddles`` by name, for ``SearchRow.saddle_id``.

    Raises
    ------
    InputError
        Another run gave a name meanwhile that this one gave too: two runs used one store at a time.
    """
    store.put([m.structure for m in catalogue.minima.values()], session)
    store.put([s for saddle in catalogue.saddles.values() for s in _structures(saddle.verdict)], session)
    minima = _names(session, orm.MinimumRow, run_id, [*catalogue.minima], catalogue.new)
    named = _names(session, orm.SaddleRow, run_id, [*catalogue.saddles], catalogue.new)
    of_minima = sa.select(orm.ModelMinimumRow).where(orm.ModelMinimumRow.run_id == run_id)
    known_minima = {row.minimum_id: row for row in session.scalars(of_minima)}
    for minimum in catalogue.minima.values():
        row = known_minima.get(minima[minimum.name])
        if row is None:
            session.add(row := orm.ModelMinimumRow(run_id=run_id, minimum_id=minima[minimum.name]))
        row.status = str(minimum.status)
        row.merged_into = None if minimum.merged_into is None else minima[minimum.merged_into]
        row.reason = minimum.reason
        row.structure_id = minimum.structure.id
        row.energy, row.fmax = float(minimum.energy), float(minimum.fmax)
        row.frequencies = _listed(minimum.frequencies)
        row.found, row.searches = minimum.found, minimum.searches
    of_saddles = sa.select(orm.ModelSaddleRow).where(orm.ModelSaddleRow.run_id == run_id)
    known_saddles = {row.saddle_id: row for row in session.scalars(of_saddles)}
    for saddle in catalogue.saddles.values():
        of_saddle = known_saddles.get(named[saddle.name])
        if of_saddle is None:
            session.add(of_saddle := orm.ModelSaddleRow(run_id=run_id, saddle_id=named[saddle.name]))
        _fill(of_saddle, saddle, minima, named)
    session.flush()
    return named


def load_catalogue(
    store: Store, options: BasinOptions, roles: Roles, template: Structure, before: str | None = None
) -> Catalogue:
    """The catalogue that the newest run on the same atoms, cell and fixed atoms left; an empty one without such a run.

    Parameters
    ----------
    store : Store
    options, roles, template
        See ``Catalogue``.
    before : str, optional
        Id of the run that takes it up: what this run wrote itself, before it was killed, does not count.

    Returns
    -------
    Catalogue
        ``model_sha256`` is the model whose points these are.
    """
    taken = _taken(store, before)
    for run_id in saddles.runs_with_catalogues(store):
        left = saddles.network(store, run_id=run_id) if run_id != before else None
        if left is None or not left.minima:
            continue
        first = store.get([left.minima[0].structure_id])[0]
        if same_surface(first, template, ~roles.movable) and np.array_equal(first.magmoms, template.magmoms):
            return _loaded(store, left, options, roles, template, taken)
    return Catalogue(options, roles, template, taken=taken)


def _loaded(
    store: Store,
    left: StepNetwork,
    options: BasinOptions,
    roles: Roles,
    template: Structure,
    taken: tuple[int, int],
) -> Catalogue:
    minima = [_minimum(store, minimum) for minimum in left.minima]
    found = [_saddle(store, saddle) for saddle in left.saddles]
    model = left.minima[0].model_sha256
    return Catalogue(options, roles, template, minima, found, taken, model)


def _minimum(store: Store, row: ModelMinimum) -> CataloguedMinimum:
    return CataloguedMinimum(
        row.name,
        store.get([row.structure_id])[0],
        row.energy,
        row.fmax,
        row.found,
        row.searches,
        None if row.frequencies is None else np.array(row.frequencies),
        Status(row.status),
        row.merged_into,
        row.reason,
    )


def _saddle(store: Store, row: ModelSaddle) -> CataloguedSaddle:
    structure, minus, plus, start, end = store.get(
        [row.structure_id, row.minus_id, row.plus_id, row.start_id, row.end_id]
    )
    mode = plus.positions - minus.positions
    ends = (
        Quenched(start, row.energy - row.barrier, 0.0, True, 0),
        Quenched(end, row.energy - row.barrier_back, 0.0, True, 0),
    )
    known = row.curvature is not None and row.next_curvature is not None
    verdict = Verdict(
        State(row.state),
        structure,
        row.energy,
        row.fmax,
        curvatures=(row.curvature, row.next_curvature) if known else None,  # type: ignore[arg-type]
        mode=mode / np.linalg.norm(mode),
        sides=(minus, plus),
        ends=ends,
    )
    return CataloguedSaddle(
        row.name,
        verdict,
        row.start,
        row.end,
        row.found,
        None if row.frequencies is None else np.array(row.frequencies),
        row.degeneracy,
        row.degeneracy_back,
        row.evidence,
        Status(row.status),
        row.merged_into,
        row.reason,
    )


def _taken(store: Store, before: str | None) -> tuple[int, int]:
    """The highest numbers that names in this store have, but for those that a run gave before it was killed."""
    highest = []
    with store.reading() as session:
        for table in (orm.MinimumRow, orm.SaddleRow):
            query = sa.select(table.name)
            names = session.scalars(query if before is None else query.where(table.run_id != before))
            highest.append(max((number_of(name) for name in names), default=0))
    return highest[0], highest[1]


def _structures(verdict: Verdict) -> list[Structure]:
    assert verdict.sides is not None
    assert verdict.ends is not None
    return [verdict.structure, *verdict.sides, *(end.structure for end in verdict.ends)]


Named = TypeVar("Named", orm.MinimumRow, orm.SaddleRow)


def _names(session: Session, table: type[Named], run_id: str, names: Sequence[str], new: set[str]) -> dict[str, int]:
    """Ids of the rows with these names; rows that are missing are added."""
    known: dict[str, Named] = {row.name: row for row in session.scalars(sa.select(table))}
    for name in names:
        if name not in known:
            session.add(row := table(name=name, run_id=run_id))
            known[name] = row
        elif name in new and known[name].run_id != run_id:
            raise InputError(f"run {known[name].run_id} named {name} meanwhile: let one paths run end before the next")
    session.flush()
    return {name: known[name].id for name in names}


def _fill(row: orm.ModelSaddleRow, saddle: CataloguedSaddle, minima: dict[str, int], named: dict[str, int]) -> None:
    verdict = saddle.verdict
    structure, minus, plus, start, end = _structures(verdict)
    assert verdict.ends is not None
    row.status = str(saddle.status)
    row.merged_into = None if saddle.merged_into is None else named[saddle.merged_into]
    row.reason = saddle.reason
    row.from_minimum, row.to_minimum = minima[saddle.start], minima[saddle.end]
    row.structure_id, row.minus_id, row.plus_id = structure.id, minus.id, plus.id
    row.start_id, row.end_id = start.id, end.id
    row.energy, row.fmax = float(verdict.energy), float(verdict.fmax)
    curvatures = verdict.curvatures or (None, None)
    row.curvature, row.next_curvature = (None if one is None else float(one) for one in curvatures)
    row.barrier = float(verdict.energy - verdict.ends[0].energy)
    row.barrier_back = float(verdict.energy - verdict.ends[1].energy)
    row.frequencies = _listed(saddle.frequencies)
    row.degeneracy, row.degeneracy_back = saddle.degeneracy, saddle.degeneracy_back
    confirmed = verdict.state is State.REFERENCE_CONFIRMED  # which the reference says, see ``confirmations``
    row.state = str(
        (State.CONNECTED if saddle.frequencies is None else State.RATE_READY) if confirmed else verdict.state
    )
    row.evidence = saddle.evidence
    row.found = saddle.found


def _listed(frequencies: np.ndarray | None) -> list[float] | None:
    return None if frequencies is None else [float(one) for one in frequencies]
