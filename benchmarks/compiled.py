"""MACE on a CPU core: mace's own network, with messages summed first, and compiled.

    python benchmarks/compiled.py [--repeats 5] [--batches 1 8] [--symmetrix [MODE]]

Networks with random weights, energies and forces in single precision on one core: one of the starter's shape on
H2O/MgO(001), and two on O/Cu(111) of the shapes of MACE-MP-0 medium (128x0e+128x1o, l = 3, four-body, 89 elements)
and of later ones (densities, lengths transformed by element: no tables). Milliseconds per structure, how many times
as fast as mace's, and the largest difference of a force component as a share of the largest.

``--symmetrix`` races symmetrix-xl (PyPI), which must be importable, and the compiled network in turn, with neighbour
lists. It only takes networks with edges to l = 3 and four-body products, so the starter's shape gets both. MODE is its
``streamed_edges``: ``direct`` compiles C++ for the network first, which takes minutes, ``non-compiled`` does not.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, surface
from numpy.typing import NDArray

from rlpath_core.backends.mace.acceleration.compiled import compile_for_cpu
from rlpath_core.backends.mace.acceleration.convolution import fuse_convolutions
from rlpath_core.backends.mace.architecture import Architecture, Interaction, Product, ScaleShift
from rlpath_core.backends.mace.build import build
from rlpath_core.backends.mace.model import MaceModel
from rlpath_core.data.batches import build_graph, collate
from rlpath_core.structure import Structure


def architecture(
    elements: list[int], channels: str, l_max: int, order: int, cutoff: float, **other: Any
) -> Architecture:
    return Architecture(
        z_table=elements,
        e0_values=[0.0] * len(elements),
        cutoff=cutoff,
        hidden_irreps=channels,
        max_ell=l_max,
        **({"interactions": [Interaction(radial_mlp=[64, 64, 64])] * 2} | other),
        products=[Product(correlation=order)] * 2,
        avg_num_neighbors=40.0,
        scale_shift=ScaleShift(scale=1.0, shift=0.0),
    )


def shaken(atoms: Atoms) -> Structure:
    atoms.pbc = True
    atoms.positions += np.random.default_rng(0).normal(0, 0.05, atoms.positions.shape)
    return Structure.from_ase(atoms)


def starter() -> tuple[Architecture, Structure]:
    slab = surface(bulk("MgO", "rocksalt", 4.21), (0, 0, 1), 2, vacuum=8) * (2, 2, 1)
    add_adsorbate(slab, Atoms("OHH", [[0, 0, 0], [0.76, 0.59, 0.1], [-0.76, 0.59, 0.1]]), 2.2, (1.0, 1.0))
    return architecture([1, 6, 7, 8, 12], "32x0e+32x1o", 2, 2, 4.5), shaken(slab)


def medium(**other: Any) -> tuple[Architecture, Structure]:
    slab = fcc111("Cu", (2, 2, 4), vacuum=8)
    add_adsorbate(slab, "O", 1.2, "fcc")
    return architecture(list(range(1, 90)), "128x0e+128x1o", 3, 3, 6.0, **other), shaken(slab)


def later() -> tuple[Architecture, Structure]:
    first, others = "RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock"
    blocks = [Interaction(type=first, radial_mlp=[64, 64, 64]), Interaction(type=others, radial_mlp=[64, 64, 64])]  # type: ignore[arg-type]
    return medium(interactions=blocks, distance_transform="Agnesi")


def seconds(ask: Callable[[list[Structure]], object], structures: list[Structure]) -> float:
    began = time.perf_counter()
    ask(structures)
    return time.perf_counter() - began


def race(known: Architecture, structure: Structure, sizes: list[int], repeats: int, mode: str) -> None:
    """Symmetrix and the compiled network in turn, on copies of a structure that differ by small displacements."""
    from symmetrix import Symmetrix
    from symmetrix.cli.extract_mace import main as extract

    net = build(known, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "network.model", Path(folder) / "network.json"
        torch.save(copy.deepcopy(net).double(), source)
        extract(["--model", str(source), "--output", str(target)])
        calculator = Symmetrix(str(target), dtype="float32", streamed_edges=mode)
    model = MaceModel(copy.deepcopy(net), known)
    exact = MaceModel(net.double(), known).predict([structure])[0].forces
    generator = np.random.default_rng(1)
    moved = [
        structure.moved(structure.positions + generator.normal(0, 0.01, structure.positions.shape))
        for _ in range(max(sizes))
    ]

    def symmetrix(structures: list[Structure]) -> list[NDArray[Any]]:
        found = []
        for one in structures:
            atoms = one.to_ase()
            atoms.set_constraint()
            calculator.reset()  # else the same structure again costs nothing
            atoms.calc = calculator
            found.append(atoms.get_forces())
        return found

    def compiled(structures: list[Structure]) -> list[Any]:
        return [prediction.forces for prediction in model.predict(structures)]

    for name, ask in (("symmetrix", symmetrix), ("compiled", compiled)):
        off = np.abs(ask([structure])[0] - exact).max() / np.abs(exact).max()
        print(f"  {name:<13} largest difference of a force {off:.1e}")
    for size in sizes:
        times = np.array([[seconds(ask, moved[:size]) for ask in (compiled, symmetrix)] for _ in range(repeats)])
        ours, theirs = 1e3 * times.min(axis=0) / size
        ratio = np.median(times[:, 1] / times[:, 0])
        print(
            f"  {size:>3} at once  compiled {ours:8.2f} ms  symmetrix {theirs:8.2f} ms  median ratio {ratio:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--symmetrix", nargs="?", const="direct", metavar="MODE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.symmetrix:
        slab, copper = starter()[1], medium()[1]
        shapes = {
            "starter, edges to l = 3, four-body": (architecture([1, 6, 7, 8, 12], "32x0e+32x1o", 3, 3, 4.5), slab),
            "medium, two elements": (architecture([8, 29], "128x0e+128x1o", 3, 3, 6.0), copper),
        }
        for shape, (known, structure) in shapes.items():
            print(f"{shape}: {len(structure)} atoms")
            race(known, structure, args.batches, args.repeats, args.symmetrix)
        return
    for shape, (known, structure) in {"starter": starter(), "medium": medium(), "later": later()}.items():
        net = build(known, torch.float32)
        nets = {
            "mace": net,
            "summed first": fuse_convolutions(copy.deepcopy(net)),
            "compiled": compile_for_cpu(copy.deepcopy(net)),
        }
        numbers = np.array(known.z_table)
        graph = build_graph(structure, known.cutoff, numbers)
        print(f"{shape}: {len(structure)} atoms, {graph.n_edges} edges")
        for size in args.batches:
            first = forces = None
            for name, asked in nets.items():
                asked.requires_grad_(False)
                took = []
                for _ in range(args.repeats + 1):
                    batch = collate([graph] * size, len(numbers), torch.float32, "cpu")
                    began = time.perf_counter()
                    found = asked(batch, training=False, compute_force=True)["forces"]
                    took.append(time.perf_counter() - began)
                best = min(took[1:]) / size
                first, forces = first or best, found if forces is None else forces
                off = float((found - forces).abs().max() / forces.abs().max())
                print(
                    f"  {size:>3} at once  {name:<13} {1e3 * best:8.2f} ms  x{first / best:5.2f}   {off:.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
