"""FairChem checkpoints made into bundles from any environment: here where FairChem is, else by a process of its own.

python -m rlpath_core.backends.fairchem.convert GIVEN FOLDER --backend NAME [--weights FILE] [--config JSON] [--file]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlpath_core.backends.environments import child_environment, interpreter_of, is_installed
from rlpath_core.backends.manifest import MANIFEST, read_manifest
from rlpath_core.errors import FatalError, InputError
from rlpath_core.files import sha256_of

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
    command = [
        str(interpreter_of(backend, python)),
        "-m",
        "rlpath_core.backends.fairchem.convert",
        str(given.absolute()),
        str(folder.absolute()),
    ]
    command += ["--backend", backend, "--config", json.dumps(dict(config or {})), *(["--file"] if file else [])]
    command += [] if weights is None else ["--weights", str(weights.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
    try:
        found = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        raise FatalError(f"{given} could not be converted: {done.stderr.strip()[-500:]}") from None
    if "error" in found:
        raise InputError(*found["error"])
    return Path(found["manifest"]), found["digest"]


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


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("given", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--backend", required=True)
    arguments.add_argument("--weights", type=Path)
    arguments.add_argument("--config", type=json.loads, default={})
    arguments.add_argument("--file", action="store_true")
    asked = arguments.parse_args()
    try:
        manifest, digest = _convert(asked.given, asked.folder, asked.backend, asked.weights, asked.config, asked.file)
        answer: dict[str, Any] = {"manifest": str(manifest), "digest": digest}
    except InputError as error:
        answer = {"error": [error.what, error.where, error.key]}
    print(json.dumps(answer))
    return 2 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
