"""ASE's dynamics and optimizers inside a walker: a calculator and an ``Optimizable`` that ask the hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.utils.abc import Optimizable

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Ask
from rlpath_core.structure import Structure


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
