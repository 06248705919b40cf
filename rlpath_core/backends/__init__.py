"""Backends: models that take a list of structures and answer in one forward pass, and their bundles on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.errors import InputError

__all__ = ["Model", "Prediction", "load_here", "load_model"]


def load_model(
    manifest: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    head: str | None = None,
    amp: bool = False,
    dtype: Literal["float32", "float64"] | None = None,
    python: str | Path | None = None,
) -> Model:
    """The model of a bundle: a manifest.json, or a folder with one.

    Where the backend lives in another environment, a ``RemoteModel``, whose process runs there.

    weights  a state_dict in place of the manifest's own
    device   cuda, cuda:N, cpu or auto
    head     for models with several; null takes the manifest's
    amp      bfloat16 autocast, on a GPU only
    dtype    float32 or float64; null takes the weights' own
    python   the interpreter to run the backend with where it is not in this one; null finds it

    Raises InputError for a bundle that is damaged, or of an unknown backend, or whose backend is nowhere installed.
    """
    from rlpath_core.backends.interpreters import interpreter_of, is_here
    from rlpath_core.backends.manifest import manifest_path, read_manifest

    path = manifest_path(manifest)
    backend = read_manifest(path).backend
    if is_here(backend):
        return load_here(path, weights=weights, device=device, head=head, amp=amp, dtype=dtype)
    from rlpath_core.backends.remote import RemoteModel

    found = interpreter_of(backend, python)
    return RemoteModel(path, python=found, weights=weights, device=device, head=head, amp=amp, dtype=dtype)


def load_here(
    manifest: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    head: str | None = None,
    amp: bool = False,
    dtype: Literal["float32", "float64"] | None = None,
) -> Model:
    """``load_model`` in this interpreter; InputError where the backend is not in it."""
    from rlpath_core.backends.interpreters import home_of
    from rlpath_core.backends.manifest import manifest_path, read_manifest

    path = manifest_path(manifest)
    found = read_manifest(path)
    model: Model
    try:
        if found.backend == "mace":
            from rlpath_core.backends.mace.model import MaceModel

            model = MaceModel.load(path, found, weights=weights, device=device, head=head, amp=amp, dtype=dtype)
        else:
            from rlpath_core.backends.fairchem.model import FairChemModel

            if head is not None:
                raise InputError(f"a {found.backend} model has no heads to choose from", path, "head")
            model = FairChemModel.load(path, found, weights=weights, device=device, amp=amp, dtype=dtype)
    except ModuleNotFoundError as error:
        mend = home_of(found.backend).mend
        raise InputError(
            f"backend {found.backend} needs {error.name!r}, which is not installed here: {mend}", path
        ) from error
    model.manifest_path, model.weights_sha256 = path, found.weights.sha256
    return model
