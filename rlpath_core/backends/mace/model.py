"""A MACE bundle as a ``Model``: many structures, one forward pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import mace.modules
import numpy as np
import torch
from e3nn import o3

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.backends.device import resolve_device
from rlpath_core.backends.mace.architecture import Architecture
from rlpath_core.backends.mace.build import DTYPES, restore
from rlpath_core.backends.mace.bundle import read_bundle
from rlpath_core.backends.manifest import Manifest
from rlpath_core.data.batches import Graph, build_graph, collate
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure

EDGE_BUDGET = {"cpu": 200_000, "cuda": 2_000_000}
"""Edges in one forward to start with; halved for good each time memory runs out."""
CACHED_EDGES = 4_000
"""On a CPU a batch is cut into parts of about so many edges, one core each: their tensors stay in its cache, and no
core waits for another in the middle of an operation."""


def interaction_energy(net: torch.nn.Module, out: dict[str, Any]) -> torch.Tensor:
    """[n_graphs], eV: the total energy less that of the free atoms, before the two are added in single precision."""
    if "interaction_energy" in out:
        energy: torch.Tensor = out["interaction_energy"]
        return energy
    return out["contributions"][:, 1:].sum(dim=-1)


@cache
def _workers(process: int, threads: int) -> ThreadPoolExecutor:
    """A fork has none of its parent's threads: each process has its own."""
    return ThreadPoolExecutor(threads, "forward", torch.set_num_threads, (1,))


def _side_by_side(call: Callable[[list[Graph]], list[Prediction]], parts: list[list[Graph]]) -> list[list[Prediction]]:
    """``call`` for every part, on as many threads as torch may use, each with its operations on one thread."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [call(part) for part in parts]
    torch.set_num_threads(1)  # MKL's number of threads is the process's, not the thread's
    try:
        return list(_workers(os.getpid(), threads).map(call, parts))
    finally:
        torch.set_num_threads(threads)


class MaceModel(Model):
    """Energies of free atoms are added in float64, so that float32 models keep the digits of the rest."""

    backend: ClassVar[str] = "mace"

    def __init__(
        self,
        net: torch.nn.Module,
        architecture: Architecture,
        *,
        digest: str = "",
        device: str = "cpu",
        head: str | None = None,
        amp: bool = False,
    ) -> None:
        self.architecture = architecture
        self.digest = digest
        self.device = device
        self.elements = frozenset(architecture.z_table)
        self.cutoff = architecture.cutoff
        self.amp = amp and device.startswith("cuda")
        self.edge_budget = EDGE_BUDGET[device.partition(":")[0]]
        self.net = net.to(device).eval().requires_grad_(False)
        self.dtype = next(net.parameters()).dtype
        self._head = architecture.head_index(head)
        self._e0s = architecture.e0_table[self._head]
        self.numbers = np.array(architecture.z_table)
        hidden = o3.Irreps(architecture.hidden_irreps)
        self._features, self._l_max = hidden.count(o3.Irrep(0, 1)), hidden.lmax

    @classmethod
    def load(
        cls,
        path: Path,
        manifest: Manifest,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        head: str | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> MaceModel:
        """See ``rlpath_core.backends.load_model``."""
        device = resolve_device(device)
        dtype = dtype or manifest.weights.dtype
        if dtype not in DTYPES:
            raise InputError(f"choose float32 or float64, got {dtype!r}", key="dtype")
        architecture, state = read_bundle(path, manifest, weights)
        try:
            net = restore(architecture, state, DTYPES[dtype])
            return cls(net, architecture, digest=sha256_of(path), device=device, head=head or manifest.head, amp=amp)
        except InputError as error:
            raise InputError(error.what, path, error.key) from error

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        for structure in structures:
            self.check_elements(structure)
        graphs = [build_graph(s, self.cutoff, self.numbers) for s in structures]
        return self.predict_graphs(graphs, forces=forces, embeddings=embeddings)

    def predict_graphs(
        self, graphs: Sequence[Graph], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        """``predict`` for graphs that are built already (with this model's cutoff and elements)."""
        found: list[Prediction] = []
        while len(found) < len(graphs):
            chunk = self._affordable(graphs[len(found) :])
            try:
                found += self._chunk(chunk, forces, embeddings)
            except (torch.OutOfMemoryError, MemoryError):
                if len(chunk) == 1:
                    raise
                self.edge_budget = sum(g.n_edges for g in chunk) // 2
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
        return found

    def _affordable(self, graphs: Sequence[Graph]) -> list[Graph]:
        """As many of the first ones as memory is for; never none."""
        sizes = np.cumsum([g.n_edges + len(g) for g in graphs])
        return list(graphs[: max(1, int(np.searchsorted(sizes, self.edge_budget, side="right")))])

    def _chunk(self, graphs: list[Graph], forces: bool, embeddings: bool) -> list[Prediction]:
        """One forward; on a CPU its parts side by side. Where it is cut depends on the graphs alone."""
        sizes = np.array([g.n_edges + len(g) for g in graphs])
        n_parts = min(len(graphs), int(np.ceil(sizes.sum() / CACHED_EDGES)))
        if self.device != "cpu" or n_parts == 1:
            return self._forward(graphs, forces, embeddings)
        part_of = np.minimum((np.cumsum(sizes) - sizes / 2) * n_parts // sizes.sum(), n_parts - 1)
        parts = [[graphs[k] for k in np.flatnonzero(part_of == part)] for part in np.unique(part_of)]
        done = _side_by_side(lambda part: self._forward(part, forces, embeddings), parts)
        return [prediction for part in done for prediction in part]

    def _forward(self, graphs: list[Graph], forces: bool, embeddings: bool) -> list[Prediction]:
        batch = collate(graphs, len(self.numbers), self.dtype, self.device, self._head)
        with (
            torch.set_grad_enabled(forces),
            torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.amp),
        ):
            out = self.net(batch, training=False, compute_force=forces)
        interaction = interaction_energy(self.net, out).detach().double().cpu().numpy()
        free_atoms = [self._e0s[g.species].sum() for g in graphs]
        ends = np.cumsum([len(g) for g in graphs])[:-1]
        all_forces: list[Any] = [None] * len(graphs)
        nodes: list[Any] = [None] * len(graphs)
        if forces:
            all_forces = np.split(out["forces"].detach().double().cpu().numpy(), ends)
        if embeddings:
            nodes = np.split(self._invariant(out["node_feats"]).detach().double().cpu().numpy(), ends)
        return [
            Prediction(
                energy=float(e0 + rest),
                forces=None if force is None else force.copy(),
                node_embedding=None if node is None else node.copy(),
                graph_embedding=None if node is None else node.mean(axis=0),
            )
            for e0, rest, force, node in zip(free_atoms, interaction, all_forces, nodes, strict=True)
        ]

    def _invariant(self, features: torch.Tensor) -> torch.Tensor:
        """[n_atoms, n_layers * n_channels]: the scalar features of every layer."""
        layers = self.architecture.num_interactions
        invariant: torch.Tensor = mace.modules.utils.extract_invariant(features, layers, self._features, self._l_max)
        return invariant
