"""Walkers that a checkpoint meets half way: kept as all that came to them from outside, and run again from there.

A walker is straight-line code. What it does is decided by what it began with, its own random stream, the model's
predictions, and the answers to what it asked of a state that it shares with others. So nothing of its inner state is
saved: on a resume it runs again from its beginning, gets the same predictions and answers without calls of the model,
and arrives at the same point. So walkers never wait for each other, and a killed run loses no call that was made before
its last checkpoint and ends with the same bytes as one that was never killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator, Request

T = TypeVar("T")


@dataclass
class Journal:
    """What came to one walker from outside so far.

    Attributes
    ----------
    predictions
        The model's: a list for each call of the evaluator.
    answers
        Those of ``remembering`` as JSON, in the order of the questions.
    """

    predictions: list[list[Prediction]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    def replaying(self, evaluate: Evaluator) -> Evaluator:
        """An evaluator that first repeats the predictions that were kept, and keeps all that follow.

        Make one for each time that the walker is run.
        """
        calls = 0

        def answer(request: Request) -> list[Prediction]:
            nonlocal calls
            calls += 1
            if calls > len(self.predictions):
                self.predictions.append(evaluate.answer(request))
            return list(self.predictions[calls - 1])

        return Evaluator(answer)

    def remembering(self) -> Callable[[Callable[[], T]], T]:
        """A function that calls what it is given, and first repeats the answers that were kept.

        For every question whose answer may change while the walker runs, such as whether a minimum is known already.
        Answers are what JSON can hold; a tuple becomes a list. Make one for each time that the walker is run.

        Examples
        --------
        >>> journal, known = Journal(), {"a": 1}
        >>> ask = journal.remembering()
        >>> ask(lambda: known.get("a")), known.clear()
        (1, None)
        >>> again = journal.remembering()
        >>> again(lambda: known.get("a")), again(lambda: known.get("a"))
        (1, None)
        """
        asked = 0

        def ask(question: Callable[[], T]) -> T:
            nonlocal asked
            asked += 1
            if asked > len(self.answers):
                self.answers.append(json.dumps(question()))
            kept: T = json.loads(self.answers[asked - 1])
            return kept

        return ask

    def state(self) -> dict[str, Any]:
        """For a checkpoint: arrays and plain values."""
        return {"answers": self.answers, "predictions": packed(self.predictions)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Journal:
        """The journal that ``state`` described."""
        return cls(unpacked(state["predictions"]), list(state["answers"]))


FIELDS = {
    "forces": "forces",
    "spread": "force_spread",
    "node_embeddings": "node_embedding",
    "graph_embeddings": "graph_embedding",
}
"""Name in the checkpoint, and attribute of a prediction."""


def packed(calls: Sequence[Sequence[Prediction]]) -> dict[str, np.ndarray]:
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
        # different numbers of atoms, or none: the shape of each, -1 for none
        rank = max(value.ndim for value in values if value is not None)
        arrays[f"{name}_shapes"] = np.array([[-1] * rank if value is None else value.shape for value in values])
    return arrays


def unpacked(arrays: Mapping[str, np.ndarray]) -> list[list[Prediction]]:
    """The predictions of which ``packed`` made ``arrays``: a list for each call."""
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
    """As float32 if that loses nothing: most models compute in it."""
    single = array.astype(np.float32)
    return single if (single == array).all() else array
