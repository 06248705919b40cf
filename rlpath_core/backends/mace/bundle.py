"""MACE bundles: manifest.json + model.json + best_model.pt (a plain state_dict, loaded with weights_only)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rlpath_core.backends.mace.architecture import Architecture, read_architecture, write_architecture
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
from rlpath_core.files import sha256_of

__all__ = [
    "MANIFEST",
    "MODEL_JSON",
    "WEIGHTS",
    "load_state",
    "load_tensors",
    "read_bundle",
    "save_tensors",
    "write_bundle",
]


def write_bundle(
    folder: str | Path,
    architecture: Architecture,
    state: Mapping[str, torch.Tensor],
    *,
    head: str,
    dtype: str,
    parent: str | None = None,
    config: Mapping[str, Any] | None = None,
    source: Source | None = None,
) -> tuple[Path, str]:
    """Write model.json, best_model.pt and, last, manifest.json into ``folder``.

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
    """Architecture and weights of a bundle whose manifest was read (and its digests checked)."""
    model_json = model_json_of(path, manifest)
    state = load_state(path.parent / manifest.weights.path if weights is None else weights)
    return read_architecture(model_json), state
