"""Several pieces of straight-line code side by side within one walker: what they ask for is one list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.lockstep.hub import Evaluator, Hub, Script
from rlpath_core.structure import Structure

T = TypeVar("T")


class _Walker(Model):
    """The evaluator of a walker as the model of a hub inside it."""

    def __init__(self, evaluate: Evaluator) -> None:
        self.evaluate = evaluate

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        return self.evaluate.ask(structures, embeddings)


def side_by_side(scripts: Sequence[Callable[[Evaluator], T]], evaluate: Evaluator) -> list[T]:
    """Run every script to its end and return their results.

    Each gets an evaluator of its own. Whenever all of them wait, the walker asks once for all that they ask for::

        left, right = side_by_side([lambda ask: quench(..., ask, ...), lambda ask: quench(..., ask, ...)], evaluate)

    Parameters
    ----------
    scripts : sequence of callable
        ``script(evaluate)``.
    evaluate : Evaluator
        The walker's own.

    Returns
    -------
    list
        In the order of ``scripts``.

    Raises
    ------
    Exception
        What a script raises ends the others and is raised here, ``NotFiniteError`` for instance.
    """
    results: dict[int, T] = {}

    def keep(number: int, script: Callable[[Evaluator], T]) -> Script:
        def run(own: Evaluator) -> None:
            results[number] = script(own)

        return run

    Hub(_Walker(evaluate)).run([keep(number, script) for number, script in enumerate(scripts)])
    return [results[number] for number in range(len(scripts))]
