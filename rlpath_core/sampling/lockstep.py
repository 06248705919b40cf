"""Many walkers, one batch: walkers are straight-line code in greenlets, the hub answers all of them at once.

A walker's only blocking point is ``ask(structure)``. The hub gathers what all live walkers wait for, makes one
batched prediction, and resumes them in walker order, so the order of events depends on nothing but the walkers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
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
    """An ASE calculator that asks the hub, so that ASE's optimizers and dynamics run unchanged inside a walker.

    ``rows`` are the atoms of ``template`` that ASE's atoms stand for; the others stay where they are. Atoms, cell and
    constraints stay as they are while it is attached: positions alone are compared, and nothing is copied that ASE's
    own bookkeeping would copy for each of many thousand calls.
    """

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self, template: Structure, ask: Ask, rows: np.ndarray | slice = slice(None)) -> None:
        super().__init__()
        self.template = template
        self.ask = ask
        self.rows = rows
        self.at: np.ndarray | None = None
        self.last: Prediction | None = None
        self.structure = template  # the whole structure that was asked for last

    def _whole(self, at: np.ndarray) -> Structure:
        positions = self.template.positions.copy()
        positions[self.rows] = at
        return self.template.moved(positions)

    def get_spin_polarized(self) -> bool:
        """Without it ASE gives each calculator a reference to itself, and what it holds waits for a full collection."""
        return False

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(f"{name} is not what a walker asks for")
        assert atoms is not None
        if self.at is None or not np.array_equal(self.at, atoms.positions):
            if not allow_calculation:
                return None
            at = atoms.positions.copy()
            structure = self._whole(at)
            self.keep(at, self.ask(structure), structure)
        found = self.results[name]
        return found.copy() if isinstance(found, np.ndarray) else found

    def keep(self, positions: np.ndarray, answer: Prediction, structure: Structure) -> None:
        """``answer`` is the model's for ``structure``, whose rows are at ``positions`` [n_rows, 3] Å."""
        assert answer.forces is not None
        self.at, self.last, self.structure = positions, answer, structure
        forces = np.array(answer.forces[self.rows])
        self.results = {"energy": answer.energy, "free_energy": answer.energy, "forces": forces}


def attach(structure: Structure, movable: np.ndarray, ask: Ask, known: Prediction | None = None) -> Atoms:
    """ASE atoms of ``structure`` with everything but ``movable`` [n_atoms] held, that ask the hub.

    ``known`` is the model's answer for this very structure, where there is one already.
    """
    from ase.constraints import FixAtoms

    atoms = structure.to_ase()
    atoms.set_constraint([] if movable.all() else FixAtoms(mask=~movable))
    atoms.calc = calculator = HubCalculator(structure, ask)
    if known is not None:
        calculator.keep(structure.positions.copy(), known, structure)
    return atoms


def attach_movable(structure: Structure, movable: np.ndarray, ask: Ask, known: Prediction) -> Atoms:
    """ASE atoms of the ``movable`` ones alone, that ask the hub for the whole structure.

    For optimizers, whose own work grows with the cube of the number of atoms that they are shown.
    """
    atoms = structure.to_ase()[movable]
    atoms.set_constraint([])
    atoms.calc = calculator = HubCalculator(structure, ask, np.flatnonzero(movable))
    calculator.keep(structure.positions[movable], known, structure)
    return atoms
