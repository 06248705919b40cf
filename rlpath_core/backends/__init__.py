"""Backends: models that take a list of structures and answer in one forward pass, and their bundles on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.errors import InputError

__all__ = ["Model", "Prediction", "load_model"]

INSTALL = {"mace": "pip install 'rlpath[mace]'"}


def load_model(
    manifest: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    head: str | None = None,
    amp: bool = False,
    dtype: Literal["float32", "float64"] | None = None,
) -> Model:
    """The model of a bundle: a manifest.json, or a folder with one.

    weights  a state_dict in place of the manifest's own
    device   cuda, cuda:N, cpu or auto
    head     for models with several; null takes the manifest's
    amp      bfloat16 autocast, on a GPU only
    dtype    float32 or float64; null takes the weights' own

    Raises InputError for a bundle that is damaged, of an unknown backend, or whose backend is not installed here.
    """
    from rlpath_core.backends.manifest import manifest_path, read_manifest

    path = manifest_path(manifest)
    found = read_manifest(path)
    if found.backend != "mace":
        raise InputError(f"backend {found.backend!r} cannot be loaded in this environment", path, "backend")
    try:
        from rlpath_core.backends.mace.model import MaceModel
    except ModuleNotFoundError as error:
        raise InputError(
            f"backend mace needs {error.name!r}, which is not installed: {INSTALL['mace']}", path
        ) from error
    model = MaceModel.load(path, found, weights=weights, device=device, head=head, amp=amp, dtype=dtype)
    model.manifest_path, model.weights_sha256 = path, found.weights.sha256
    return model
