"""G11: 64 searches side by side on one batched model, and the same one after the other with ASE and Sella."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.saddles import ours, rivals
from benchmarks.saddles.common import Outcome, Task
from benchmarks.saddles.record import Record
from rlpath_core.backends import load_model
from rlpath_core.backends.base import Model
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.paths.searches import SEARCHES
from rlpath_core.structure import Structure, read_structures
from rlpath_core.testing.minima import relaxed

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "models/starter/manifest.json"
FMAX = 0.01
"""eV/Å"""
MOST = 200
"""Calls of one search."""


@functools.cache
def model() -> Model:
    return load_model(MANIFEST, device="cpu")


@functools.cache
def minimum() -> Structure:
    start = read_structures(ROOT / "models/starter/data/start.xyz")[-1]
    (rest,) = relaxed(model(), [start], QuenchOptions(method="bfgs", fmax=FMAX, steps=300))
    movable = infer_roles(rest.structure).movable
    return Structure(**{**rest.structure.arrays(), "fixed": ~movable})


def tasks(n: int) -> list[Task]:
    """The minimum with its adsorbate displaced at random, and that direction."""
    rest = minimum()
    moves = infer_roles(rest).active
    out = []
    for seed in range(n):
        by = np.random.default_rng([11, seed]).normal(0, 0.2, rest.positions.shape) * moves[:, None]
        out.append(Task(f"starter {seed:03d}", model, rest.moved(rest.positions + by), by / np.linalg.norm(by)))
    return out


def run(record: Record, n: int, threads: int) -> None:
    """Wall time per search; the last rows compare them: how much faster, and how far energies differ."""
    import torch

    torch.set_num_threads(threads)
    todo = tasks(n)
    model().predict([task.structure for task in todo[:8]])  # what is compiled once
    serial = f"ASE + Sella, {n} in a row"
    engines: dict[str, Callable[[Sequence[Task]], Iterator[Outcome]]] = {}
    for name in ("sella", "minmode"):
        if name in SEARCHES:
            search = functools.partial(ours.search, name=name, fmax=FMAX, max_calls=MOST, model=model())
            engines[f"rlpath {name}, {n} side by side"] = functools.partial(search, walkers=n)
            engines[f"rlpath {name}, {n} in a row"] = functools.partial(search, walkers=1)
    engines[serial] = functools.partial(rivals.sella, fmax=FMAX, max_calls=MOST)
    for label, engine in engines.items():
        if len(record.missing("G11", label, todo)) not in (0, n):
            record.drop("G11", label)  # half a run is no timing
        record.run("G11", label, todo, engine, _judged)
    rows = {label: {row["name"]: row for row in record.rows if row["engine"] == label} for label in engines}
    mean = {label: float(np.mean([row["seconds"] for row in some.values()])) for label, some in rows.items()}
    for name in ("sella", "minmode"):
        together, alone = (f"rlpath {name}, {n} {how}" for how in ("side by side", "in a row"))
        if together not in rows or record.has("G11", f"{name}: times faster than ASE + Sella", "all"):
            continue
        both = [task.name for task in todo if rows[together][task.name]["ok"] and rows[alone][task.name]["ok"]]
        off = max((abs(rows[together][one]["energy"] - rows[alone][one]["energy"]) for one in both), default=np.inf)
        ratio, own = mean[serial] / mean[together], mean[alone] / mean[together]
        said = f"{ratio:.1f}; than the same search in a row {own:.1f}; energies of {len(both)} differ by {off:.1e} eV"
        record.say("G11", f"{name}: times faster than ASE + Sella", "all", ratio >= 3 and off < 1e-6, said)


def _judged(task: Task, outcome: Outcome) -> dict[str, Any]:
    if outcome.structure is None:
        return {"ok": False, "energy": None}
    return {"ok": outcome.converged, "energy": model().predict([outcome.structure])[0].energy}
