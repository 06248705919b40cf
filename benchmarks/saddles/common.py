"""What all goals share: tasks and outcomes, the one counter of force calls, and a judge of saddles of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.matching import matched
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hessian import numerical_hessian
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.structure import Structure
from rlpath_core.testing.potentials import relaxed

NEGATIVE = -0.02
"""eV/Å²: the judge counts curvatures below it as negative."""
SAME = 0.3
"""Å: two structures are one if no atom is further from its place."""


class Counted(Model):
    """Another model that counts the structures it is asked for, and the time that takes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.calls, self.batches, self.seconds = 0, 0, 0.0
        for name in ("backend", "digest", "elements", "device", "conservative", "has_embeddings"):
            setattr(self, name, getattr(model, name))

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        began = time.perf_counter()
        out = self.model.predict(structures, forces=forces, embeddings=embeddings)
        self.calls += len(structures)
        self.batches += 1
        self.seconds += time.perf_counter() - began
        return out

    def evaluator(self) -> Evaluator:
        """An evaluator outside a hub, for code that works alone."""
        return Evaluator(lambda request: self.predict(request.structures))


@dataclass(frozen=True)
class Task:
    """One search: from ``structure`` and a ``mode`` [n_atoms, 3], or between the ends of ``path``."""

    name: str
    model: Callable[[], Model]
    structure: Structure
    mode: Floats | None = None
    path: tuple[Structure, ...] = ()

    @property
    def movable(self) -> Any:
        return ~self.structure.fixed


@dataclass
class Outcome:
    """What an engine made of a task. ``calls`` are force calls of the search alone; ``seconds`` wall time of one."""

    name: str
    converged: bool
    calls: int
    seconds: float
    structure: Structure | None = None
    mode: Floats | None = None
    reason: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


def roles_of(structure: Structure) -> Roles:
    return infer_roles(structure)


def norms(forces: Floats, movable: Any) -> tuple[float, float]:
    """Largest force on an atom, and norm over all coordinates, of the movable atoms."""
    inside = forces[movable]
    return float(np.linalg.norm(inside, axis=1).max()), float(np.linalg.norm(inside))


@dataclass
class Judgement:
    """Order and ends of a stationary point, by a whole Hessian and by SciPy's L-BFGS: nothing of rlpath's paths."""

    energy: float
    largest: float
    norm: float
    order: int
    curvatures: tuple[float, float]
    mode: Floats
    ends: tuple[Structure, Structure] | None = None

    @property
    def differ(self) -> bool:
        return self.ends is not None and apart(*self.ends) > SAME

    def connects(self, minimum: Structure) -> bool:
        return self.differ and any(same(minimum, end) for end in self.ends or ())


def rigid_directions(structure: Structure) -> int:
    """Directions without curvature: translations and rotations of a free cluster."""
    if structure.fixed.any() or structure.pbc.any():
        return 0
    return 6 if len(structure) > 2 else 5


def judge(model: Model, structure: Structure, descend: bool = True, push: float = 0.2) -> Judgement:
    counted = Counted(model)
    movable = ~structure.fixed
    (prediction,) = counted.predict([structure])
    assert prediction.forces is not None
    hessian = numerical_hessian(structure, movable, counted.evaluator(), 0.005)
    values, vectors = np.linalg.eigh(hessian)
    order = int((values < NEGATIVE).sum())
    rest = values[np.argsort(np.abs(values))[rigid_directions(structure) :]]
    lowest = np.sort(rest)[:2]
    mode = np.zeros((len(structure), 3))
    mode[movable] = vectors[:, 0].reshape(-1, 3)
    ends = None
    if descend and order == 1:
        sides = (structure.moved(structure.positions + sign * push * mode) for sign in (-1, 1))
        first, second = (relaxed(model, side, 2e-3) for side in sides)
        ends = first, second
    largest, norm = norms(prediction.forces, movable)
    return Judgement(prediction.energy, largest, norm, order, (float(lowest[0]), float(lowest[1])), mode, ends)


def apart(first: Structure, second: Structure, exchange: bool = False) -> float:
    """Å: how far the worst atom of one is from its place in the other; ``exchange`` lets like atoms change places."""
    try:
        other = matched(first, second, exchange=exchange)
    except InputError:
        return float("inf")
    return float(np.linalg.norm(other.positions - first.positions, axis=1).max())


def same(first: Structure, second: Structure) -> bool:
    """Whether two structures are one, like atoms exchanged or not."""
    return apart(first, second, exchange=True) < SAME
