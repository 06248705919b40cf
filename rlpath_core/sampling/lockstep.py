"""Many walkers, one batch: walkers are straight-line code in greenlets, the hub answers all of them at once.

A walker's only blocking point is ``ask(structure)``. The hub gathers what all live walkers wait for, makes one
batched prediction, and resumes them in walker order, so the order of events depends on nothing but the walkers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.utils.abc import Optimizable
from greenlet import GreenletExit, getcurrent, greenlet

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.structure import Structure

Ask = Callable[[Structure], Prediction]


class NotFiniteError(Exception):
    """The model answered with something that is no number: this attempt is lost, the run is not."""


class Hub:
    """Runs scripts side by side over one model. ``calls``, ``batches`` and ``model_seconds`` (by ``clock``) count what
    it cost."""

    def __init__(self, model: Model, clock: Callable[[], float] = time.perf_counter) -> None:
        self.model = model
        self.clock = clock
        self.calls = 0
        self.batches = 0
        self.model_seconds = 0.0

    def run(self, scripts: Sequence[Callable[[Ask], None]], between: Callable[[], None] | None = None) -> None:
        """Run every script to its end. An exception in one ends them all and is raised here.

        ``between`` is called before each batch, when every live script waits for the model.
        """
        hub = getcurrent()

        def ask(structure: Structure) -> Prediction:
            answer: Prediction = hub.switch(structure)
            if not (np.isfinite(answer.energy) and answer.forces is not None and np.isfinite(answer.forces).all()):
                raise NotFiniteError
            return answer

        walkers = [greenlet(script, hub) for script in scripts]
        waiting: list[tuple[greenlet, Structure]] = []

        def resume(walker: greenlet, value: Any) -> None:
            wanted = walker.switch(value)
            if not walker.dead:
                waiting.append((walker, wanted))

        try:
            for walker in walkers:
                resume(walker, ask)
            while waiting:
                if between is not None:
                    between()
                batch, waiting = waiting, []
                began = self.clock()
                answers = self.model.predict([structure for _, structure in batch])
                self.model_seconds += self.clock() - began
                self.calls += len(batch)
                self.batches += 1
                for (walker, _), answer in zip(batch, answers, strict=True):
                    resume(walker, answer)
        finally:
            for walker in walkers:
                if not walker.dead:
                    walker.throw(GreenletExit)


class HubCalculator(Calculator):
    """An ASE calculator that asks the hub, so that ASE's dynamics runs unchanged inside a walker.

    Atoms, cell and constraints stay as they are while it is attached: positions alone are compared, and nothing is
    copied that ASE's own bookkeeping would copy for each of many thousand calls.
    """

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self, template: Structure, ask: Ask) -> None:
        super().__init__()
        self.ask = ask
        self.structure = template  # what was asked for last
        self.last: Prediction | None = None

    def get_spin_polarized(self) -> bool:
        """Without it ASE gives each calculator a reference to itself, and what it holds waits for a full collection."""
        return False

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(f"{name} is not what a walker asks for")
        assert atoms is not None
        if self.last is None or not np.array_equal(self.structure.positions, atoms.positions):
            if not allow_calculation:
                return None
            structure = self.structure.moved(atoms.positions)
            self.keep(structure, self.ask(structure))
        found = self.results[name]
        return found.copy() if isinstance(found, np.ndarray) else found

    def keep(self, structure: Structure, answer: Prediction) -> None:
        assert answer.forces is not None
        self.structure, self.last = structure, answer
        self.results = {"energy": answer.energy, "free_energy": answer.energy, "forces": answer.forces.copy()}


def attach(structure: Structure, movable: np.ndarray, ask: Ask, known: Prediction | None = None) -> Atoms:
    """ASE atoms of ``structure`` with everything but ``movable`` [n_atoms] held, that ask the hub.

    ``known`` is the model's answer for this very structure, where there is one already.
    """
    from ase.constraints import FixAtoms

    atoms = structure.to_ase()
    atoms.set_constraint([] if movable.all() else FixAtoms(mask=~movable))
    atoms.calc = calculator = HubCalculator(structure, ask)
    if known is not None:
        calculator.keep(structure, known)
    return atoms


class Movable(Optimizable):
    """The movable atoms of a structure as what ASE's optimizers ask for, that asks the hub for all of it.

    Optimizers' own work grows with the cube of the number of atoms that they are shown. ``known`` is the model's answer
    for ``structure``; ``structure`` and ``last`` are those of the last call.
    """

    def __init__(self, structure: Structure, movable: np.ndarray, ask: Ask, known: Prediction) -> None:
        self.rows = np.flatnonzero(movable)
        self.ask = ask
        self.structure, self.last = structure, known
        self.x = structure.positions[self.rows].ravel()
        self.moved = False

    def ndofs(self) -> int:
        return len(self.x)

    def get_x(self) -> np.ndarray:
        return self.x.copy()

    def set_x(self, x: np.ndarray) -> None:
        if not np.array_equal(x, self.x):
            self.x, self.moved = x.copy(), True

    def get_gradient(self) -> np.ndarray:
        forces = self.answer().forces
        assert forces is not None
        return -forces[self.rows].ravel()

    def get_value(self) -> float:
        return self.answer().energy

    def iterimages(self) -> Iterator[Atoms]:
        yield self.structure.to_ase()

    def answer(self) -> Prediction:
        """The model's for where the atoms are."""
        if self.moved:
            positions = self.structure.positions.copy()
            positions[self.rows] = self.x.reshape(-1, 3)
            structure = self.structure.moved(positions)
            self.last, self.structure, self.moved = self.ask(structure), structure, False
        return self.last
