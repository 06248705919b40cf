"""An evaluator that stops a search after so many structures."""

from __future__ import annotations

from collections.abc import Mapping

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator, Request
from rlpath_core.structure import Structure


class OutOfCalls(Exception):
    """Raised instead of an evaluation that would be one too many. Searches catch it."""


class LimitedEvaluator(Evaluator):
    """Asks another evaluator for at most ``max_calls`` structures.

    Parameters
    ----------
    evaluate : Evaluator
    max_calls : int
    known : mapping, optional
        Predictions by positions, as bytes, which cost no call.

    Attributes
    ----------
    recent : dict
        Predictions by positions, as bytes, since it was last emptied: what a library moved to before it probed around.
    """

    def __init__(self, evaluate: Evaluator, max_calls: int, known: Mapping[bytes, Prediction] | None = None) -> None:
        self.recent: dict[bytes, Prediction] = {}
        self.max_calls = max_calls
        known = {} if known is None else known

        def answer(request: Request) -> list[Prediction]:
            if len(request.structures) == 1 and not request.embeddings:
                found = known.get(request.structures[0].positions.tobytes())
                if found is not None:
                    self.calls -= 1
                    return [found]
            if self.calls > max_calls:
                self.calls -= len(request.structures)
                raise OutOfCalls
            predictions = evaluate(list(request.structures), embeddings=request.embeddings)
            self.recent.update(
                (structure.positions.tobytes(), prediction)
                for structure, prediction in zip(request.structures, predictions, strict=True)
            )
            return predictions

        super().__init__(answer)

    @property
    def left(self) -> int:
        """Structures that may still be evaluated."""
        return self.max_calls - self.calls

    def at(self, structure: Structure) -> Prediction:
        """What was predicted for ``structure``; evaluated if it is not among the recent ones."""
        known = self.recent.get(structure.positions.tobytes())
        return self(structure) if known is None else known
