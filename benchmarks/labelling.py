"""Labels per second through the DFT hook, beside the same calculations in one plain loop.

    python benchmarks/labelling.py [--count 16] [--workers 2]

The structures are those of benchmarks/dedup.py: 19 atoms of MgO(001) with H2O, GFN1-xTB. What the hook adds is worker
start-up, job folders, the database and the LMDB.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dedup import candidates

from rlpath_core.dft import label
from rlpath_core.dft.engines.tblite import TbliteEngine
from rlpath_core.dft.options import DftConfig
from rlpath_core.store import Store, orm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--workers", type=int, default=None)
    arguments = parser.parse_args()
    structures = candidates(arguments.count, copies=1)
    began = time.perf_counter()
    TbliteEngine().calculate(structures)
    alone = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        with store.session() as session:
            session.add(orm.RunRow(id="run", kind="sample", folder="run"))
            session.flush()
            row = {"run_id": "run", "attempt": 0, "stage": "sample", "trigger": "all", "score": 1.0}
            for key in store.put(structures, session):
                session.add(orm.QueueRow(structure_id=key, round=1, state="selected", **row))
        config = DftConfig(workers=arguments.workers)
        summary = label(store, config, round_index=1, lmdb=Path(folder) / "labels.lmdb")
    print(f"{'':24} {'s':>7} {'labels/s':>9}")
    print(f"{'plain loop, one core':24} {alone:7.2f} {arguments.count / alone:9.2f}")
    print(f"{'hook':24} {summary.seconds:7.2f} {arguments.count / summary.seconds:9.2f}")
    print(f"labelled {summary.labelled}, failed {summary.failed} {summary.reasons}")


if __name__ == "__main__":
    main()
