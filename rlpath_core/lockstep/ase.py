"""ASE's dynamics, optimizers and bands inside a walker: a calculator and an ``Optimizable`` that use the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.utils.abc import Optimizable
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.structure import Structure


class HubCalculator(Calculator):
    """An ASE calculator whose energies and forces come from the hub, so that ASE runs unchanged inside a walker.

    Only positions may change while it is attached: cell and constraints are not compared, and ASE's own bookkeeping,
    which copies the atoms for each of many thousand calls, is skipped.

    Parameters
    ----------
    template : Structure
        The atoms that it will be attached to.
    evaluate : Evaluator
    rows : ndarray of int, optional
        The atoms that ASE sees; all if not given. The others stay where they are in ``template``.
    """

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self, template: Structure, evaluate: Evaluator, rows: NDArray[np.int64] | None = None) -> None:
        super().__init__()
        self.evaluate = evaluate
        self.rows: Any = slice(None) if rows is None else rows
        self.structure = template
        """The structure evaluated last."""
        self.prediction: Prediction | None = None

    def get_spin_polarized(self) -> bool:
        """Without this method ASE adds a reference cycle, which keeps the forces until a full garbage collection."""
        return False

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        if name not in self.implemented_properties:
            raise PropertyNotImplementedError(f"{name} is not predicted inside a walker")
        assert atoms is not None
        if self.is_outdated(atoms):
            if not allow_calculation:
                return None
            structure = self.structure_of(atoms)
            self.store(structure, self.evaluate(structure))
        result = self.results[name]
        return result.copy() if isinstance(result, np.ndarray) else result

    def is_outdated(self, atoms: Atoms) -> bool:
        """Whether ``atoms`` have moved since the last prediction, or there is none."""
        return self.prediction is None or not np.array_equal(self.structure.positions[self.rows], atoms.positions)

    def structure_of(self, atoms: Atoms) -> Structure:
        """All atoms, with ``atoms`` where they are now."""
        positions = self.structure.positions.copy()
        positions[self.rows] = atoms.positions
        return self.structure.moved(positions)

    def store(self, structure: Structure, prediction: Prediction) -> None:
        """Keep a prediction: ``structure`` will not be evaluated again."""
        assert prediction.forces is not None
        self.structure, self.prediction = structure, prediction
        self.results = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "forces": prediction.forces[self.rows].copy(),
        }


def attach(
    structure: Structure, movable: NDArray[np.bool_], evaluate: Evaluator, prediction: Prediction | None = None
) -> Atoms:
    """ASE atoms whose calculator is the hub.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held by ``FixAtoms``.
    evaluate : Evaluator
    prediction : Prediction, optional
        The model's prediction of ``structure``, if there is one already.

    Returns
    -------
    ase.Atoms
    """
    from ase.constraints import FixAtoms

    atoms = structure.to_ase()
    atoms.set_constraint([] if movable.all() else FixAtoms(mask=~movable))
    atoms.calc = calculator = HubCalculator(structure, evaluate)
    if prediction is not None:
        calculator.store(structure, prediction)
    return atoms


def attach_movable(
    structure: Structure, movable: NDArray[np.bool_], evaluate: Evaluator, prediction: Prediction | None = None
) -> Atoms:
    """ASE atoms that are the movable ones alone, whose calculator is the hub; the parameters are those of ``attach``.

    For methods whose own work grows fast with the number of atoms, constrained ones included.
    """
    rows = np.flatnonzero(movable)
    atoms = structure.to_ase()[rows]
    atoms.set_constraint()
    atoms.calc = calculator = HubCalculator(structure, evaluate, rows)
    if prediction is not None:
        calculator.store(structure, prediction)
    return atoms


def evaluate_together(images: Sequence[Atoms]) -> None:
    """Evaluate all images that have moved as one list, so that ASE finds their energies and forces without a call each.

    ASE's methods for bands ask for one image after the other. With this they cost a walker one step per iteration::

        class LockstepNEB(ase.mep.NEB):
            def get_forces(self):
                evaluate_together(self.images)
                return super().get_forces()

    Parameters
    ----------
    images : sequence of ase.Atoms
        As ``attach`` or ``attach_movable`` returns them, all for the same walker.
    """
    outdated = [atoms for atoms in images if atoms.calc.is_outdated(atoms)]
    if not outdated:
        return
    structures = [atoms.calc.structure_of(atoms) for atoms in outdated]
    predictions = outdated[0].calc.evaluate(structures)
    for atoms, structure, prediction in zip(outdated, structures, predictions, strict=True):
        atoms.calc.store(structure, prediction)


class MovableAtoms(Optimizable):
    """ASE ``Optimizable`` over the movable atoms; energies and forces come from the hub.

    An optimizer's own work grows with the cube of the number of atoms that it sees, so it sees no others.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
    evaluate : Evaluator
    prediction : Prediction
        The model's prediction of ``structure``.
    """

    def __init__(
        self, structure: Structure, movable: NDArray[np.bool_], evaluate: Evaluator, prediction: Prediction
    ) -> None:
        self.rows = np.flatnonzero(movable)
        self.evaluate = evaluate
        self.structure, self._prediction = structure, prediction
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
        forces = self.prediction().forces
        assert forces is not None
        return -forces[self.rows].ravel()

    def get_value(self) -> float:
        return self.prediction().energy

    def iterimages(self) -> Iterator[Atoms]:
        yield self.structure.to_ase()

    def prediction(self) -> Prediction:
        """Prediction at the current positions (calls the model if the atoms moved). Updates ``structure``."""
        if self.moved:
            positions = self.structure.positions.copy()
            positions[self.rows] = self.x.reshape(-1, 3)
            structure = self.structure.moved(positions)
            self._prediction, self.structure, self.moved = self.evaluate(structure), structure, False
        return self._prediction
