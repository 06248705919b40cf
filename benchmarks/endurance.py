"""Cost per attempt and memory over many attempts: both have to stay flat.

    python benchmarks/endurance.py [--attempts 100000] [--walkers 32] [--quench none] [--quench_steps 20]

The model is a Lennard-Jones cluster of 13 atoms, all walkers in one numpy expression, so that what is measured is the
sampler: actions, validators, fingerprints, database, files. A line per tenth of the run; CPU time of this process.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase.cluster import Icosahedron

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.sampling import sample
from rlpath_core.spec.load import check
from rlpath_core.spec.sampling import SamplingConfig
from rlpath_core.store import Store
from rlpath_core.structure import Structure

WELL, LENGTH = 0.4, 2.55  # eV, Å: about copper


class LennardJones(Model):
    """V(r) = WELL ((LENGTH / r)^12 - 2 (LENGTH / r)^6) between all atoms of a cluster without a cell."""

    backend: ClassVar[str] = "lennard-jones"
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


def memory() -> float:
    """Resident memory now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attempts", type=int, default=100_000)
    parser.add_argument("--walkers", type=int, default=32)
    parser.add_argument("--quench", default="none")
    parser.add_argument("--quench_steps", type=int, default=20)
    args = parser.parse_args()
    config: dict[str, Any] = {
        "steps": args.attempts,
        "walkers": args.walkers,
        "quench": {"method": args.quench, "steps": args.quench_steps},
        "md": {"max_steps": 5},
        "pipeline": {"trigger": {"max_force": 4.9, "top_k_mean": 4.0}},
    }
    start = Structure.from_ase(Icosahedron("Cu", 2, latticeconstant=3.6))
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        print(f"{'attempts':>9} {'CPU ms each':>11} {'calls/s':>9} {'RSS MB':>8} {'disk MB':>8} {'basins':>7}")
        began, before, calls_before = time.process_time(), 0, 0.0

        def told(progress: dict[str, Any]) -> None:
            nonlocal began, before, calls_before
            done = progress["attempts"] - before
            if done < args.attempts / 10:
                return
            took = time.process_time() - began
            disk = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 1e6
            print(
                f"{progress['attempts']:>9} {1000 * took / done:>11.2f} {progress['force_calls_per_s']:>9.0f} "
                f"{memory():>8.1f} {disk:>8.1f} {progress['basins']:>7}",
                flush=True,
            )
            began, before = time.process_time(), progress["attempts"]

        summary = sample(
            check(SamplingConfig, config, "endurance"),
            LennardJones(),
            start,
            Path(folder) / "run",
            store,
            seed=1,
            progress=told,
        )
        print(f"rejected {summary.attempts_rejected}, candidates {summary.candidates}, {summary.elapsed:.0f} s")


if __name__ == "__main__":
    main()
