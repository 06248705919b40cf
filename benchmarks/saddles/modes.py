"""G8: force calls until the lowest mode of LJ38 is found, from a random direction; the judge is the whole Hessian."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.saddles import rivals
from benchmarks.saddles.common import Counted, Task
from benchmarks.saddles.record import Record
from rlpath_core.geometry.cell import Floats
from rlpath_core.lockstep.hessian import numerical_hessian
from rlpath_core.lockstep.vibrations import rigid_motions

OVERLAP = 0.99
MOST = 120
Finder = Callable[[Task, Floats], tuple[int, float]]
"""Of a task and the exact mode: calls until the overlap was reached, and the overlap."""


def exact(task: Task) -> Floats:
    """The lowest mode of the whole Hessian at right angles to rigid motions, which all engines leave out."""
    hessian = numerical_hessian(task.structure, task.movable, Counted(task.model()).evaluator(), 0.001)
    rigid = rigid_motions(task.structure, task.movable)
    outside = np.eye(len(hessian)) - rigid.T @ rigid
    return np.linalg.eigh(outside @ hessian @ outside + 1e6 * rigid.T @ rigid)[1][:, 0]


def own(task: Task, mode: Floats) -> tuple[int, float]:
    """rlpath's search for the lowest mode: ended after 1, 2, 3, ... directions until the mode is right.

    The structure itself, whose forces are needed once, is counted too.
    """
    from rlpath_core.paths.lowest_mode import lowest_mode

    overlap = 0.0
    for most in range(1, MOST):
        counted = Counted(task.model())
        evaluate = counted.evaluator()
        prediction = evaluate(task.structure)
        found = lowest_mode(
            task.structure, task.movable, evaluate, prediction, task.mode, tolerance=1e-6, max_calls=most
        )
        overlap = abs(float(found.mode[task.movable].ravel() @ mode))
        if overlap > OVERLAP:
            return counted.calls, overlap
        if found.calls < most:
            break
    return counted.calls, overlap


def sella(task: Task, mode: Floats) -> tuple[int, float]:
    """Sella's Jacobi-Davidson with its defaults (no Hessian yet), which can end where a given mode is reached."""
    from sella.eigensolvers import rayleigh_ritz
    from sella.peswrapper import PES

    counted = Counted(task.model())
    atoms = rivals.attached(task, task.structure, counted)
    pes = PES(atoms, eta=1e-4)
    pes.get_f()
    from sella.linalg import NumericalHessian

    basis = pes.get_Ufree()
    hessian = NumericalHessian(pes._calc_eg, pes.get_x(), pes.get_g(), pes.eta, False, basis)
    assert task.mode is not None
    whole = np.zeros_like(task.structure.positions)
    whole[task.movable] = mode.reshape(-1, 3)
    reference = basis.T @ whole.ravel()
    start = basis.T @ (task.mode * task.movable[:, None]).ravel()
    _, vectors, _ = rayleigh_ritz(
        hessian,
        1e-6,
        np.eye(basis.shape[1]),
        v0=start,
        vref=reference / np.linalg.norm(reference),
        vreftol=OVERLAP,
        maxiter=MOST,
    )
    return counted.calls, abs(float(vectors[:, 0] @ reference))


def run(record: Record, tasks: Sequence[Task], finders: dict[str, Finder]) -> None:
    """A random direction of all atoms for each task, the same for every engine."""
    for k, task in enumerate(tasks):
        by = np.random.default_rng([8, k]).normal(size=task.structure.positions.shape)
        named = Task(f"{task.name} mode", task.model, task.structure, by / np.linalg.norm(by))
        mode = None
        for engine, finder in finders.items():
            if record.has("G8", engine, named.name):
                continue
            mode = exact(named) if mode is None else mode
            began = time.perf_counter()
            calls, overlap = finder(named, mode)
            seconds = time.perf_counter() - began
            record.add("G8", engine, named.name, overlap > OVERLAP, calls, seconds, overlap=overlap)
