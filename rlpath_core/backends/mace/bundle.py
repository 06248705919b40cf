"""MACE bundles: manifest.json + model.json + best_model.pt (a plain state_dict, loaded with weights_only)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlpath_core.backends.mace.agreement import agreed, dtype_of
from rlpath_core.backends.mace.architecture import Architecture, choose_head, read_architecture, write_architecture
from rlpath_core.backends.manifest import (
    MANIFEST,
    MODEL_JSON,
    WEIGHTS,
    Embedding,
    Manifest,
    Source,
    Weights,
    model_json_of,
    write_manifest,
)
from rlpath_core.backends.tensors import load_state, load_tensors, save_tensors
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of

FOREIGN = "mace-model"
"""``source.format`` of a bundle that was made from a pickled ``.model``."""

__all__ = [
    "FOREIGN",
    "MANIFEST",
    "MODEL_JSON",
    "WEIGHTS",
    "load_state",
    "load_tensors",
    "own_head",
    "read_bundle",
    "save_tensors",
    "weights_dtype",
    "write_bundle",
]


def write_bundle(
    folder: str | Path,
    architecture: Architecture,
    state: Mapping[str, torch.Tensor],
    *,
    head: str | None,
    dtype: str,
    parent: str | None = None,
    config: Mapping[str, Any] | None = None,
    source: Source | None = None,
) -> tuple[Path, str]:
    """Write model.json, best_model.pt and, last, manifest.json into ``folder``.

    head    the model's own; None where a model of several has none
    parent  digest of the manifest that the weights were fine-tuned from
    source  where they came from otherwise
    Returns the manifest and its digest, which depends on weights, architecture, parent, source and config alone.
    """
    folder = Path(folder)
    write_architecture(folder / MODEL_JSON, architecture)
    save_tensors(folder / WEIGHTS, dict(state))
    model_json = Source(path=MODEL_JSON, format="model.json", sha256=sha256_of(folder / MODEL_JSON))
    scale_shift = architecture.scale_shift
    manifest = Manifest(
        backend="mace",
        backend_version=version("mace-torch"),
        source=source or (model_json if parent is None else Source(path=None, format="rlpath-bundle", sha256=parent)),
        weights=Weights(path=WEIGHTS, sha256=sha256_of(folder / WEIGHTS), dtype=dtype),  # type: ignore[arg-type]
        embedding=Embedding(),
        config={"architecture": MODEL_JSON, "architecture_sha256": model_json.sha256, **(config or {})},
        head=head,
        normalizer={} if scale_shift is None else scale_shift.model_dump(mode="json"),
    )
    return folder / MANIFEST, write_manifest(folder / MANIFEST, manifest)


def read_bundle(
    path: Path, manifest: Manifest, weights: str | Path | None = None
) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """Architecture and weights of a bundle whose manifest was read (and its digests checked).

    ``weights`` take the place of its own, with their energies of atoms, scale and shift. Raises InputError where files
    of the bundle say different things of one quantity.
    """
    model_json = model_json_of(path, manifest)
    architecture = read_architecture(model_json)
    file = path.parent / manifest.weights.path if weights is None else Path(weights)
    stated = None if architecture.scale_shift is None else architecture.scale_shift.model_dump(mode="json")
    for key, value in manifest.normalizer.items():
        if stated is not None and key in stated and not np.allclose(value, stated[key], rtol=1e-9, atol=0):
            raise InputError(f"is {value}, and model.json says {stated[key]}", path, f"normalizer.{key}")
    if own_head(manifest, architecture) is not None:
        try:
            choose_head(architecture, None, manifest.head)
        except InputError as error:
            raise InputError(error.what, path, error.key) from error
    return agreed(architecture, load_state(file), file, weights_win=weights is not None)


def own_head(manifest: Manifest, architecture: Architecture) -> str | None:
    """The head that a bundle names. One made from a pickled model names none where there are several: what stands in
    those of rlpath 0.2 is the first, which nobody chose."""
    if manifest.source.format == FOREIGN and len(architecture.heads) > 1:
        return None
    return manifest.head


def weights_dtype(manifest: Manifest, state: Mapping[str, torch.Tensor], weights: str | Path | None) -> str:
    """float32 or float64: as the manifest says of its own weights, else as those in their place are."""
    return manifest.weights.dtype if weights is None else dtype_of(state)
