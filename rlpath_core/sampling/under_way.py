"""Attempts in flight at a checkpoint, kept as the predictions that the model has made for them so far.

An attempt is decided by its start, its number (its own random stream) and the model's predictions. So no state of a
walker is saved: on a resume the attempt runs again from its beginning, receives the same predictions without a call of
the model, and stands where it stood. That way walkers never wait for each other, and a killed run still loses no call
that was made before its last checkpoint, and ends with the same bytes as one that was never killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator, Request
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.sampling.arrays import reading_arrays, write_arrays
from rlpath_core.sampling.policies import Site
from rlpath_core.sampling.walker import Identify, Outcome

NAME = "under_way"


@dataclass
class UnderWay:
    """One attempt between its beginning and its end.

    predictions  those that the model made for it so far: a list for each call of its evaluator
    declined     how many times it was told that the minimum that it met is not known yet
    """

    outcome: Outcome
    predictions: list[list[Prediction]] = field(default_factory=list)
    declined: int = 0

    def evaluating(self, evaluate: Evaluator) -> Evaluator:
        """An evaluator that first repeats the predictions that were kept, and keeps all that follow."""
        calls = 0

        def answer(request: Request) -> list[Prediction]:
            nonlocal calls
            calls += 1
            if calls > len(self.predictions):
                self.predictions.append(evaluate.answer(request))
            return list(self.predictions[calls - 1])

        return Evaluator(answer)

    def identifying(self, identify: Identify) -> Identify:
        """``identify`` that first declines as often as it did before: the basins known now may be more."""
        earlier, asked = self.declined, 0

        def again(outcome: Outcome, quenched: Quenched, found_new: bool) -> bool:
            nonlocal asked
            asked += 1
            if asked <= earlier:
                return False
            known = identify(outcome, quenched, found_new)
            self.declined += not known
            return known

        return again


def save(
    run_dir: Path, number: int, ways: Sequence[UnderWay], entry: Callable[[Site], tuple[Any, ...]]
) -> list[dict[str, Any]]:
    """Write the answers beside the run's other files; returns what belongs in its state.

    ``entry`` makes that of an attempt's start. ``number`` tells checkpoints apart: the file of the one before stays
    until ``tidy``.
    """
    arrays: dict[str, np.ndarray] = {}
    entries = []
    for k, way in enumerate(ways):
        arrays |= {f"{name}.{k}": array for name, array in _packed(way.predictions).items()}
        entries.append(
            {
                "n": way.outcome.n,
                "walker": way.outcome.walker,
                "chances": None if way.outcome.chances is None else way.outcome.chances.tolist(),
                "scales": None if way.outcome.scales is None else way.outcome.scales.tolist(),
                "calm": way.outcome.calm,
                "turn": way.outcome.turn,
                "start": entry(way.outcome.start),
                "declined": way.declined,
            }
        )
    if entries:
        write_arrays(run_dir, NAME, number, arrays)
    return entries


def load(
    run_dir: Path, number: int, entries: Sequence[dict[str, Any]], outcome: Callable[[dict[str, Any]], Outcome]
) -> list[UnderWay]:
    """What ``save`` kept. Raises InputError, which names the file, where it is missing or damaged."""
    if not entries:
        return []
    found = []
    with reading_arrays(run_dir, NAME, number) as arrays:
        for k, entry in enumerate(entries):
            own = {name.removesuffix(f".{k}"): arrays[name] for name in arrays.files if name.endswith(f".{k}")}
            predictions = _unpacked(own)
            found.append(UnderWay(outcome(entry), predictions, entry["declined"]))
    return found


FIELDS = {
    "forces": "forces",
    "spread": "force_spread",
    "node_embeddings": "node_embedding",
    "graph_embeddings": "graph_embedding",
}
"""Name in the file, and attribute of a prediction."""


def _packed(calls: Sequence[Sequence[Prediction]]) -> dict[str, np.ndarray]:
    """Arrays of all predictions, one after the other.

    ``lengths``, how many belong to each call, is left out if each call has one.
    """
    predictions = [prediction for call in calls for prediction in call]
    arrays = {"energies": np.array([prediction.energy for prediction in predictions], np.float64)}
    if any(len(call) != 1 for call in calls):
        arrays["lengths"] = np.array([len(call) for call in calls])
    for name, attribute in FIELDS.items():
        values = [getattr(prediction, attribute) for prediction in predictions]
        if all(value is None for value in values):
            continue
        shapes = {None if value is None else value.shape for value in values}
        if len(shapes) == 1:
            arrays[name] = _small(np.stack(values))
            continue
        arrays[name] = _small(np.concatenate([value.ravel() for value in values if value is not None]))
        # of other atoms or none: the shape of each, -1 where there is nothing
        rank = max(value.ndim for value in values if value is not None)
        arrays[f"{name}_shapes"] = np.array([[-1] * rank if value is None else value.shape for value in values])
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray]) -> list[list[Prediction]]:
    energies = arrays["energies"]
    columns: dict[str, list[np.ndarray | None]] = {}
    for name, attribute in FIELDS.items():
        if name not in arrays:
            columns[attribute] = [None] * len(energies)
            continue
        values = arrays[name].astype(np.float64)
        if f"{name}_shapes" not in arrays:
            columns[attribute] = list(values)
            continue
        shapes = arrays[f"{name}_shapes"]
        ends = np.cumsum([0 if (shape < 0).any() else shape.prod() for shape in shapes])
        columns[attribute] = [
            None if (shape < 0).any() else part.reshape(shape)
            for shape, part in zip(shapes, np.split(values, ends[:-1]), strict=True)
        ]
    predictions = [
        Prediction(float(energy), **{attribute: columns[attribute][n] for attribute in columns})
        for n, energy in enumerate(energies)
    ]
    lengths = arrays.get("lengths", np.ones(len(energies), int))
    ends = np.cumsum(lengths).tolist()
    return [predictions[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def _small(array: np.ndarray) -> np.ndarray:
    """As float32 where that loses nothing: most models compute in it."""
    single = array.astype(np.float32)
    return single if (single == array).all() else array
