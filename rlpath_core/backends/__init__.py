"""Backends: models that take a list of structures and answer in one forward pass, and their bundles on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.backends.registry import Backend, backend_of, named_backend
from rlpath_core.errors import InputError
from rlpath_core.registry import import_name

if TYPE_CHECKING:
    from rlpath_core.backends.manifest import Manifest

log = logging.getLogger("rlpath.backends")

__all__ = ["Model", "Prediction", "load_local", "load_model"]


def load_model(
    reference: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    head: str | None = None,
    amp: bool = False,
    dtype: Literal["float32", "float64"] | None = None,
    python: str | Path | None = None,
) -> Model:
    """The model that a reference names.

    Parameters
    ----------
    reference
        A manifest.json, a folder with one, or ``ase:package.module.Class(key=literal, ...)``.
    weights
        A state_dict in place of the manifest's own.
    device
        cuda, cuda:N, cpu or auto.
    head
        For models with several. None: the manifest's; omat_pbe where it names none and there is one.
    amp
        bfloat16 autocast, on a GPU only.
    dtype
        float32 or float64. None: the type of the weights.
    python
        The Python to run the backend with if it is not installed in this one. None: found by
        `environments.interpreter_of`.

    Returns
    -------
    Model
        A `RemoteModel`, whose process runs in the backend's own environment, if the backend is not installed here.

    Raises
    ------
    InputError
        The bundle is damaged or of an unknown backend, or the backend is not installed anywhere.
    """
    from rlpath_core.backends.environments import interpreter_of, is_installed
    from rlpath_core.backends.manifest import manifest_path, read_manifest

    options: dict[str, Any] = {"weights": weights, "device": device, "head": head, "amp": amp, "dtype": dtype}
    model: Model
    if (named := named_backend(reference)) is not None:
        model = _kind(named).from_reference(str(reference), **options)
    else:
        path = manifest_path(reference)
        manifest = read_manifest(path)
        if is_installed(manifest.backend):
            model = _load_bundle(path, manifest, options)
        else:
            from rlpath_core.backends.remote import RemoteModel

            model = RemoteModel(path, python=interpreter_of(manifest.backend, python), **options)
    head = f", head {model.head}" if model.head else ""
    log.info("%s: %s on %s, %s%s", model.reference, model.backend, model.device, model.implementation, head)
    return model


def load_local(manifest: str | Path, **options: Any) -> Model:
    """The model of a bundle in this Python, whatever is installed; ``options`` as of `load_model`.

    Raises
    ------
    InputError
        As `load_model`, and if the backend is not installed here.
    """
    from rlpath_core.backends.manifest import manifest_path, read_manifest

    path = manifest_path(manifest)
    return _load_bundle(path, read_manifest(path), options)


def _load_bundle(path: Path, manifest: Manifest, options: dict[str, Any]) -> Model:
    backend = backend_of(manifest.backend)
    try:
        return _kind(backend).load(path, manifest, **options)
    except (ModuleNotFoundError, InputError) as error:
        missing = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(missing, ModuleNotFoundError):
            raise
        raise InputError(
            f"backend {backend.name} needs {missing.name!r}, which is not installed here: "
            f"{backend.environment.how_to_fix}",
            path,
        ) from error


def _kind(backend: Backend) -> type[Model]:
    return import_name(backend.model, f"model of backend {backend.name}")
