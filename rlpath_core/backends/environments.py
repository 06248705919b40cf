"""Which Python runs a backend: MACE and FairChem need different versions of e3nn, so each has its own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from rlpath_core.backends.registry import BackendEnvironment, backend_of
from rlpath_core.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
PROBE_SECONDS = 60


def environment_of(backend: str) -> BackendEnvironment:
    """Raises InputError for a backend that nobody knows."""
    return backend_of(backend).environment


def default_python(environment: BackendEnvironment) -> Path:
    """The Python of the environment that `make` builds; this one for a backend that has none of its own."""
    return Path(sys.executable) if environment.folder is None else REPOSITORY / environment.folder / "bin" / "python"


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

    ``given`` (run.yaml's ``backend_python``), else $RLPATH_FAIRCHEM_PYTHON or $RLPATH_MACE_PYTHON, else this one where
    it has what the backend needs, else the environment that ``make`` builds. InputError says what to run where there
    is none, or where it lacks the backend, has another version of it, or lacks rlpath.
    """
    environment = environment_of(backend)
    if given is not None:
        return _checked(Path(given).expanduser(), environment, backend, "backend_python")
    if environment.variable is not None and os.environ.get(environment.variable):
        return _checked(Path(os.environ[environment.variable]).expanduser(), environment, backend, environment.variable)
    if is_installed(backend):
        return Path(sys.executable)
    default = default_python(environment)
    if not default.exists():
        other = _version_here(environment.distribution)
        has = f"{environment.distribution} {other}, not {environment.version}"
        not_this = "" if other is None else f"; {sys.executable} has {has}"
        raise InputError(
            f"{backend} has an environment of its own, and there is none in {default.parents[1]}{not_this}: "
            f"{environment.how_to_fix}, or name another Python with backend_python or ${environment.variable}",
            key="backend",
        )
    return _checked(default, environment, backend, "backend")


def child_environment() -> dict[str, str]:
    """This process's environment for another interpreter, less what a backend has set in it for itself."""
    # mace sets it on import: in another process every torch.load that leaves weights_only out would run pickles.
    return {key: value for key, value in os.environ.items() if key != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}


def _checked(python: Path, environment: BackendEnvironment, backend: str, key: str) -> Path:
    if not python.is_file() or not os.access(python, os.X_OK):
        raise InputError(
            f"no such Python for {backend}: {python}; {environment.how_to_fix}, or name one that is there", key=key
        )
    python = python.absolute()  # not resolve(): an environment's python is a link to the system's
    found = _installed(python, environment.distribution)
    version = found.get(environment.distribution)
    if version is None or environment.version not in (None, version):
        wanted = (
            f"{environment.distribution} {environment.version}" if environment.version else environment.distribution
        )
        has = "no" if version is None else version
        raise InputError(
            f"{backend} needs {wanted}, and {python} has {has} {environment.distribution}: {environment.how_to_fix}",
            key=key,
        )
    if "rlpath" not in found:
        raise InputError(
            f"{python} has no rlpath: {python} -m pip install --no-deps --editable {REPOSITORY}, "
            f"or {environment.how_to_fix}",
            key=key,
        )
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
