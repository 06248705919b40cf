"""How much of ``Model.predict`` is the model itself.

    python benchmarks/predict.py --manifest models/starter/manifest.json [--structures FILE] [--device cpu]

For batches of 1, 8 and 32 structures: structures per second, and the share of the time that the bare network needs for
the same batch, already collated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from rlpath_core.backends import load_model
from rlpath_core.backends.mace.model import MaceModel
from rlpath_core.data.batches import build_graph, collate
from rlpath_core.structure import read_structures


def median_seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    found = []
    for n in range(repeats + 4):  # TorchScript settles in the first four
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
        if n == 3:
            found.clear()
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--structures", default="models/starter/data/heldout.xyz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    start = time.perf_counter()
    model = load_model(given.manifest, device=given.device, dtype=given.dtype)
    assert isinstance(model, MaceModel)
    print(f"loaded in {time.perf_counter() - start:.1f} s on {model.device}, {given.threads} thread(s)")
    all_structures = read_structures(given.structures)
    print(
        f"{'structures':>10} {'atoms':>6} {'edges':>7} {'predict ms':>11} {'network ms':>11} {'share':>6} {'per s':>8}"
    )
    for n in (1, 8, 32):
        structures = (all_structures * n)[:n]
        graphs = [build_graph(s, model.cutoff, model.numbers) for s in structures]
        batch = collate(graphs, len(model.numbers), model.dtype, model.device)

        def network(batch: dict = batch) -> None:
            batch["positions"] = batch["positions"].detach()
            model.net(batch, compute_force=True)

        whole = median_seconds(lambda structures=structures: model.predict(structures), given.repeats, model.device)
        bare = median_seconds(network, given.repeats, model.device)
        edges = sum(g.n_edges for g in graphs)
        print(
            f"{n:>10} {sum(map(len, structures)):>6} {edges:>7} {1e3 * whole:>11.1f} {1e3 * bare:>11.1f} "
            f"{bare / whole:>6.1%} {n / whole:>8.1f}"
        )


if __name__ == "__main__":
    main()
