"""Where searches begin: random displacements, and the middle of bands between the ends of known saddles."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.mep import NEB
from ase.optimize import LBFGS

from benchmarks.saddles.common import Counted, Judgement, Task, apart, judge
from rlpath_core.backends.base import Model
from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.matching import matched
from rlpath_core.lockstep.ase import attach
from rlpath_core.structure import Structure
from rlpath_core.testing.potentials import LennardJonesModel, MorseModel, lj_cluster, pt_heptamer

NEAR = 3.3
"""Å: random starts displace the atoms this near to an atom of the island."""
DISPLACED = 0.1
"""Å: standard deviation of each coordinate of theirs."""


@dataclass(frozen=True)
class System:
    """A potential, its minimum and eOn's name of the same potential."""

    name: str
    model: Callable[[], Model]
    minimum: Callable[[], Structure]
    eon: str
    amplitude: float = DISPLACED


HEPTAMER = System("heptamer", MorseModel, pt_heptamer, "MORSE_PT")
LJ38 = System("LJ38", LennardJonesModel, functools.partial(lj_cluster, 38), "LJ", 0.04)


def displaced(system: System, n: int, first: int = 0) -> list[Task]:
    """Tasks ``first`` to ``first + n``: the minimum with its active atoms displaced at random, and that direction."""
    minimum = system.minimum()
    island = minimum.positions[minimum.tags == 2] if minimum.tags.any() else minimum.positions
    distance = np.linalg.norm(minimum.positions[:, None] - island, axis=2).min(axis=1)
    active = (distance < NEAR) & ~minimum.fixed
    tasks = []
    for seed in range(first, first + n):
        by = np.random.default_rng([3, seed]).normal(0, system.amplitude, minimum.positions.shape) * active[:, None]
        start = minimum.moved(minimum.positions + by)
        tasks.append(Task(f"{system.name} {seed:03d}", system.model, start, by / np.linalg.norm(by)))
    return tasks


@dataclass(frozen=True)
class Known:
    """A saddle of first order with its two ends, which differ; from which random start it came."""

    name: str
    structure: Structure
    energy: float
    mode: Floats
    ends: tuple[Structure, Structure]


def pool(system: System, found: Iterable[tuple[str, Structure]], enough: int, path: Path) -> list[Known]:
    """Different first-order saddles among ``found``, judged one by one until there are enough. Kept in ``path``."""
    template = system.minimum()
    if path.exists():
        data = np.load(path)
        if len(data["names"]) >= enough:
            return [
                Known(str(n), template.moved(s), float(e), m, (template.moved(a), template.moved(b)))
                for n, s, e, m, a, b in zip(*(data[k] for k in _KEYS), strict=True)
            ][:enough]
    known: list[Known] = []
    for name, structure in found:
        if len(known) >= enough:
            break
        verdict = judge(system.model(), structure)
        if verdict.largest > 0.01 or not verdict.differ or _known(verdict, structure, known):
            continue
        assert verdict.ends is not None
        known.append(Known(name, structure, verdict.energy, verdict.mode, verdict.ends))
    path.parent.mkdir(parents=True, exist_ok=True)
    if known:
        columns = (
            [one.name for one in known],
            [one.structure.positions for one in known],
            [one.energy for one in known],
            [one.mode for one in known],
            [one.ends[0].positions for one in known],
            [one.ends[1].positions for one in known],
        )
        np.savez(path, **dict(zip(_KEYS, map(np.array, columns), strict=True)))
    return known


_KEYS = ("names", "saddles", "energies", "modes", "firsts", "lasts")


def _known(verdict: Judgement, structure: Structure, known: Sequence[Known]) -> bool:
    return any(
        abs(one.energy - verdict.energy) < 1e-3 and apart(one.structure, structure, exchange=True) < 0.1
        for one in known
    )


def double_ended(system: System, known: Sequence[Known]) -> list[Task]:
    """From one end of each known saddle to the other; atoms keep their numbers."""
    tasks = []
    for k, one in enumerate(known):
        first, last = one.ends[0], matched(*one.ends, exchange=False)
        tasks.append(Task(f"{system.name} path {k:03d}", system.model, first, None, (first, last)))
    return tasks


def near_saddles(tasks: Sequence[Task], images: int = 5, fmax: float = 0.5) -> list[Task]:
    """The highest image of each band and its tangent: IDPP, then relaxed loosely, without climbing."""
    out = []
    for task in tasks:
        evaluate = Counted(task.model()).evaluator()
        first, last = task.path[0], task.path[-1]
        band_images = [attach(one, task.movable, evaluate) for one in [first] * (images + 1) + [last]]
        band = NEB(band_images, method="improvedtangent", allow_shared_calculator=False)
        band.interpolate(method="idpp", mic=bool(first.pbc.any()))
        LBFGS(band, logfile=None).run(fmax=fmax, steps=30)
        k = int(np.argmax([image.get_potential_energy() for image in band_images[1:-1]])) + 1
        tangent = band_images[k + 1].positions - band_images[k - 1].positions
        start = first.moved(band_images[k].positions)
        name = task.name.replace("path", "near")
        out.append(Task(name, task.model, start, tangent / np.linalg.norm(tangent), task.path))
    return out
