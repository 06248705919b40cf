"""What the reference says of the saddles of a model: its force there, its curvature along the mode, its barriers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from rlpath_core.data import Labelled, S2EFReader
from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.store import Store, orm, queries, saddles
from rlpath_core.store.records import Confirmation, Label, ModelSaddle
from rlpath_core.structure import Structure

HELD = 2e-4
"""Å: an atom that moves by less between the ends of a step was held, in structures that do not say so."""


def confirm(store: Store, round_index: int | None = None, tolerance: float = 0.05) -> list[ModelSaddle]:
    """Compare the saddles of all models with the labels that there are, and write down what the reference says.

    A step is ``reference_confirmed`` if at the model's saddle no reference force on a movable atom is as large as
    ``tolerance`` and the reference has a negative curvature along the model's mode. The curvature is
    -(F(+) - F(-)) · v / |x(+) - x(-)| from the labels of the displaced pair; if only one of them has a label, the
    saddle's own takes the place of the other, and the record says so (``sides`` is 1). May be repeated at any time.

    Parameters
    ----------
    store : Store
    round_index : int, optional
        The last round whose runs count; None for all runs.
    tolerance : float
        eV/Å.

    Returns
    -------
    list of ModelSaddle
        The saddles of this round's runs (of all runs without ``round_index``) that have labels, each with
        ``reference``.
    """
    labels = _Labels(store)
    said = {}
    for saddle in saddles.model_saddles(store):
        earlier = round_index is None or (saddle.round is not None and saddle.round <= round_index)
        if earlier and saddle.status == "present" and saddle.structure_id in labels:
            said[saddle.id] = _compared(store, saddle, labels, tolerance)
    with store.session() as session:
        for row_id, confirmation in said.items():
            session.merge(orm.ConfirmationRow(model_saddle_id=row_id, **asdict(confirmation)))
    return [saddle for saddle in saddles.model_saddles(store, round_index) if saddle.id in said]


class _Labels:
    """Labels by structure, with energies and forces read when they are asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.engines = saddles.engines_of_labels(store)
        self.readers: dict[str, S2EFReader] = {}
        self.by_structure: dict[str, dict[str, Label]] = {}
        for label in queries.labels(store):  # the newest of an engine counts
            if label.lmdb is not None and label.lmdb_key is not None:
                self.by_structure.setdefault(label.structure_id, {})[self.engines[label.job_id]] = label
        self.minima: dict[tuple[str, str], str] = {}

    def __contains__(self, structure_id: str) -> bool:
        return structure_id in self.by_structure

    def newest(self, structure_id: str) -> tuple[str, Label]:
        """The engine of the newest label of a structure, and the label."""
        return list(self.by_structure[structure_id].items())[-1]

    def of(self, structure_id: str, engine: str) -> Label | None:
        """The label of one engine, so that energies can be compared."""
        return self.by_structure.get(structure_id, {}).get(engine)

    def of_minimum(self, run_id: str, name: str, engine: str) -> Label | None:
        """The label of a minimum of the catalogue, as the model of a run has it."""
        if not any(run == run_id for run, _ in self.minima):
            network = saddles.network(self.store, run_id=run_id)
            assert network is not None
            self.minima |= {(run_id, minimum.name): minimum.structure_id for minimum in network.minima}
        return self.of(self.minima[run_id, name], engine)

    def forces(self, label: Label) -> Floats:
        """[n_atoms, 3], eV/Å."""
        assert label.lmdb is not None
        assert label.lmdb_key is not None
        path = self.store.folder / label.lmdb
        entry: Labelled = self.readers.setdefault(label.lmdb, S2EFReader(path))[label.lmdb_key]
        if entry.forces is None or entry.sid != label.structure_id:
            raise InputError(
                f"is not label {label.job_id[:12]}: see rlpath store check", path, f"entry {label.lmdb_key}"
            )
        return entry.forces


def _compared(store: Store, saddle: ModelSaddle, labels: _Labels, tolerance: float) -> Confirmation:
    """What the labels say of one saddle; the saddle itself has one."""
    engine, here = labels.newest(saddle.structure_id)
    minus, plus = labels.of(saddle.minus_id, engine), labels.of(saddle.plus_id, engine)
    start = labels.of(saddle.start_id, engine) or labels.of_minimum(saddle.run_id, saddle.start, engine)
    end = labels.of(saddle.end_id, engine) or labels.of_minimum(saddle.run_id, saddle.end, engine)
    structures = store.get([saddle.minus_id, saddle.structure_id, saddle.plus_id, saddle.start_id, saddle.end_id])
    forces = labels.forces(here)
    fmax = float(np.linalg.norm(forces[movable_atoms(structures)], axis=1).max())
    curvature = None
    if minus is not None or plus is not None:
        behind, ahead = (here if one is None else one for one in (minus, plus))
        first, last = structures[0 if minus is not None else 1], structures[2 if plus is not None else 1]
        step = last.positions - first.positions
        length = float(np.linalg.norm(step))
        curvature = -float(np.sum((labels.forces(ahead) - labels.forces(behind)) * step)) / length**2
    there, back = (None if minimum is None else here.energy - minimum.energy for minimum in (start, end))
    return Confirmation(
        confirmed=fmax < tolerance and curvature is not None and curvature < 0,
        tolerance=tolerance,
        fmax=fmax,
        energy=here.energy,
        curvature=curvature,
        sides=sum(one is not None for one in (minus, plus)),
        barrier=there,
        barrier_back=back,
        barrier_error=max(saddles.barrier_errors(saddle, there, back), default=None),
        saddle_job=here.job_id,
        minus_job=_job(minus),
        plus_job=_job(plus),
        start_job=_job(start),
        end_job=_job(end),
    )


def movable_atoms(structures: Sequence[Structure]) -> Mask:
    """[n_atoms]: those that are not fixed; where none is, those that differ between structures of one step."""
    fixed = structures[0].fixed
    if fixed.any():
        return np.asarray(~fixed, bool)
    positions = np.array([structure.positions for structure in structures])
    return np.asarray(np.ptp(positions, axis=0).max(axis=1) > HELD, bool)


def _job(label: Label | None) -> str | None:
    return None if label is None else label.job_id
