"""Which Python runs a backend: MACE and FairChem need different versions of e3nn, so each has its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from rlpath_core import __version__
from rlpath_core.backends.registry import BackendEnvironment, backend_of
from rlpath_core.errors import InputError
from rlpath_core.settings import files, setting, variable_of

PROBE_SECONDS = 60


def environment_of(backend: str) -> BackendEnvironment:
    """Raises InputError for a backend that nobody knows."""
    return backend_of(backend).environment


def is_installed(backend: str) -> bool:
    """Whether this Python has what ``backend`` needs. Imports nothing of it."""
    environment = environment_of(backend)
    version = _version_here(environment.distribution)
    return version is not None and environment.version in (None, version)


def _version_here(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def interpreter_of(backend: str, given: str | Path | None = None) -> Path:
    """The Python to run ``backend`` with.

    Parameters
    ----------
    backend
        Name of a backend.
    given
        run.yaml's ``backend_python``. Without it the setting of the backend's environment decides (fairchem_python,
        mace_python), without that this Python is taken, if it has what the backend needs.

    Raises
    ------
    InputError
        If there is none, or if it lacks the backend, has another version of it, or lacks rlpath; it says what to run.
    """
    environment = environment_of(backend)
    if given is not None:
        return _checked(Path(given).expanduser(), environment, backend, "backend_python")
    named = None if environment.setting is None else setting(environment.setting)
    if named is not None:
        return _checked(named.path, environment, backend, named.key, named.where)
    if is_installed(backend):
        return Path(sys.executable)
    version = _version_here(environment.distribution) or "none"
    what = f"{backend} needs {_wanted(environment)}, and {sys.executable} has {version}: {environment.how_to_fix}"
    if environment.setting is not None:
        what += (
            f", or name a Python that has it with backend_python, ${variable_of(environment.setting)}, "
            f"or {environment.setting} in {files()[-1]}"
        )
    raise InputError(what, key="backend")


def _wanted(environment: BackendEnvironment) -> str:
    return f"{environment.distribution} {environment.version or ''}".strip()


def child_environment() -> dict[str, str]:
    """This process's environment for another interpreter, less what a backend has set in it for itself."""
    # mace sets it on import: in another process every torch.load that leaves weights_only out would run pickles.
    return {key: value for key, value in os.environ.items() if key != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}


def _checked(python: Path, environment: BackendEnvironment, backend: str, key: str, where: str | None = None) -> Path:
    fix = environment.how_to_fix
    if not python.is_file() or not os.access(python, os.X_OK):
        raise InputError(f"no such Python for {backend}: {python}; {fix}, or name one that exists", where, key)
    python = python.absolute()  # not resolve(): an environment's python is a link to the system's
    versions = _installed(python, environment.distribution)
    version = versions.get(environment.distribution)
    if version is None or environment.version not in (None, version):
        has = f"{version or 'no'} {environment.distribution}"
        raise InputError(f"{backend} needs {_wanted(environment)}, and {python} has {has}: {fix}", where, key)
    if "rlpath" not in versions:
        install = f"{python} -m pip install --no-deps rlpath=={__version__}"
        raise InputError(f"{python} has no rlpath: {install}, or {fix}", where, key)
    return python


def _installed(python: Path, distribution: str) -> dict[str, str]:
    """Versions of ``distribution`` and of rlpath, as far as ``python`` has them."""
    code = (
        "import json, sys; del sys.path[0]\n"
        "from importlib import metadata, util\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError: pass\n"
        "if util.find_spec('rlpath_core') is None: found.pop('rlpath', None)\n"
        "print(json.dumps(found))"
    )
    command = [str(python), "-c", code, distribution, "rlpath"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_SECONDS, env=child_environment(), check=True
        )
        found: dict[str, str] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        raise InputError(f"{python} does not run as a Python: {str(said).strip()[-300:]}") from error
    return found
