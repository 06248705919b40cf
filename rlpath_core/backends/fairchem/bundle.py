"""FairChem bundles: manifest.json + model.json + best_model.pt (a plain state_dict, loaded with weights_only).

In the manifest: ``normalizer`` has mean and rmsd per target and the references per element as numbers;
``backend_state`` FairChem's own settings (outputs, losses, metrics), the decay of averaged weights, and whether
GemNet-OC's scale factors (which are in the state_dict) were fitted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rlpath_core.backends.fairchem.architecture import Network, read_network, write_network
from rlpath_core.backends.fairchem.checkpoint import Checkpoint, read_checkpoint, write_file
from rlpath_core.backends.fairchem.network import restore, scale_factors
from rlpath_core.backends.manifest import (
    MANIFEST,
    MODEL_JSON,
    WEIGHTS,
    Embedding,
    Manifest,
    Source,
    Weights,
    manifest_path,
    model_json_of,
    read_manifest,
    write_manifest,
)
from rlpath_core.backends.tensors import DTYPES, load_state, save_tensors
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of

FORMAT = "fairchem-checkpoint"
LAYERS = {"equiformer_v2": "last_norm_l0", "gemnet_oc": "last_interaction_atoms"}
"""Where the features of the atoms come from."""


def export_checkpoint(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    backend: str,
    parent: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Path, str]:
    """A bundle in ``folder`` from a FairChem ``.pt``, official or trained here; returns its manifest and digest.

    parent  digest of the manifest that it was fine-tuned from; null: what a run of ours says in the checkpoint
    config  what more the manifest's ``config`` says of where it comes from
    Averaged weights (EMA) are taken where the checkpoint has them beside the others. Raises InputError for files of
    other kinds, pickled code, networks that are not known or belong to another backend.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    found = read_checkpoint(checkpoint)
    parent = parent or found.parent
    if found.network.backend != backend:
        raise InputError(
            f"is of backend {found.network.backend}, and {backend} was asked for: say backend: {found.network.backend}",
            checkpoint,
            "config.model",
        )
    dtype = "float64" if any(t.dtype == torch.float64 for t in found.state.values()) else "float32"
    try:
        net = restore(found.network, found.state, DTYPES[dtype], found.scales)
        if found.average is not None:
            _take_average(net, found.average)
    except InputError as error:
        raise InputError(error.what, checkpoint, error.key) from error
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in net.state_dict().items()}
    scales = scale_factors(net)
    write_network(folder / MODEL_JSON, found.network)
    save_tensors(folder / WEIGHTS, state)
    manifest = Manifest(
        backend=found.network.backend,
        backend_version=version("fairchem-core"),
        source=Source(path=None, format=FORMAT, sha256=sha256_of(checkpoint))
        if parent is None
        else Source(path=None, format="rlpath-bundle", sha256=parent),
        weights=Weights(path=WEIGHTS, sha256=sha256_of(folder / WEIGHTS), dtype=dtype),  # type: ignore[arg-type]
        embedding=Embedding(node_embed_layer=LAYERS[backend]),
        config={
            "architecture": MODEL_JSON,
            "architecture_sha256": sha256_of(folder / MODEL_JSON),
            **(config or {}),
        },
        normalizer={
            "targets": {key: {"mean": mean, "rmsd": rmsd} for key, (mean, rmsd) in found.normalizers.items()},
            "element_references": {key: _as_numbers(value) for key, value in found.references.items()},
        },
        backend_state={
            **found.settings,
            "ema_decay": found.decay,
            "scale_factors_fitted": all(module.fitted for module in scales.values()) if scales else None,
            "epoch": found.epoch,
            "step": found.step,
        },
    )
    return folder / MANIFEST, write_manifest(folder / MANIFEST, manifest)


def _take_average(net: torch.nn.Module, average: list[torch.Tensor]) -> None:
    """FairChem keeps the averages of the trainable parameters as a list, in the network's order."""
    trained = [p for p in net.parameters() if p.requires_grad]
    if [p.shape for p in trained] != [getattr(a, "shape", None) for a in average]:
        raise InputError("the averaged weights do not fit the network", key="ema.shadow_params")
    with torch.no_grad():
        for parameter, value in zip(trained, average, strict=True):
            parameter.copy_(value)


def _as_numbers(references: torch.Tensor) -> dict[str, Any]:
    values = references.tolist()
    return {
        "length": len(values),
        "dtype": str(references.dtype).removeprefix("torch."),
        "values": {str(z): value for z, value in enumerate(values) if value != 0},
    }


def references_of(manifest: Manifest, where: str | Path, target: str = "energy") -> torch.Tensor | None:
    """Energies by atomic number as the checkpoint had them, or None; InputError for what cannot be."""
    found = manifest.normalizer.get("element_references", {}).get(target)
    if found is None:
        return None
    try:
        values = torch.zeros(int(found["length"]), dtype=getattr(torch, found["dtype"]))
        for z, value in found["values"].items():
            values[int(z)] = float(value)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"expected length, dtype and values by atomic number ({error})", where, "normalizer.element_references"
        ) from error
    return values


def normalizers_of(manifest: Manifest, where: str | Path) -> dict[str, tuple[float, float]]:
    """Mean and rmsd per target."""
    try:
        found = manifest.normalizer.get("targets", {})
        return {key: (float(value["mean"]), float(value["rmsd"])) for key, value in found.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"expected mean and rmsd per target ({error})", where, "normalizer.targets") from error


def read_bundle(
    path: Path, manifest: Manifest, weights: str | Path | None = None
) -> tuple[Network, dict[str, torch.Tensor]]:
    """Network and weights of a bundle whose manifest was read (and its digests checked)."""
    model_json = model_json_of(path, manifest)
    network = read_network(model_json)
    if network.backend != manifest.backend:
        raise InputError(f"model.json is of backend {network.backend}, not of {manifest.backend}", path, "backend")
    return network, load_state(path.parent / manifest.weights.path if weights is None else weights)


def export_bundle(
    manifest: str | Path,
    folder: str | Path,
    *,
    backend: str,
    weights: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Path, str]:
    """``export_checkpoint`` from another bundle, with other weights where they are given."""
    path = manifest_path(manifest)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "bundle.pt"
        write_checkpoint(path, file, weights=weights)
        try:
            return export_checkpoint(file, folder, backend=backend, parent=sha256_of(path), config=config)
        except InputError as error:
            raise InputError(error.what, path, error.key) from error


def write_checkpoint(
    manifest: str | Path,
    file: str | Path,
    *,
    weights: str | Path | None = None,
    shifts: Mapping[int, float] | None = None,
) -> None:
    """A FairChem ``.pt`` of a bundle, for ``--checkpoint`` and OCPCalculator: no optimizer, epoch 0.

    weights  a state_dict in place of the bundle's own
    shifts   what is added to the reference energies, eV by atomic number
    """
    path = manifest_path(manifest)
    found = read_manifest(path)
    network, state = read_bundle(path, found, weights)
    references = {key: references_of(found, path, key) for key in found.normalizer.get("element_references", {})}
    if shifts:
        known = references.get("energy")
        moved = torch.zeros(max(119, 0 if known is None else len(known)), dtype=torch.float64)
        if known is not None:
            moved[: len(known)] = known
        for z, shift in shifts.items():
            moved[z] += shift
        references["energy"] = moved
    write_file(
        file,
        Checkpoint(
            network,
            state,
            normalizers=normalizers_of(found, path),
            references={key: value for key, value in references.items() if value is not None},
            settings=found.backend_state,
        ),
    )
