"""A MACE bundle as a ``Model``: many structures, one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mace.modules
import numpy as np
import torch
from e3nn import o3

from rlpath_core.backends.base import Prediction
from rlpath_core.backends.batching import EDGE_BUDGET, BatchedModel
from rlpath_core.backends.device import resolve_device
from rlpath_core.backends.mace.acceleration import COMPILED, accelerate
from rlpath_core.backends.mace.architecture import Architecture, choose_head
from rlpath_core.backends.mace.build import DTYPES, restore
from rlpath_core.backends.mace.bundle import own_head, read_bundle, weights_dtype
from rlpath_core.backends.manifest import Manifest
from rlpath_core.data.batches import Graph, build_graph, collate
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure

COMPILED_EDGES, COMPILED_SPLIT = 14_000, 5_000
"""``cached_edges`` and ``split_from`` of ``BatchedModel`` for compiled loops, which need less memory per edge."""


def interaction_energy(net: torch.nn.Module, out: dict[str, Any]) -> torch.Tensor:
    """[n_graphs], eV: the total energy less that of the free atoms, before the two are added in single precision."""
    if "interaction_energy" in out:
        energy: torch.Tensor = out["interaction_energy"]
        return energy
    return out["contributions"][:, 1:].sum(dim=-1)


class MaceModel(BatchedModel[Graph]):
    """Energies of free atoms are added in float64, so that float32 models keep the digits of the rest."""

    backend = "mace"

    def __init__(
        self,
        net: torch.nn.Module,
        architecture: Architecture,
        *,
        digest: str = "",
        reference: str = "",
        weights_sha256: str = "",
        device: str = "cpu",
        head: str | None = None,
        own_head: str | None = None,
        amp: bool = False,
    ) -> None:
        """head: the one that was asked for; own_head: the one that the model names."""
        self.architecture = architecture
        self.digest, self.reference, self.weights_sha256 = digest, reference, weights_sha256
        self.device = device
        self.elements = frozenset(architecture.z_table)
        self.cutoff = architecture.cutoff
        self.amp = amp and device.startswith("cuda")
        self.edge_budget = EDGE_BUDGET[device.partition(":")[0]]
        net, self.implementation = accelerate(net, device, next(net.parameters()).dtype)
        if self.implementation == COMPILED:
            self.cached_edges, self.split_from = COMPILED_EDGES, COMPILED_SPLIT
        self.net = net.to(device).eval().requires_grad_(False)
        self.dtype = next(net.parameters()).dtype
        chosen = choose_head(architecture, head, own_head)
        self._head = architecture.head_index(chosen.name)
        if len(architecture.heads) > 1:
            self.head = f"{chosen.name} of {', '.join(architecture.heads)} ({chosen.why})"
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
        if dtype is not None and dtype not in DTYPES:
            raise InputError(f"choose float32 or float64, got {dtype!r}", key="dtype")
        architecture, state = read_bundle(path, manifest, weights)
        dtype = dtype or weights_dtype(manifest, state, weights)
        try:
            net = restore(architecture, state, DTYPES[dtype])
            return cls(
                net,
                architecture,
                digest=sha256_of(path),
                reference=str(path.absolute()),
                weights_sha256=manifest.weights.sha256,
                device=device,
                head=head,
                own_head=own_head(manifest, architecture),
                amp=amp,
            )
        except InputError as error:
            raise InputError(error.what, path, error.key) from error

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        for structure in structures:
            self.check_elements(structure)
        graphs = [build_graph(s, self.cutoff, self.numbers) for s in structures]
        return self.predict_graphs(graphs, forces=forces, embeddings=embeddings)

    def _cost(self, graph: Graph) -> int:
        return graph.n_edges + len(graph)

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
