"""manifest.json, schema v1: what a bundle of model files is, with digests that are checked on load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator

from rlpath_core.backends.registry import BackendName, backend_of
from rlpath_core.config import Section, check, read_mapping
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, sha256_of

MANIFEST, MODEL_JSON, WEIGHTS = "manifest.json", "model.json", "best_model.pt"
SHA256 = r"^[0-9a-f]{64}$"


def _inside(path: str | None) -> str | None:
    if path is not None and (
        not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path
    ):
        raise ValueError("must lie inside the manifest's folder, given relative to it")
    return path


class Source(Section):
    """What the weights were made from. ``path`` is null where that lies outside the bundle."""

    path: str | None
    format: str
    sha256: str = Field(pattern=SHA256)
    _relative = field_validator("path")(_inside)


class Weights(Section):
    path: str
    format: Literal["state_dict"] = "state_dict"
    sha256: str = Field(pattern=SHA256)
    dtype: Literal["float32", "float64"]
    _relative = field_validator("path")(_inside)


class IO(Section):
    energy_unit: Literal["eV"] = "eV"
    force_unit: Literal["eV/Angstrom"] = "eV/Angstrom"
    energy_is_total: Literal[True] = True


class Embedding(Section):
    """Where embeddings come from: the invariant features of all layers, pooled over atoms."""

    node_embed_layer: str = "all_invariant"
    graph_pool: Literal["mean", "sum"] = "mean"


class Manifest(Section):
    schema_version: Literal[1] = 1
    backend: BackendName
    backend_version: str
    source: Source
    weights: Weights
    rebuildable: bool = True
    io: IO = IO()
    embedding: Embedding = Embedding()
    config: dict[str, Any] = {}
    head: str | None = None
    normalizer: dict[str, Any] = {}
    backend_state: dict[str, Any] = {}


def manifest_path(path: str | Path) -> Path:
    """The manifest.json that ``path`` means: the file itself, or the one in (the artifacts of) a folder."""
    path = Path(path)
    if path.suffix == ".model" and path.is_file():
        raise InputError(
            "is a pickled model, not a manifest: make a bundle of it with task: export, model_in: this file and "
            "model.trust_pickle: true",
            path,
        )
    for found in (path, path / "manifest.json", path / "artifacts" / "manifest.json"):
        if found.is_file():
            return found
    raise InputError("no such manifest.json, nor a folder with one", path)


def read_manifest(path: str | Path) -> Manifest:
    """A manifest whose files are there and have the digests that it states. Raises InputError otherwise."""
    path = manifest_path(path)
    manifest = check(Manifest, read_mapping(path), path)
    if not backend_of(manifest.backend).bundles:
        raise InputError(f"a manifest cannot be of backend {manifest.backend}: name the model itself", path, "backend")
    for key, part in (("source", manifest.source), ("weights", manifest.weights)):
        if part.path is None:
            continue
        file = path.parent / part.path
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise InputError("leads outside the manifest's folder", path, f"{key}.path")
        if not file.is_file():
            raise InputError(f"no such file: {file}", path, f"{key}.path")
        if (found := sha256_of(file)) != part.sha256:
            raise InputError(
                f"{part.path} has another digest ({found[:12]}...) than the manifest says ({part.sha256[:12]}...): "
                "the file was changed or is damaged",
                path,
                f"{key}.sha256",
            )
    return manifest


def model_json_of(path: Path, manifest: Manifest) -> Path:
    """The architecture's file beside the manifest ``path``; InputError where it lies outside or was changed."""
    model_json = path.parent / manifest.config.get("architecture", MODEL_JSON)
    if not model_json.resolve().is_relative_to(path.parent.resolve()):
        raise InputError("leads outside the manifest's folder", path, "config.architecture")
    stated = manifest.config.get("architecture_sha256")
    if model_json.is_file() and stated is not None and sha256_of(model_json) != stated:
        raise InputError(
            "model.json has another digest: the file was changed or is damaged", path, "config.architecture"
        )
    return model_json


def write_manifest(path: str | Path, manifest: Manifest) -> str:
    """Write atomically and return the digest, which is the model's name everywhere else."""
    data = (json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
    with atomic_write(path, "wb") as stream:
        stream.write(data)
    return hashlib.sha256(data).hexdigest()
