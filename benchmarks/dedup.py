"""How the outbox's duplicate check scales, and that its decisions are those of brute force.

    python benchmarks/dedup.py [--sizes 1000 10000 100000] [--check 2000] [--symmetry]

Candidates are H2O on MgO(001), 19 atoms: adsorbates placed at random over the surface, movable atoms rattled, each
shape met several times with small differences, as sampling meets them. One core; seconds are the processor's, which
do not count what else the machine does. Brute force compares every candidate with everything kept before it. With
``--symmetry``, copies by the slab's symmetry are duplicates too; brute force then compares all 64 images.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from rlpath_core.outbox import Memory
from rlpath_core.outbox.canonicalize import Canonical, canonicalize
from rlpath_core.outbox.group import Group
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.structure import Structure

LATTICE = 4.21


def slab() -> Structure:
    d = LATTICE / np.sqrt(2)
    sites = [(i + k / 2, j + k / 2, layer, k) for layer in range(2) for i in range(2) for j in range(2) for k in (0, 1)]
    numbers = [12 if (k + layer) % 2 == 0 else 8 for _, _, layer, k in sites] + [8, 1, 1]
    positions = [(x * d, y * d, 5 + layer * LATTICE / 2) for x, y, layer, _ in sites]
    top = max(z for _, _, z in positions) + 2.2
    positions += [(0, 0, top), (0.76, 0, top + 0.59), (-0.76, 0, top + 0.59)]
    fixed = [layer == 0 for _, _, layer, _ in sites] + [False] * 3
    return Structure(numbers, positions, np.diag([2 * d, 2 * d, 20.0]), [True] * 3, fixed=fixed)


def candidates(count: int, copies: int = 4, seed: int = 0) -> list[Structure]:
    rng, base = np.random.default_rng(seed), slab()
    free, out = np.flatnonzero(~base.fixed), []
    for _ in range(-(-count // copies)):
        positions = base.positions.copy()
        positions[free] += rng.normal(0, 0.15, (len(free), 3))
        positions[-3:] += [*rng.uniform(0, base.cell[0, 0], 2), rng.normal(0, 0.4)]
        for _ in range(copies):
            near = positions.copy()
            near[free] += rng.normal(0, 0.08, (len(free), 3))
            out.append(base.moved(near))
    return [out[k] for k in rng.permutation(len(out))[:count]]


def brute_force(forms: list[Canonical], threshold: float, symmetric: bool) -> list[bool]:
    """Whether each is new: exact RMSDs (Hungarian assignments), no bound, no tree. All are of one composition."""
    group = Group(forms[0])
    kept: list[np.ndarray] = []
    out = []
    for aligned in group.all_aligned(forms)[0]:
        images = operations(aligned) if symmetric else [aligned]
        out.append(all(group.exact(other, image) > threshold for other in kept for image in images))
        if out[-1]:
            kept.append(aligned)
    return out


def operations(positions: np.ndarray) -> list[np.ndarray]:
    """The images under the fixed layer's symmetry: its eight turns and mirrors, each turned over, and four shifts."""
    step = LATTICE / np.sqrt(2)
    x, y, z = positions.T
    turned = [(a, b, c) for a, b in [(x, y), (y, x)] for c in (z, -z)]
    signed = [(i * a, j * b, c) for a, b, c in turned for i in (1, -1) for j in (1, -1)]
    return [np.stack((a + i * step, b + j * step, c), axis=1) for a, b, c in signed for i in (0, 1) for j in (0, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--check", type=int, default=2000)
    parser.add_argument("--rmsd", type=float, default=0.18)
    parser.add_argument("--symmetry", action="store_true")
    arguments = parser.parse_args()
    symmetric = arguments.symmetry
    tolerance = OutboxConfig().symmetry_tolerance if symmetric else None
    print(f"{'candidates':>10} {'kept':>7} {'canonical s':>12} {'dedup s':>8} {'us/candidate':>13}")
    for size in arguments.sizes:
        structures = candidates(size)
        began = time.process_time()
        forms = [canonicalize(structure, symmetry=symmetric) for structure in structures]
        framed = time.process_time()
        kept = sum(match is None for match in Memory(arguments.rmsd, tolerance).admit(forms))
        ended = time.process_time()
        each = (ended - began) / size * 1e6
        print(f"{size:10d} {kept:7d} {framed - began:12.2f} {ended - framed:8.2f} {each:13.0f}", flush=True)
    forms = [canonicalize(structure, symmetry=symmetric) for structure in candidates(arguments.check, seed=1)]
    got = [match is None for match in Memory(arguments.rmsd, tolerance).admit(forms)]
    expected = brute_force(forms, arguments.rmsd, symmetric)
    print(f"{arguments.check} candidates: {sum(got)} kept; decisions equal brute force: {expected == got}")
    if expected != got:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
