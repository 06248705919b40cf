"""Force calls per second of the sampler for 1, 8 and 32 walkers, against the model's own best.

    python benchmarks/sampling.py [--manifest models/starter/manifest.json] [--device cpu] [--threads 2]
        [--structure FILE] [--sizes 1 2 4] [--walkers 1 8 32] [--seconds 20] [--plain]

``--sizes`` repeats the slab along its first lattice vector (4: about 80 atoms on the starter system). One table per
size: calls/s with W walkers, share of wall time inside the model, and the raw model's calls/s at its best batch size
and at one structure, whose ratio is what batches can gain at most.
``--plain`` relaxes every structure that passes the gate and draws no move again, which is fewer and longer attempts:
the engine without the walk's own thinking. The relaxation of the start, which is one walker's, is left out. Other work
on the machine spoils every figure, but for ``--cpu-time``: then everything is counted in CPU seconds of one thread,
which other work hardly changes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends import load_model
from rlpath_core.backends.base import Model, Prediction
from rlpath_core.lockstep.hub import Hub
from rlpath_core.sampling.options import SamplingConfig, WalkOptions
from rlpath_core.sampling.run import Run
from rlpath_core.store import Store
from rlpath_core.structure import Structure, read_structures

ROOT = Path(__file__).resolve().parents[1]


class TimeIsUpError(Exception):
    pass


clock: Callable[[], float] = time.perf_counter


def raw_rates(model: Model, structure: Structure, seconds: float) -> dict[int, float]:
    """Calls/s by batch size, of 1 to 128."""
    rng = np.random.default_rng(0)
    rates = {}
    for size in (1, 2, 4, 8, 16, 32, 64, 128):
        batch = [structure.moved(structure.positions + rng.normal(0, 0.05, (len(structure), 3))) for _ in range(size)]
        model.predict(batch)
        began, calls = clock(), 0
        while clock() - began < seconds / 8:
            model.predict(batch)
            calls += size
        rates[size] = calls / (clock() - began)
    return rates


def sampler_rate(
    model: Model, structure: Structure, walkers: int, seconds: float, walk: WalkOptions | None = None
) -> tuple[float, float, float]:
    """Calls/s, share of the time inside the model, mean batch size of a run of about ``seconds``."""
    config = SamplingConfig(walkers=walkers, steps=10**9, max_seconds=1e9, walk=walk or WalkOptions())
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        run = Run(
            config,
            model,
            [structure],
            Path(folder) / "run",
            store,
            seed=0,
            run_id="benchmark",
        )
        hub = run.hub = Hub(model, clock)
        run.relax_starts()
        calls, batches, inside, began = hub.calls, hub.batches, hub.model_seconds, clock()
        predict = model.predict

        def until_then(structures: Sequence[Structure], **options: Any) -> list[Prediction]:
            # in the middle of the walk: what the last walkers do alone, in a run that ends, is no part of its speed
            if clock() - began > seconds:
                raise TimeIsUpError
            return predict(structures, **options)

        model.predict = until_then  # type: ignore[method-assign]
        try:
            run.go()
        except TimeIsUpError:
            took = clock() - began
        finally:
            model.predict = predict  # type: ignore[method-assign]
    return (
        (hub.calls - calls) / took,
        (hub.model_seconds - inside) / took,
        (hub.calls - calls) / (hub.batches - batches),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=ROOT / "models/starter/manifest.json")
    parser.add_argument("--structure", type=Path, default=ROOT / "models/starter/data/start.xyz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--walkers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1])
    parser.add_argument("--plain", action="store_true", help="no move drawn again, every structure relaxed")
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds in place of wall time; one thread")
    parser.add_argument("--seconds", type=float, default=20.0, help="about so long per line")
    args = parser.parse_args()

    import torch

    if args.cpu_time:
        global clock
        clock, args.threads = time.process_time, 1
    torch.set_num_threads(args.threads)
    model = load_model(args.manifest, device=args.device)
    start = read_structures(args.structure)[-1]
    for size in args.sizes:
        atoms = start.to_ase() * (size, 1, 1)
        structure = Structure.from_ase(atoms)
        raw = raw_rates(model, structure, args.seconds)
        best = max(raw, key=raw.__getitem__)
        print(
            f"{len(structure)} atoms, {args.device}: the model alone does {raw[best]:.1f} calls/s at batch {best}, "
            f"{raw[1]:.1f} at 1 (x {raw[best] / raw[1]:.2f})"
        )
        print(f"{'walkers':>8} {'calls/s':>9} {'x one':>7} {'in model':>9} {'mean batch':>11}")
        first = None
        for walkers in args.walkers:
            walk = WalkOptions(max_draws=1, relax_share=1) if args.plain else None
            calls, share, mean = sampler_rate(model, structure, walkers, args.seconds, walk)
            first = first or calls
            print(f"{walkers:>8} {calls:>9.1f} {calls / first:>7.2f} {share:>8.1%} {mean:>11.1f}", flush=True)


if __name__ == "__main__":
    main()
