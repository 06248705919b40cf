"""Structures per second of ``Model.predict`` beside the backend's own calculator, and how much of it is the network.

    python benchmarks/predict.py [--manifest FOLDER]... [--structures FILE] [--device cpu] [--threads 1]

For every backend, one after the other and each in its own interpreter, for 1, 8 and 32 structures: ``predict``; the
bare network on the same batch already made; MACECalculator or OCPCalculator, one structure after the other; and for
FairChem the calculator on a batch of PyTorch Geometric as well. Counted is the fastest of --repeats calls; all take
turns. Without --manifest: the starters under models/; a FairChem backend without one gets the network of
configs/fairchem with random weights.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlpath_core.backends.environments import child_environment, interpreter_of
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.structure import Structure, read_structures

REPOSITORY = Path(__file__).resolve().parents[1]
BATCHES = (1, 8, 32)
WARM_UP = 4
"""Rounds that are not counted: TorchScript settles in them."""


def defaults() -> dict[str, Path]:
    """Backend -> its starter, or the configuration of its network."""
    found = {"mace": REPOSITORY / "models" / "starter"}
    for backend in ("equiformer_v2", "gemnet_oc"):
        starter = REPOSITORY / "models" / f"starter-{backend}"
        config = REPOSITORY / "configs" / "fairchem" / f"{backend}.yml"
        found[backend] = starter if (starter / "manifest.json").is_file() else config
    return found


def fastest(calls: Mapping[str, Callable[[], object]], repeats: int, device: str, threads: int) -> dict[str, float]:
    """Seconds of the fastest call of each, all called in every repeat: what else the machine does only adds.

    Of the processor's time where one thread computes on it.
    """
    clock = time.process_time if (device, threads) == ("cpu", 1) else time.perf_counter
    names, seconds = list(calls), dict.fromkeys(calls, float("inf"))
    for n in range(repeats + WARM_UP):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            start = clock()
            calls[name]()
            if device.startswith("cuda"):
                import torch

                torch.cuda.synchronize()
            if n >= WARM_UP:
                seconds[name] = min(seconds[name], clock() - start)
    return seconds


def mace(path: Path, structures: list[Structure], scratch: Path, device: str) -> dict[str, Callable[[], object]]:
    from mace.calculators import MACECalculator

    from rlpath_core.backends.mace.bundle import read_bundle
    from rlpath_core.backends.mace.export import write_model_file
    from rlpath_core.backends.mace.model import MaceModel
    from rlpath_core.data.batches import build_graph, collate

    manifest = read_manifest(path)
    model = MaceModel.load(path, manifest, device=device)
    dtype = manifest.weights.dtype
    write_model_file(scratch / "mace.model", *read_bundle(path, manifest), dtype)
    calculator = MACECalculator(
        model_paths=str(scratch / "mace.model"), device=device, default_dtype=dtype, head=manifest.head
    )
    graphs = [build_graph(s, model.cutoff, model.numbers) for s in structures]
    batch = collate(graphs, len(model.numbers), model.dtype, model.device)

    def network() -> None:
        batch["positions"] = batch["positions"].detach()
        model.net(batch, compute_force=True)

    return {
        "predict": lambda: model.predict(structures),
        "network": network,
        "calculator": one_by_one(calculator, structures),
    }


def one_by_one(calculator: Any, structures: list[Structure]) -> Callable[[], None]:
    every = [s.to_ase() for s in structures]

    def run() -> None:
        for atoms in every:
            calculator.calculate(atoms, ["energy", "forces"], ["positions"])

    return run


def fairchem(path: Path, structures: list[Structure], scratch: Path, device: str) -> dict[str, Callable[[], object]]:
    from rlpath_core.backends.fairchem.bundle import write_checkpoint
    from rlpath_core.backends.fairchem.graph import Batch, build_graph
    from rlpath_core.backends.fairchem.model import FairChemModel

    model = FairChemModel.load(path, read_manifest(path), device=device)
    write_checkpoint(path, scratch / "model.pt")
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator
    from fairchem.core.datasets import data_list_collater

    calculator = OCPCalculator(checkpoint_path=scratch / "model.pt", cpu=device == "cpu", seed=0)
    every = [s.to_ase() for s in structures]
    graphs = [build_graph(s, model.reach) for s in structures]
    batch = Batch(graphs, model.dtype, model.device, grad=model.network.conservative)
    runner = model._runners.queue[0]

    def together() -> None:
        data = data_list_collater([calculator.a2g.convert(atoms) for atoms in every], otf_graph=True)
        calculator.trainer.predict(data, per_image=False, disable_tqdm=True)

    def network() -> None:
        import torch

        with torch.set_grad_enabled(model.network.conservative):
            runner(batch, True)

    return {
        "predict": lambda: model.predict(structures),
        "network": network,
        "calculator": one_by_one(calculator, structures),
        "calculator, batch": together,
    }


def random_bundle(config: Path, folder: Path) -> Path:
    """A bundle with the network of a FairChem configuration and fresh weights."""
    from rlpath_core.backends.fairchem.architecture import network_of
    from rlpath_core.backends.fairchem.bundle import export_checkpoint
    from rlpath_core.backends.fairchem.checkpoint import Checkpoint, write_file
    from rlpath_core.backends.fairchem.network import build
    from rlpath_core.config import read_mapping

    network = network_of(read_mapping(config), config)
    write_file(folder / "fresh.pt", Checkpoint(network, dict(build(network).state_dict())))
    return export_checkpoint(folder / "fresh.pt", folder / "bundle", backend=network.backend)[0]


def measure(given: argparse.Namespace) -> None:
    """In the backend's own interpreter."""
    import torch

    torch.set_num_threads(given.threads)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(given.here)
        path = random_bundle(path, Path(scratch)) if path.suffix == ".yml" else manifest_path(path)
        backend = read_manifest(path).backend
        every = read_structures(given.structures)
        print(f"\n{backend}: {given.here}, on {given.device}, {given.threads} thread(s), torch {torch.__version__}")
        for n in BATCHES:
            structures = (every * n)[:n]
            calls = (mace if backend == "mace" else fairchem)(path, structures, Path(scratch), given.device)
            seconds = fastest(calls, given.repeats, given.device, given.threads)
            line = f"{n:>4} structures, {sum(map(len, structures)):>4} atoms: {n / seconds['predict']:8.1f}/s"
            line += f"  network {seconds['network'] / seconds['predict']:6.1%}"
            for name in [name for name in calls if name.startswith("calculator")]:
                line += f"  {name} {n / seconds[name]:7.1f}/s (x{seconds[name] / seconds['predict']:.2f})"
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", action="append", help="a bundle; once per model")
    parser.add_argument("--structures", default=str(REPOSITORY / "models/starter/data/heldout.xyz"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        measure(given)
        return
    models = {str(path): read_manifest(path).backend for path in given.manifest or ()}
    models = models or {str(path): backend for backend, path in defaults().items()}
    for path, backend in models.items():
        command = [
            str(interpreter_of(backend)),
            "-W",
            "ignore",
            __file__,
            "--here",
            path,
            "--structures",
            given.structures,
        ]
        for name in ("device", "threads", "repeats"):
            command += [f"--{name}", str(getattr(given, name))]
        subprocess.run(command, check=True, env={**child_environment(), "OMP_NUM_THREADS": str(given.threads)})


if __name__ == "__main__":
    sys.exit(main())
