"""A FairChem bundle as a ``Model``: many structures, one forward pass of EquiformerV2 or GemNet-OC."""

from __future__ import annotations

import copy
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.backends.batching import BatchedModel
from rlpath_core.backends.device import resolve_device
from rlpath_core.backends.fairchem import environment as fairchem
from rlpath_core.backends.fairchem.architecture import Network
from rlpath_core.backends.fairchem.bundle import normalizers_of, read_bundle, references_of
from rlpath_core.backends.fairchem.graph import GHOST, Batch, Graph, Reach, build_graph
from rlpath_core.backends.fairchem.network import Runner, backbone_of, bytes_per_edge, restore
from rlpath_core.backends.manifest import Manifest
from rlpath_core.backends.tensors import DTYPES
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure

FORWARD_BYTES = {"cpu": 1e9, "cuda": 20e9}
"""What one forward may take to start with; halved for good each time memory runs out."""
CACHED_BYTES = 40e6
"""On a CPU, what the tensors of one part of a batch take: they stay in its cache."""


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """FairChem makes some tensors in torch's default type: a network in float64 needs that to be float64."""
    before = torch.get_default_dtype()
    if dtype == before:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class FairChemModel(BatchedModel[Graph]):
    """Means, spreads and energies per element are applied in float64, so that float32 keeps the digits of the rest."""

    def __init__(
        self,
        net: torch.nn.Module,
        network: Network,
        *,
        normalizers: dict[str, tuple[float, float]] | None = None,
        references: torch.Tensor | None = None,
        outputs: dict[str, Any] | None = None,
        digest: str = "",
        reference: str = "",
        weights_sha256: str = "",
        device: str = "cpu",
        amp: bool = False,
    ) -> None:
        """normalizers: mean and rmsd of energy (eV) and forces (eV/Å); references: eV by atomic number; outputs:
        FairChem's section of that name, for the properties of hydra's heads."""
        self.backend = network.backend
        self.network, self.device = network, device
        self.digest, self.reference, self.weights_sha256 = digest, reference, weights_sha256
        self.implementation = f"FairChem {fairchem.VERSION}"
        self.amp = amp and device.startswith("cuda")
        per_edge = bytes_per_edge(network)
        self.edge_budget = int(FORWARD_BYTES[device.partition(":")[0]] / per_edge)
        self.cached_edges = int(CACHED_BYTES / per_edge)
        net = net.to(device).eval().requires_grad_(False)
        self.dtype = next(net.parameters()).dtype
        self._outputs = outputs or {}
        self._normalizers = normalizers or {}
        (_, energy_unit), (mean_force, force_unit) = (
            self._normalizers.get(t, (0.0, 1.0)) for t in ("energy", "forces")
        )
        # A gradient that is scaled by another number than the energy is the gradient of another energy.
        self.conservative = network.conservative and mean_force == 0 and bool(np.isclose(energy_unit, force_unit))
        largest = _largest_element(net, network)
        self._references = np.zeros(max(largest, 118) + 1)
        trained: NDArray[Any] = np.arange(1, largest + 1)
        if references is not None and bool((references != 0).any()):
            values = references.double().numpy()[: len(self._references)]
            self._references[: len(values)] = values
            trained = np.flatnonzero(self._references[: largest + 1])
        self.elements = frozenset(int(z) for z in trained if z > 0)
        self.reach = Reach.of(backbone_of(net, network), network)
        # A forward leaves its frames in the network, so every thread has its own copy around the same weights.
        self._runners: queue.LifoQueue[Runner] = queue.LifoQueue()
        tensors = {id(t): t for t in (*net.parameters(), *net.buffers())}
        for _ in range(torch.get_num_threads() if device == "cpu" else 1):
            self._runners.put(Runner(copy.deepcopy(net, dict(tensors)), network))

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
    ) -> FairChemModel:
        """See ``rlpath_core.backends.load_model``."""
        if head is not None:
            raise InputError(f"a {manifest.backend} model has no heads to choose from", path, "head")
        device = resolve_device(device)
        dtype = dtype or manifest.weights.dtype
        if dtype not in DTYPES:
            raise InputError(f"choose float32 or float64, got {dtype!r}", key="dtype")
        network, state = read_bundle(path, manifest, weights)
        try:
            net = restore(network, state, DTYPES[dtype])
        except InputError as error:
            raise InputError(error.what, path, error.key) from error
        return cls(
            net,
            network,
            normalizers=normalizers_of(manifest, path),
            references=references_of(manifest, path),
            outputs=manifest.backend_state.get("outputs"),
            digest=sha256_of(path),
            reference=str(path.absolute()),
            weights_sha256=manifest.weights.sha256,
            device=device,
            amp=amp,
        )

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        for structure in structures:
            self.check_elements(structure)
        with _default_dtype(self.dtype):
            return self.predict_graphs(
                [build_graph(s, self.reach) for s in structures], forces=forces, embeddings=embeddings
            )

    def _cost(self, graph: Graph) -> int:
        return graph.n_edges + len(graph)

    def _forward(self, graphs: list[Graph], forces: bool, embeddings: bool) -> list[Prediction]:
        given = graphs if any(g.n_edges for g in graphs) else [*graphs, GHOST]
        batch = Batch(given, self.dtype, self.device, grad=forces and self.network.conservative)
        runner = self._runners.get()
        try:
            with (
                torch.set_grad_enabled(forces and self.network.conservative),
                torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.amp),
            ):
                out = runner(batch, forces)
            features = _numbers(runner.kept[-1]) if embeddings else None
        finally:
            runner.kept.clear()
            self._runners.put(runner)
        ends = np.cumsum([len(g) for g in given])[: len(graphs)]
        starts = ends - [len(g) for g in graphs]
        energies = self._denormalised("energy", out).reshape(-1)
        all_forces = self._denormalised("forces", out).reshape(-1, 3) if forces else None
        return [
            Prediction(
                energy=float(energy + self._references[graph.numbers].sum()),
                forces=None if all_forces is None else all_forces[start:end].copy(),
                node_embedding=None if features is None else features[start:end].copy(),
                graph_embedding=None if features is None else features[start:end].mean(axis=0),
            )
            for graph, energy, start, end in zip(graphs, energies, starts, ends, strict=False)
        ]

    def _denormalised(self, target: str, out: dict[str, Any]) -> NDArray[np.float64]:
        """eV or eV/Å, by FairChem's own rule of which output is which target."""
        found = out.get(target)
        if isinstance(found, dict):
            found = found.get(self._outputs.get(target, {}).get("property", target))
        if found is None:
            raise InputError(f"the network puts out {', '.join(out)} and no {target}", key="backend_state.outputs")
        mean, rmsd = self._normalizers.get(target, (0.0, 1.0))
        return _numbers(found) * rmsd + mean


def _numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().as_subclass(torch.Tensor).double().cpu().numpy()


def _largest_element(net: torch.nn.Module, network: Network) -> int:
    parts: Any = backbone_of(net, network)
    if network.backend == "equiformer_v2":
        return int(parts.max_num_elements) - 1  # its embedding is indexed by atomic number
    return int(parts.atom_emb.embeddings.num_embeddings)
