"""How often a basin index is wrong: false splits and false merges on the starter system.

    python benchmarks/basins.py [--minima 96] [--same 51] [--manifest models/starter/manifest.json] [--tight 0.01]

1. ``--same`` displaced copies of one minimum are relaxed loosely, as the sampler does. How many basins are they?
2. ``--minima`` structures with the adsorbate set down at random are relaxed as the sampler relaxes what seems new, and
   each is relaxed on to ``--tight``, where a judge that shares nothing with the index (``testing.minima``) says which
   are the same. Then every pair is asked of the index: same by the judge and two basins is a false split, different and
   one basin a false merge.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np

from rlpath_core.backends import load_model
from rlpath_core.geometry.rotations import rotation_matrix
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.sampling.basins import BASINS
from rlpath_core.sampling.options import BasinOptions, DetachedOptions
from rlpath_core.sampling.validators import VALIDATORS, Displacement
from rlpath_core.structure import Structure, read_structures
from rlpath_core.testing.minima import classes, relaxed

ROOT = Path(__file__).resolve().parents[1]


def set_down(start: Structure, rng: np.random.Generator) -> Structure:
    """The adsorbate turned at random, its lowest atom 1.2 to 2.5 Å above the surface, anywhere in the cell."""
    roles = infer_roles(start)
    axis = rng.normal(size=3)
    positions = start.positions.copy()
    piece = positions[roles.adsorbate]
    piece = (piece - piece.mean(axis=0)) @ rotation_matrix(axis, float(rng.uniform(0, 360))).T
    assert roles.normal is not None
    along = rng.random(3) @ start.cell
    along -= (along @ roles.normal) * roles.normal
    top = (positions[~roles.adsorbate] @ roles.normal).max()
    height = top + rng.uniform(1.2, 2.5) - (piece @ roles.normal).min()
    positions[roles.adsorbate] = piece + along + height * roles.normal
    return start.moved(positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=ROOT / "models/starter/manifest.json")
    parser.add_argument("--structure", type=Path, default=ROOT / "models/starter/data/start.xyz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minima", type=int, default=96)
    parser.add_argument("--same", type=int, default=51)
    parser.add_argument("--tight", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    model = load_model(args.manifest, device=args.device)
    start = read_structures(args.structure)[-1]
    roles = infer_roles(start)
    options = BasinOptions()
    loose = QuenchOptions()
    finer = QuenchOptions(fmax=options.refine_fmax or loose.fmax)
    rng = np.random.default_rng(0)

    (rest,) = relaxed(model, [start], finer)
    copies = [
        rest.structure.moved(
            rest.structure.positions + roles.movable[:, None] * rng.normal(0, 0.08, rest.structure.positions.shape)
        )
        for _ in range(args.same)
    ]
    index, n_basins = BASINS[options.name](options, start, roles), 0
    for one in (q for q in relaxed(model, copies, loose) if q.converged):
        if index.find(one.structure, one.energy) is None:
            index.add(n_basins, one.structure, one.energy)
            n_basins += 1
    print(f"{args.same} quenches (fmax {loose.fmax}) from one minimum, displaced by 0.08 Å: {n_basins} basin(s)")

    detached = VALIDATORS["detached"](DetachedOptions())
    found = relaxed(model, [set_down(start, rng) for _ in range(args.minima)], finer)
    found = [
        one
        for one in found
        if one.converged and detached.check(Displacement(start, one.structure, roles, "start")) is None
    ]
    tight = relaxed(model, [one.structure for one in found], QuenchOptions(method="bfgs", fmax=args.tight, steps=400))
    kept = [(a, b) for a, b in zip(found, tight, strict=True) if b.converged]
    truth = classes([b for _, b in kept])
    print(f"{len(kept)} minima, {len(set(truth))} different ones by the judge (fmax {args.tight})")
    for which, fmax in ((0, finer.fmax), (1, args.tight)):
        counts = {"same": 0, "split": 0, "different": 0, "merged": 0}
        for (i, a), (j, b) in combinations(enumerate([pair[which] for pair in kept]), 2):
            index = BASINS[options.name](options, start, roles)
            index.add(0, a.structure, a.energy)
            one_basin = index.find(b.structure, b.energy) is not None
            same = truth[i] == truth[j]
            counts["same" if same else "different"] += 1
            counts["split"] += same and not one_basin
            counts["merged"] += one_basin and not same
        for wrong, of in (("split", "same"), ("merged", "different")):
            rate = counts[wrong] / max(counts[of], 1)
            print(f"relaxed to {fmax}: false {wrong}: {counts[wrong]} of {counts[of]} pairs that are {of} ({rate:.2%})")


if __name__ == "__main__":
    main()
