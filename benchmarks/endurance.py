"""Cost per attempt, memory and disk over many attempts: the first two have to stay flat.

    python benchmarks/endurance.py [--attempts 100000] [--walkers 32] [--quench none|bfgs|...] [--quench_steps 20]
    python benchmarks/endurance.py --quench bfgs --rough [--attempts 20000]
    python benchmarks/endurance.py --manifest models/starter/manifest.json --start models/starter/data/start.xyz

The model is a Lennard-Jones cluster of 13 atoms, all walkers in one numpy expression, so that what is measured is the
sampler: actions, validators, quenches, fingerprints, database, files. Near its ground state few basins are in reach,
and soon no new ones appear; with ``--rough`` the walk goes on at any energy, new ones appear all the time, and a last
line says what each costs. With ``--manifest`` the model is a real one.

A line per tenth of the run: CPU of this process in ms per attempt, and the part of it that checkpoints take; resident
memory, and what malloc has handed out of it, which fragmentation does not blur.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.cluster import Icosahedron

from rlpath_core.backends import load_model
from rlpath_core.backends.base import Model, Prediction
from rlpath_core.config import check
from rlpath_core.sampling import sample
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.sampling.run import Run
from rlpath_core.store import Store
from rlpath_core.structure import Structure, read_structure

WELL, LENGTH = 0.4, 2.55  # eV, Å: about copper
ROUGH = {"walk": {"energy_range": 20.0}, "validators": {"min_dist": {}, "quality": {"max_force": 50.0}}}
"""Any basin is gone on from, and nearly everything is quenched."""


class LennardJones(Model):
    """V(r) = WELL ((LENGTH / r)^12 - 2 (LENGTH / r)^6) between all atoms of a cluster without a cell."""

    backend = "lennard-jones"
    digest = "0" * 64
    elements = frozenset({29})
    device = "cpu"

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        positions = np.array([s.positions for s in structures])
        vectors = positions[:, :, None] - positions[:, None]
        squares = (vectors**2).sum(axis=3) + np.eye(positions.shape[1]) * 1e12
        sixth = (LENGTH**2 / squares) ** 3
        energies = WELL / 2 * (sixth**2 - 2 * sixth).sum(axis=(1, 2))
        found = ((12 * WELL * (sixth**2 - sixth) / squares)[..., None] * vectors).sum(axis=2)
        return [Prediction(float(e), f) for e, f in zip(energies, found, strict=True)]


class Heap(ctypes.Structure):
    """glibc's mallinfo2: bytes."""

    _fields_ = [(f, ctypes.c_size_t) for f in ("arena", "a", "b", "c", "mapped", "d", "e", "used", "free", "f")]


def resident() -> float:
    """Resident memory now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def in_use() -> float:
    """What malloc has handed out, MB; not a number where the C library cannot say."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return float("nan")
    ask.restype = Heap
    heap = ask()
    return float(heap.used + heap.mapped) / 1e6


def sizes(folder: Path) -> dict[str, float]:
    """MB of the database, its log and the JSONL files, and how many structures there are."""
    files = {p: p.stat().st_size / 1e6 for p in folder.rglob("*") if p.is_file()}
    return {
        "db": sum(size for p, size in files.items() if p.name == "rlpath.db"),
        "wal": sum(size for p, size in files.items() if p.name == "rlpath.db-wal"),
        "jsonl": sum(size for p, size in files.items() if p.suffix == ".jsonl"),
        "structures": sum(p.suffix == ".npz" and p.parent.name == "structures" for p in files),
    }


class Clock:
    """CPU seconds of all calls of what it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args)
            finally:
                self.seconds += time.process_time() - began

        return call


class Table:
    """A line per ``every`` attempts, told by the run's progress."""

    def __init__(self, folder: Path, every: float, checkpoints: Clock) -> None:
        self.folder, self.every, self.checkpoints = folder, every, checkpoints
        self.began, self.before, self.saving = time.process_time(), 0, 0.0
        self.marks: list[tuple[int, int, float]] = []
        heads = ("attempts", "ms each", "saving", "calls/s", "RSS MB", "in use", "db MB", "wal", "jsonl", "npz")
        print(" ".join(f"{head:>8}" for head in heads), f"{'basins':>7} {'candidates':>10}", flush=True)

    def tell(self, progress: dict[str, Any]) -> None:
        done = progress["attempts"] - self.before
        if done < self.every:
            return
        now, disk = time.process_time(), sizes(self.folder)
        saving = self.checkpoints.seconds - self.saving
        self.marks.append((progress["attempts"], progress["basins"], in_use()))
        print(
            f"{progress['attempts']:>8} {1000 * (now - self.began) / done:>8.2f} {1000 * saving / done:>8.3f} "
            f"{progress['force_calls_per_s']:>8.0f} {resident():>8.1f} {in_use():>8.1f} {disk['db']:>8.1f} "
            f"{disk['wal']:>8.1f} {disk['jsonl']:>8.1f} {disk['structures']:>8.0f} {progress['basins']:>7} "
            f"{progress['candidates']:>10}",
            flush=True,
        )
        self.began, self.before, self.saving = now, progress["attempts"], self.checkpoints.seconds

    def growth(self) -> str:
        """Of the second half: memory in use per new basin, where there are many."""
        if len(self.marks) < 4:
            return ""
        (_, first, low), (_, last, high) = self.marks[len(self.marks) // 2], self.marks[-1]
        per = f", {1e6 * (high - low) / (last - first) / 1e3:.1f} kB in use per new basin" if last - first > 50 else ""
        return f"second half: {last - first} new basins, {high - low:+.1f} MB in use{per}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--walkers", type=int, default=32)
    parser.add_argument("--quench", default="none")
    parser.add_argument("--quench_steps", type=int, default=20)
    parser.add_argument("--rough", action="store_true", help="walk on at any energy: new basins all the time")
    parser.add_argument("--manifest", type=Path, help="a real model; needs --start")
    parser.add_argument("--start", type=Path)
    args = parser.parse_args()
    config: dict[str, Any] = {
        "steps": args.attempts,
        "walkers": args.walkers,
        "quench": {"method": args.quench, "steps": args.quench_steps},
        "md": {"max_steps": 5},
        "pipeline": {"trigger": {"max_force": 4.9, "top_k_mean": 4.0}},
    }
    if args.rough:
        config["walk"] = ROUGH["walk"]
        config["pipeline"]["validators"] = ROUGH["validators"]
    model = LennardJones() if args.manifest is None else load_model(args.manifest)
    if args.start is not None:
        start = read_structure(args.start)
    else:
        start = Structure.from_ase(Icosahedron("Cu", 2, latticeconstant=3.6))
    checkpoints = Clock()
    Run.make_checkpoint = checkpoints.timed(Run.make_checkpoint)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        table = Table(Path(folder), args.attempts / 10, checkpoints)
        checked = check(SamplingConfig, config, "endurance")
        summary = sample(checked, model, start, Path(folder) / "run", store, seed=1, progress=table.tell)
        print(
            f"rejected {summary.attempts_rejected}, basins {summary.basins}, candidates {summary.candidates}, "
            f"{summary.force_calls} force calls, {summary.elapsed:.0f} s"
        )
        print(table.growth())


if __name__ == "__main__":
    main()
