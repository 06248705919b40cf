"""G9 and G10: hops with EMT beside ASE's CI-NEB, and what the verification makes of traps and of true saddles."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms

from benchmarks.saddles import ours, rivals, systems
from benchmarks.saddles.common import Counted, Outcome, Task, judge, norms
from benchmarks.saddles.record import Record
from rlpath_core.backends.base import Model
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.paths.options import VerifyOptions
from rlpath_core.paths.searches import SEARCHES, Found
from rlpath_core.paths.verification import verify
from rlpath_core.structure import Structure
from rlpath_core.testing import stationary
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.hops import copper_on_copper, gold_on_aluminium
from rlpath_core.testing.potentials import lj_cluster, pt_heptamer, relaxed

FMAX = 0.01
"""eV/Å, of the hops with EMT."""


def hops() -> list[Task]:
    ends = {
        "Au/Al(100) 2x2x3": gold_on_aluminium(),
        "Au/Al(100) 4x4x4": gold_on_aluminium((4, 4, 4), 2),
        "Cu/Cu(111) 4x4x4": copper_on_copper(),
    }
    return [Task(name, EMTModel, pair[0], None, pair) for name, pair in ends.items()]


def g9(record: Record) -> None:
    """The barrier of each engine beside that of a CI-NEB converged five times as far."""
    tasks = hops()
    missing = [task for task in tasks if not record.has("G9", "rlpath band", task.name)]
    if not missing and record.has("G9", "ASE CI-NEB (3 images)", tasks[-1].name):
        return
    truth = {}
    for task, tight in zip(tasks, rivals.ci_neb(tasks, FMAX / 5, images=3), strict=True):
        truth[task.name] = _barriers(task, tight)

    def judged(task: Task, outcome: Outcome) -> dict[str, Any]:
        if outcome.structure is None or not outcome.converged:
            return {"ok": False}
        forward, back = _barriers(task, outcome)
        off = max(abs(forward - truth[task.name][0]), abs(back - truth[task.name][1]))
        why = None if off < 1e-3 else f"barrier off by {1e3 * off:.1f} meV"
        return {"ok": off < 1e-3, "why": why, "forward": forward, "back": back, "off": off}

    record.run("G9", "ASE CI-NEB (3 images)", tasks, functools.partial(rivals.ci_neb, fmax=FMAX, images=3), judged)
    if "band" in SEARCHES:
        record.run("G9", "rlpath band", tasks, _one_by_one("band"), judged)


def _one_by_one(name: str) -> Callable[[Sequence[Task]], Iterator[Outcome]]:
    """Hops of different metals have nothing to share, and EMT has no batches."""

    def search(tasks: Sequence[Task]) -> Iterator[Outcome]:
        for task in tasks:
            yield from ours.search([task], name, FMAX)

    return search


def _barriers(task: Task, outcome: Outcome) -> tuple[float, float]:
    assert outcome.structure is not None
    one, first, last = task.model().predict([outcome.structure, task.path[0], task.path[-1]])
    return one.energy - first.energy, one.energy - last.energy


def nitrogen_pair() -> tuple[Structure, Structure]:
    """Two nitrogen atoms on a frozen Cu(111), both on fcc hollows, and both on the hcp hollows beside: minima of EMT.

    The straight way between them is a saddle of second order, which ASE's CI-NEB converges to.
    """
    ends = []
    for site in ("fcc", "hcp"):
        atoms = fcc111("Cu", (3, 3, 3))
        add_adsorbate(atoms, "N", 1.3, site)
        atoms += Atoms("N", [atoms.positions[-1] + atoms.cell.array[0] / 3])
        atoms.center(axis=2, vacuum=6.0)
        atoms.pbc = True
        atoms.set_tags([*np.where(atoms.get_tags()[:27] == 1, 1, 0), 2, 2])
        atoms.set_constraint(FixAtoms(range(27)))
        ends.append(relaxed(EMTModel(), Structure.from_ase(atoms)))
    return ends[0], ends[1]


def traps() -> list[tuple[str, Callable[[], Model], Structure]]:
    """Structures that are no step, by why."""
    out: list[tuple[str, Callable[[], Model], Structure]] = []
    pair = nitrogen_pair()
    task = Task("2 N/Cu(111)", EMTModel, pair[0], None, pair)
    (top,) = rivals.ci_neb([task], FMAX, images=3)
    assert top.structure is not None
    out.append((f"second order, 2 N/Cu(111), CI-NEB converged: {top.converged}", EMTModel, top.structure))
    out.append(("minimum, heptamer", systems.MorseModel, pt_heptamer()))
    out.append(("minimum, LJ38", systems.LennardJonesModel, lj_cluster(38)))
    for name, ends in (("Au/Al(100)", gold_on_aluminium()), ("Cu/Cu(111)", copper_on_copper())):
        out += [(f"minimum, {name} {which}", EMTModel, end) for which, end in zip(("first", "last"), ends, strict=True)]
        away = ends[0].positions.copy()
        away[-1, 2] += 6.0
        out.append((f"desorbed, {name}", EMTModel, relaxed(EMTModel(), ends[0].moved(away))))
        between = ends[0].moved((ends[0].positions + ends[1].positions) / 2)
        out.append((f"not converged, {name}", EMTModel, between))
    return out


def g10(record: Record, known: Sequence[tuple[systems.System, systems.Known]]) -> None:
    """Traps, which must be rejected, and saddles that the benchmark's own judge has found to be true."""
    options = VerifyOptions(max_barrier=20.0)
    for name, model, structure in traps():
        if record.has("G10", "traps rejected", name):
            continue
        seconds, calls, verdict = _verify(model(), structure, options)
        rejected = verdict.rejection is not None
        record.add(
            "G10",
            "traps rejected",
            name,
            rejected,
            calls,
            seconds,
            state=str(verdict.state),
            why=verdict.rejection,
        )
    for case in stationary.traps():
        if not record.has("G10", "traps rejected", case.name):
            seconds, calls, verdict = _verify(case.model, case.structure, case.options)
            right = verdict.rejection == case.rejection
            record.add("G10", "traps rejected", case.name, right, calls, seconds, why=verdict.rejection)
    for name, model, structure in true_hops():
        if not record.has("G10", "true saddles kept", name):
            _keep(record, name, model(), structure, options)
    for case in stationary.true_saddles():
        if not record.has("G10", "true saddles kept", case.name):
            _keep(record, case.name, case.model, case.structure, case.options)
    for system, one in known:
        name = f"{system.name} {one.energy - system.model().predict([system.minimum()])[0].energy:.4f} eV {one.name}"
        if not record.has("G10", "true saddles kept", name):
            _keep(record, name, system.model(), one.structure, options)


def true_hops() -> Iterator[tuple[str, Callable[[], Model], Structure]]:
    tasks = hops()
    for task, outcome in zip(tasks, rivals.ci_neb(tasks, FMAX / 2, images=3), strict=True):
        assert outcome.structure is not None
        if judge(EMTModel(), outcome.structure, descend=False).order == 1:
            yield task.name, EMTModel, outcome.structure


def _keep(record: Record, name: str, model: Model, structure: Structure, options: VerifyOptions) -> None:
    seconds, calls, verdict = _verify(model, structure, options)
    kept = verdict.rejection is None
    record.add(
        "G10",
        "true saddles kept",
        name,
        kept,
        calls,
        seconds,
        state=str(verdict.state),
        why=verdict.rejection,
    )


def _verify(model: Model, structure: Structure, options: VerifyOptions) -> tuple[float, int, Any]:
    counted, out = Counted(model), []
    task = Task("verify", lambda: model, structure)

    def run(evaluate: Evaluator) -> None:
        prediction = evaluate(structure)
        converged = norms(np.asarray(prediction.forces), task.movable)[0] < options.fmax
        out.append(verify(Found(structure, prediction, converged), ours.surface(task, evaluate), options))

    began = time.perf_counter()
    Hub(counted).run([run])
    return time.perf_counter() - began, counted.calls, out[0]
