"""Many walkers, one batch: walkers are straight-line code in greenlets, and the hub evaluates for all of them at once.

A walker blocks only when it calls its ``Evaluator``. The hub collects the requests of all live walkers, makes one
batched prediction and resumes the walkers in order, so the order of events depends on the walkers alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from greenlet import GreenletExit, getcurrent, greenlet

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.structure import Structure


class NotFiniteError(Exception):
    """The model predicted an energy or a force that is not finite: the attempt is lost, the run continues."""


@dataclass(frozen=True)
class Request:
    """What one walker waits for: predictions of ``structures``, with ``embeddings`` or without."""

    structures: tuple[Structure, ...]
    embeddings: bool = False


Script = Callable[["Evaluator"], None]
"""What a walker runs."""


class Evaluator:
    """Evaluates structures with the model, in one batch with those of all other walkers.

    Call it with one structure for one prediction, or with a list for a list in the same order (the images of a band,
    the displacements of a Hessian): a list is one step of the walker, whatever its length. The structures need not have
    the same atoms.

    Parameters
    ----------
    answer : callable
        Returns the predictions of a ``Request``, in its order.

    Attributes
    ----------
    calls : int
        Number of structures evaluated so far.
    """

    def __init__(self, answer: Callable[[Request], list[Prediction]]) -> None:
        self.answer = answer
        self.calls = 0

    @overload
    def __call__(self, structures: Structure, *, embeddings: bool = False) -> Prediction: ...

    @overload
    def __call__(self, structures: Sequence[Structure], *, embeddings: bool = False) -> list[Prediction]: ...

    def __call__(
        self, structures: Structure | Sequence[Structure], *, embeddings: bool = False
    ) -> Prediction | list[Prediction]:
        """Predict energies and forces.

        Parameters
        ----------
        structures : Structure or sequence of Structure
        embeddings : bool
            Whether the predictions have the model's embeddings too.

        Returns
        -------
        Prediction or list of Prediction

        Raises
        ------
        NotFiniteError
            If one of the energies or forces is not finite. Other walkers are not affected.
        """
        predictions = self.ask((structures,) if isinstance(structures, Structure) else structures, embeddings)
        if not all(_is_finite(prediction) for prediction in predictions):
            raise NotFiniteError
        return predictions[0] if isinstance(structures, Structure) else predictions

    def ask(self, structures: Sequence[Structure], embeddings: bool = False) -> list[Prediction]:
        """The same for a list, whether the predictions are finite or not."""
        if not structures:
            return []
        self.calls += len(structures)
        return self.answer(Request(tuple(structures), embeddings))


def _is_finite(prediction: Prediction) -> bool:
    return bool(
        np.isfinite(prediction.energy) and prediction.forces is not None and np.isfinite(prediction.forces).all()
    )


class Hub:
    """Runs scripts in lockstep over one model.

    Parameters
    ----------
    model : Model
    clock : callable
        Seconds; what ``model_seconds`` is measured with.

    Attributes
    ----------
    calls, batches : int
        Structures evaluated, and calls of ``model.predict``.
    model_seconds : float
        Time spent in ``model.predict``.
    """

    def __init__(self, model: Model, clock: Callable[[], float] = time.perf_counter) -> None:
        self.model = model
        self.clock = clock
        self.calls = 0
        self.batches = 0
        self.model_seconds = 0.0

    def run(self, scripts: Sequence[Script], before_batch: Callable[[], None] | None = None) -> None:
        """Run every script to its end. An exception in one ends them all and is raised here.

        ``before_batch`` is called when every live script waits for the model.
        """
        hub = getcurrent()

        def wait(request: Request) -> list[Prediction]:
            predictions: list[Prediction] = hub.switch(request)
            return predictions

        walkers = [greenlet(script, hub) for script in scripts]
        waiting: list[tuple[greenlet, Request]] = []

        def resume(walker: greenlet, value: Any) -> None:
            request = walker.switch(value)
            if not walker.dead:
                waiting.append((walker, request))

        try:
            for walker in walkers:
                resume(walker, Evaluator(wait))
            while waiting:
                if before_batch is not None:
                    before_batch()
                batch, waiting = waiting, []
                answers = self._predict([request for _, request in batch])
                for (walker, _), predictions in zip(batch, answers, strict=True):
                    resume(walker, predictions)
        finally:
            for walker in walkers:
                if not walker.dead:
                    walker.throw(GreenletExit)

    def _predict(self, requests: Sequence[Request]) -> list[list[Prediction]]:
        """The predictions of each request, from one call of the model."""
        structures = [structure for request in requests for structure in request.structures]
        started = self.clock()
        predictions = self.model.predict(structures, embeddings=any(request.embeddings for request in requests))
        self.model_seconds += self.clock() - started
        self.calls += len(structures)
        self.batches += 1
        assert len(predictions) == len(structures)
        answers, end = [], 0
        for request in requests:
            begin, end = end, end + len(request.structures)
            answer = predictions[begin:end]
            # what a walker receives must not depend on what the others asked for
            answers.append(answer if request.embeddings else [_without_embeddings(one) for one in answer])
        return answers


def _without_embeddings(prediction: Prediction) -> Prediction:
    if prediction.node_embedding is None and prediction.graph_embedding is None:
        return prediction
    return replace(prediction, node_embedding=None, graph_embedding=None)
