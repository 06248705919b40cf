"""One function per goal: its tasks, its engines, and how an outcome is judged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.saddles import drawn, explore, hops, modes, ours, rivals, systems, throughput
from benchmarks.saddles.common import Outcome, Task, judge
from benchmarks.saddles.record import Record
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.paths.options import VerifyOptions
from rlpath_core.paths.searches import SEARCHES
from rlpath_core.structure import Structure
from rlpath_core.testing.potentials import MorseModel, pt_heptamer

FMAX = 1e-3
"""eV/Å, of the heptamer and LJ38, as OptBench has it."""
Engine = Callable[[Sequence[Task]], Iterator[Outcome]]


@dataclass(frozen=True)
class Size:
    """How much is run.

    ``fast``: random starts of the fast engines; ``slow``: searches of the slow ones; ``heavy``: of Sella on all atoms,
    a minute each, from near a saddle and from random starts; ``pool``: known saddles; ``budget``: calls of one
    exploration; ``seeds``: explorations; ``side_by_side``: searches on one MACE model; ``threads``: of that model.
    """

    fast: int
    slow: int
    heavy: tuple[int, int]
    pool: int
    budget: int
    seeds: int
    side_by_side: int
    threads: int = 2


QUICK = Size(fast=10, slow=2, heavy=(1, 0), pool=10, budget=5_000, seeds=1, side_by_side=16)
WHOLE = Size(fast=32, slow=10, heavy=(12, 10), pool=24, budget=300_000, seeds=10, side_by_side=64)


def single_ended(system: systems.System, size: Size, heavy: int) -> dict[str, tuple[Engine, int]]:
    """Engines by name, which has the norm of their convergence, and how many searches they do."""
    fmax = FMAX
    engines: dict[str, tuple[Engine, int]] = {}
    for name, n in (("minmode", size.fast), ("sella", size.slow), ("dimer", size.slow)):
        if name in SEARCHES:
            engines[f"rlpath {name}, max atom"] = functools.partial(ours.search, name=name, fmax=fmax), n
    for method, norm in (("lanczos", "max_atom"), ("lanczos", "norm"), ("improved", "max_atom")):
        label = f"eOn {method}, {'global' if norm == 'norm' else 'max atom'}"
        eon = functools.partial(rivals.eon, method=method, potential=system.eon, fmax=fmax, norm=norm)
        engines[label] = eon, size.fast
    engines["ASE dimer, max atom"] = functools.partial(rivals.dimer, fmax=fmax), size.slow
    if heavy:
        engines["Sella, max atom"] = functools.partial(rivals.sella, fmax=fmax), heavy
    return engines


def judged(task: Task, outcome: Outcome) -> dict[str, Any]:
    """Right is: converged, of first order by a whole Hessian, and with two different ends."""
    if outcome.structure is None or not outcome.converged:
        return {"ok": False}
    verdict = judge(task.model(), outcome.structure)
    ok = verdict.order == 1 and verdict.differ and verdict.largest < 2 * FMAX
    why = None if ok else ("ends are one" if verdict.order == 1 else f"order {verdict.order}")
    return {
        "ok": ok,
        "why": why,
        "energy": verdict.energy,
        "largest": verdict.largest,
        "norm": verdict.norm,
        "order": verdict.order,
        "curvatures": verdict.curvatures,
    }


def compare(record: Record, goal: str, tasks: Sequence[Task], engines: dict[str, tuple[Engine, int]]) -> None:
    for name, (engine, n) in engines.items():
        try:
            record.run(goal, name, tasks[:n], engine, judged)
        except rivals.MissingRivalError as error:
            record.note(goal, name, str(error))


def known_saddles(record: Record, system: systems.System, n: int) -> list[systems.Known]:
    """Verified saddles that differ, from random starts of several widths."""
    return systems.pool(system, _found(system), n, record.folder / f"pool-{system.name}.npz")


def _found(system: systems.System) -> Iterator[tuple[str, Structure]]:
    for k in range(20):
        wide = replace(system, amplitude=(3, 2, 4)[k % 3] * system.amplitude)
        tasks = systems.displaced(wide, 16, 10_000 + 16 * k)
        if "minmode" in SEARCHES:
            outcomes = ours.search(tasks, "minmode", FMAX)
        else:
            outcomes = rivals.eon(tasks, "improved", system.eon, FMAX, "max_atom")
        for one in outcomes:
            if one.converged and one.structure is not None:
                yield one.name, one.structure


def paths_of(record: Record, system: systems.System, size: Size) -> list[Task]:
    return systems.double_ended(system, known_saddles(record, system, size.pool))


def g1(record: Record, size: Size) -> None:
    tasks = systems.near_saddles(paths_of(record, systems.HEPTAMER, size))
    compare(record, "G1", tasks, single_ended(systems.HEPTAMER, size, size.heavy[0]))


def g2(record: Record, size: Size) -> None:
    tasks = systems.near_saddles(paths_of(record, systems.LJ38, size))
    compare(record, "G2", tasks, single_ended(systems.LJ38, size, size.fast))


def g3(record: Record, size: Size) -> None:
    engines = single_ended(systems.HEPTAMER, size, size.heavy[1])
    if "minmode" in SEARCHES:
        verified = VerifyOptions(
            fmax=2 * FMAX, hessian="never", quench=QuenchOptions(method="lbfgs", fmax=0.01, steps=500)
        )
        engine = functools.partial(ours.search, name="minmode", fmax=FMAX, verified=verified)
        engines["rlpath minmode, max atom"] = engine, size.fast
    compare(record, "G3", systems.displaced(systems.HEPTAMER, size.fast), engines)


def g456(record: Record, size: Size) -> None:
    engines: dict[str, explore.Chunk] = {"eOn improved, random starts": explore.of_eon}
    if "minmode" in SEARCHES:
        engines["rlpath minmode, random starts"] = explore.of_ours
    for seed in range(size.seeds):
        if "minmode" in SEARCHES:
            plain = {"soft_modes": {"modes": 5, "amplitudes": [0.4]}, "displacements": {}}
            model, start = MorseModel(), pt_heptamer()
            engines["rlpath minmode, drawn"] = drawn.Drawn(model, start, seed, proposals=plain)
            symmetric = drawn.Drawn(model, start, seed, proposals={**plain, "images": {}}, copies=True)
            engines["rlpath minmode, drawn, symmetry"] = symmetric
        for name, chunk in engines.items():
            try:
                explore.explore(record, name, seed, chunk, size.budget)
            except rivals.MissingRivalError as error:
                record.note("G4", name, str(error))


def g7(record: Record, size: Size) -> None:
    engines: dict[str, tuple[Engine, int]] = {}
    for then in ("sella", "minmode"):
        if "band" in SEARCHES and then in SEARCHES:
            band = functools.partial(ours.search, name="band", fmax=FMAX, hand_over=then)
            engines[f"rlpath band, then {then}, max atom"] = band, size.pool
    for method in ("neb_ci_mmf", "ci_neb"):
        eon = functools.partial(rivals.eon, method=method, potential="MORSE_PT", fmax=FMAX, norm="max_atom")
        engines[f"eOn {method}, max atom"] = eon, size.pool
    engines["ASE CI-NEB (5 images), max atom"] = functools.partial(rivals.ci_neb, fmax=FMAX), size.slow
    compare(record, "G7", paths_of(record, systems.HEPTAMER, size), engines)


def g8(record: Record, size: Size) -> None:
    """On LJ38, and on the MACE model: of pair potentials a Hessian of pair springs is all that can be learnt."""
    tasks = systems.near_saddles(paths_of(record, systems.LJ38, size))
    finders = {"rlpath lowest_mode": modes.own, "Sella (Jacobi-Davidson)": modes.sella}
    modes.run(record, tasks, finders)
    others = throughput.tasks(size.pool)
    modes.run(record, others, {f"{name}, starter MACE": finder for name, finder in finders.items()})


def g9(record: Record, size: Size) -> None:
    hops.g9(record)


def g10(record: Record, size: Size) -> None:
    both = (systems.HEPTAMER, systems.LJ38)
    hops.g10(record, [(system, one) for system in both for one in known_saddles(record, system, size.pool)])


def g11(record: Record, size: Size) -> None:
    throughput.run(record, size.side_by_side, size.threads)


GOALS: dict[str, Callable[[Record, Size], None]] = {
    "G1": g1,
    "G2": g2,
    "G3": g3,
    "G4": g456,
    "G7": g7,
    "G8": g8,
    "G9": g9,
    "G10": g10,
    "G11": g11,
}
"""G5 and G6 are measured with G4."""
