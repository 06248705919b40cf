"""Attempts that a checkpoint meets half done: kept as the model's predictions so far.

An attempt is decided by its plan, its number (its own random stream) and the model's predictions. So nothing of a
walker's inner state is saved: on a resume the attempt runs again from its beginning, gets the same predictions without
calls of the model, and arrives at the same point. So walkers never wait for each other, and a killed run loses no call
that was made before its last checkpoint and ends with the same bytes as one that was never killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator, Request
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.sampling.attempt import Plan
from rlpath_core.sampling.known_basins import Identification, Identify


@dataclass
class InFlightAttempt:
    """One attempt between its plan and its result.

    Attributes
    ----------
    plan
        What the policy decided.
    draw
        Which of its draws the attempt continued with; None as long as that is open.
    predictions
        The model's so far: a list for each call of the evaluator.
    n_unknown
        How many times ``identify`` has found no known basin.
    """

    plan: Plan
    draw: int | None = None
    predictions: list[list[Prediction]] = field(default_factory=list)
    n_unknown: int = 0

    def replaying(self, evaluate: Evaluator) -> Evaluator:
        """An evaluator that first repeats the predictions that were kept, and keeps all that follow."""
        calls = 0

        def answer(request: Request) -> list[Prediction]:
            nonlocal calls
            calls += 1
            if calls > len(self.predictions):
                self.predictions.append(evaluate.answer(request))
            return list(self.predictions[calls - 1])

        return Evaluator(answer)

    def repeating(self, identify: Identify) -> Identify:
        """``identify`` that first finds nothing as often as it did before: more basins may be known by now."""
        earlier, calls = self.n_unknown, 0

        def again(plan: Plan, relaxed: Quenched, may_be_new: bool) -> Identification | None:
            nonlocal calls
            calls += 1
            if calls <= earlier:
                return None
            identification = identify(plan, relaxed, may_be_new)
            self.n_unknown += identification is None
            return identification

        return again

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        plan = self.plan
        return {
            "n": plan.n,
            "walker": plan.walker,
            "start": plan.start,
            "probabilities": None if plan.probabilities is None else plan.probabilities.tolist(),
            "step_scales": None if plan.step_scales is None else plan.step_scales.tolist(),
            "relax_threshold": plan.relax_threshold,
            "memo": plan.memo,
            "draw": self.draw,
            "n_unknown": self.n_unknown,
            "predictions": _packed(self.predictions),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> InFlightAttempt:
        """The attempt that ``state`` described."""
        plan = {name: state[name] for name in ("n", "walker", "start", "relax_threshold", "memo")}
        for name in ("probabilities", "step_scales"):
            plan[name] = None if state[name] is None else np.array(state[name])
        return cls(Plan(**plan), state["draw"], _unpacked(state["predictions"]), state["n_unknown"])


FIELDS = {
    "forces": "forces",
    "spread": "force_spread",
    "node_embeddings": "node_embedding",
    "graph_embeddings": "graph_embedding",
}
"""Name in the checkpoint, and attribute of a prediction."""


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
        # different numbers of atoms, or none: the shape of each, -1 for none
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
    """As float32 if that loses nothing: most models compute in it."""
    single = array.astype(np.float32)
    return single if (single == array).all() else array
