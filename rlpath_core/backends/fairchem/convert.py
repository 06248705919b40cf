"""FairChem checkpoints made into bundles from any environment: here if FairChem is installed, else by a process there.

Run as a module this is that process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpath_core.backends.environments import child_environment, interpreter_of, is_installed
from rlpath_core.backends.manifest import MANIFEST, read_manifest
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.process.child import Child
from rlpath_core.process.worker import Call, serve

FAIRCHEM_FILE = "fairchem.pt"
"""Beside an export: the same model as a checkpoint that FairChem's own programs take."""


def is_checkpoint(path: Path) -> bool:
    return path.suffix == ".pt" and path.is_file()


def imported(
    given: Path,
    folder: Path,
    *,
    backend: str,
    weights: Path | None = None,
    config: Mapping[str, Any] | None = None,
    file: bool = False,
    python: str | None = None,
) -> tuple[Path, str]:
    """A bundle in ``folder`` of ``given``, a FairChem ``.pt`` or another bundle; its manifest and digest.

    weights  a state_dict in place of the bundle's own
    config   what more the manifest's ``config`` says
    file     write fairchem.pt too
    python   FairChem's interpreter, where it is not this one
    A folder that holds the bundle of this very checkpoint already is returned as it is. Raises InputError.
    """
    if not file and is_checkpoint(given) and (folder / MANIFEST).is_file():
        source = read_manifest(folder).source
        if source.sha256 == sha256_of(given):
            return folder / MANIFEST, sha256_of(folder / MANIFEST)
        raise InputError("holds the bundle of another model: choose another folder", folder)
    if is_installed(backend):
        return _convert(given, folder, backend, weights, dict(config or {}), file)
    header = {
        "given": str(given.absolute()),
        "folder": str(folder.absolute()),
        "backend": backend,
        "weights": None if weights is None else str(weights.absolute()),
        "config": dict(config or {}),
        "file": file,
    }
    command = [str(interpreter_of(backend, python)), "-m", "rlpath_core.backends.fairchem.convert"]
    with Child(command, f"the conversion of {given}", env=child_environment()) as child:
        answer, _ = child.ask("convert", header)
    return Path(answer["manifest"]), answer["digest"]


def _convert(
    given: Path, folder: Path, backend: str, weights: Path | None, config: dict[str, Any], file: bool
) -> tuple[Path, str]:
    from rlpath_core.backends.fairchem.bundle import export_bundle, export_checkpoint, write_checkpoint

    if is_checkpoint(given):
        manifest, digest = export_checkpoint(given, folder, backend=backend, config=config)
    else:
        manifest, digest = export_bundle(given, folder, backend=backend, weights=weights, config=config)
    if file:
        write_checkpoint(manifest, folder / FAIRCHEM_FILE)
    return manifest, digest


def convert(call: Call) -> dict[str, str]:
    """`imported` in FairChem's environment."""
    given, folder, weights = (call.header[key] and Path(call.header[key]) for key in ("given", "folder", "weights"))
    backend, config, file = (call.header[key] for key in ("backend", "config", "file"))
    manifest, digest = _convert(given, folder, backend, weights, config, file)
    return {"manifest": str(manifest), "digest": digest}


if __name__ == "__main__":
    serve({"convert": convert})
