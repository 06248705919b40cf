"""Models that misbehave, for tests of what is above a model: each is EMT with one twist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel


class EmbeddingModel(EMTModel):
    """With embeddings: each atom's displacement from the centre, [n_atoms, 3] Å, and their spread, [3] Å."""

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        predictions = super().predict(structures, forces=forces)
        if not embeddings:
            return predictions
        shifts = [structure.positions - structure.positions.mean(axis=0) for structure in structures]
        return [
            replace(one, node_embedding=shift, graph_embedding=shift.std(axis=0))
            for one, shift in zip(predictions, shifts, strict=True)
        ]


class Interrupted(Exception):
    """Raised by ``DyingModel``."""


class DyingModel(EmbeddingModel):
    """Raises ``Interrupted`` in the middle of the batch number ``after``, like a process that is killed."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().predict(structures, forces=forces, embeddings=embeddings)


class UnusedModel(EMTModel):
    """Must not be called."""

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        raise AssertionError("the model was called for a run that cannot continue")


class RecordingModel(EMTModel):
    """Keeps the structures that it was called with in ``structures``."""

    def __init__(self) -> None:
        super().__init__()
        self.structures: list[Structure] = []

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        self.structures += structures
        return super().predict(structures, forces=forces, embeddings=embeddings)


class ScaledModel(EMTModel):
    """All forces times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.digest = f"{factor}"

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        return [Prediction(p.energy, self.factor * p.forces) for p in super().predict(structures)]  # type: ignore[operator, arg-type]


class NotFiniteModel(EMTModel):
    """The energy of every third structure is not a number; which ones is decided by the positions."""

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        wrong = [int(1e4 * abs(s.positions[-1]).sum()) % 3 == 0 for s in structures]
        predictions = super().predict(structures)
        return [Prediction(float("nan"), p.forces) if w else p for p, w in zip(predictions, wrong, strict=True)]


class SignallingModel(EmbeddingModel):
    """Writes a byte to the file descriptor ``pipe`` for every batch."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.pipe = pipe

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        os.write(self.pipe, b".")
        return super().predict(structures, forces=forces, embeddings=embeddings)


class SwirlingModel(EMTModel):
    """Forces that are no gradient: the last atom is driven along y by ``swirl`` (eV/Å²) times its x beyond ``centre``.

    Minus the derivatives of the forces have ``-swirl`` along x for y and nothing more along y for x. Energies have
    ``tilt`` (eV/Å) times the distance of that atom's x from ``centre`` (Å) on top, of which the forces know nothing.
    """

    conservative = False

    def __init__(self, swirl: float, centre: float, tilt: float = 0.0) -> None:
        super().__init__()
        self.swirl, self.centre, self.tilt = swirl, centre, tilt

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        out = []
        for structure, one in zip(structures, super().predict(structures), strict=True):
            assert one.forces is not None
            away = structure.positions[-1, 0] - self.centre
            driven = np.array(one.forces)
            driven[-1, 1] += self.swirl * away
            out.append(Prediction(one.energy + self.tilt * abs(away), driven))
        return out
