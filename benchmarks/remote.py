"""What it costs a model to answer from another process: ``RemoteModel`` beside the same bundle loaded here.

    python benchmarks/remote.py [--manifest FOLDER] [--structures FILE] [--repeats 30]

For 1 and 32 structures, forces alone and with embeddings: median milliseconds of ``predict`` here and there, called by
turns, and their ratio. The other process is one of this interpreter, so that the network is the same. On two
cores with other work, November 2026: 2.4 ms more a call of 1 structure (1.21 times as long), 3.7 ms of 32 (1.02 times).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from rlpath_core.backends import Model, load_local
from rlpath_core.backends.manifest import manifest_path
from rlpath_core.backends.remote import RemoteModel
from rlpath_core.structure import Structure, read_structures

STARTER = Path(__file__).resolve().parents[1] / "models" / "starter"
WARM_UP = 4


def seconds(model: Model, structures: list[Structure], embeddings: bool) -> float:
    start = time.perf_counter()
    model.predict(structures, embeddings=embeddings)
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--manifest", type=Path, default=STARTER)
    arguments.add_argument("--structures", type=Path, default=STARTER / "data" / "heldout.xyz")
    arguments.add_argument("--repeats", type=int, default=30)
    given = arguments.parse_args()
    path = manifest_path(given.manifest)
    structures = read_structures(given.structures)[:32]
    start = time.perf_counter()
    there = RemoteModel(path, python=Path(sys.executable))
    print(f"start of the process: {time.perf_counter() - start:.1f} s")
    here = load_local(path)
    print(f"{'structures':>10} {'embeddings':>10} {'here ms':>9} {'there ms':>9} {'ratio':>6}")
    for n in (1, 32):
        for embeddings in (False, True):
            found: dict[Model, list[float]] = {here: [], there: []}
            for k in range(given.repeats + WARM_UP):
                for model in (here, there) if k % 2 else (there, here):
                    spent = seconds(model, structures[:n], embeddings)
                    if k >= WARM_UP:
                        found[model].append(spent)
            a, b = (1000 * statistics.median(found[model]) for model in (here, there))
            print(f"{n:>10} {embeddings!s:>10} {a:>9.2f} {b:>9.2f} {b / a:>6.2f}")
    there.close()


if __name__ == "__main__":
    main()
