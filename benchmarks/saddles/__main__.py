"""Saddle searches beside their rivals: a row per goal, every force call counted at one counter.

    python -m benchmarks.saddles [--quick] [--goals G1 G3] [--out runs/benchmarks/saddles] [--threads 2]

``--quick`` runs fewer and shorter searches, in under 5 minutes on two cores. What is in the folder already is not run
again: a benchmark that was stopped goes on where it was. ``table.txt`` there is rewritten after every search.

Norms: "max atom" is the largest force on one atom, which rlpath, ASE and Sella converge; "global" is the norm over all
movable coordinates, eOn's default, which is 2 to 8 times larger here. Calls are those of the search alone, and of the
right ones alone: converged, of first order by a whole Hessian, with two different ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from benchmarks.saddles import goals
from benchmarks.saddles.record import ANCHORS, Record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saddles", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter searches: under 5 minutes")
    parser.add_argument("--goals", nargs="+", default=list(goals.GOALS), choices=list(goals.GOALS))
    parser.add_argument("--out", type=Path, default=None, help="runs/benchmarks/saddles or saddles-quick")
    parser.add_argument("--seeds", type=int, default=None, help="explorations of G4 to G6, in place of 1 or 10")
    parser.add_argument("--budget", type=int, default=None, help="force calls of one of them, in place of 5e3 or 3e5")
    parser.add_argument("--threads", type=int, default=2, help="of the MACE model in G11")
    args = parser.parse_args()
    folder = args.out or Path("runs/benchmarks") / ("saddles-quick" if args.quick else "saddles")
    size = goals.QUICK if args.quick else goals.WHOLE
    changed = {"seeds": args.seeds, "budget": args.budget, "threads": args.threads}
    size = replace(size, **{name: value for name, value in changed.items() if value is not None})
    record, began = Record(folder), time.perf_counter()
    for goal in args.goals:
        print(f"{goal}: {ANCHORS[goal][0]}", flush=True)
        goals.GOALS[goal](record, size)
        print(f"{goal} after {time.perf_counter() - began:.0f} s\n", flush=True)
    print(record.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
