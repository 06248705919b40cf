"""Which Python a backend lives in: e3nn keeps MACE and FairChem apart, so that each has an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rlpath_core.backends.fairchem import environment as fairchem
from rlpath_core.errors import InputError, nearest

REPOSITORY = Path(__file__).resolve().parents[2]
PROBE_SECONDS = 60


@dataclass(frozen=True)
class Home:
    """Where a backend is at home. ``version``: the only one that will do, where that is so."""

    distribution: str
    variable: str
    folder: str
    mend: str
    version: str | None = None

    @property
    def default(self) -> Path:
        """The Python of the environment that make builds."""
        return REPOSITORY / self.folder / "bin" / "python"


MACE = Home("mace-torch", "RLPATH_MACE_PYTHON", ".venv", "run `make setup`")
FAIRCHEM = Home(
    fairchem.DISTRIBUTION, "RLPATH_FAIRCHEM_PYTHON", ".venv-fairchem", fairchem.MEND, version=fairchem.VERSION
)
HOMES = {"mace": MACE} | dict.fromkeys(fairchem.BACKENDS, FAIRCHEM)


def home_of(backend: str) -> Home:
    """Raises InputError for a backend that nobody knows."""
    if backend not in HOMES:
        raise InputError(
            f"no backend {backend!r}; there are {', '.join(HOMES)}.{nearest(backend, HOMES)}", key="backend"
        )
    return HOMES[backend]


def is_here(backend: str) -> bool:
    """Whether this interpreter has what ``backend`` needs. Imports nothing of it."""
    home = home_of(backend)
    found = _version_here(home.distribution)
    return found is not None and home.version in (None, found)


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
    home = home_of(backend)
    if given is not None:
        return _checked(Path(given).expanduser(), home, backend, "backend_python")
    if os.environ.get(home.variable):
        return _checked(Path(os.environ[home.variable]).expanduser(), home, backend, home.variable)
    if is_here(backend):
        return Path(sys.executable)
    if not home.default.exists():
        other = _version_here(home.distribution)
        not_this = "" if other is None else f"; {sys.executable} has {home.distribution} {other}, not {home.version}"
        raise InputError(
            f"{backend} has an environment of its own, and there is none in {home.default.parents[1]}{not_this}: "
            f"{home.mend}, or name another Python with backend_python or ${home.variable}",
            key="backend",
        )
    return _checked(home.default, home, backend, "backend")


def child_environment() -> dict[str, str]:
    """This process's environment for another interpreter, less what a backend has set in it for itself."""
    # mace sets it on import: in another process every torch.load that leaves weights_only out would run pickles.
    return {key: value for key, value in os.environ.items() if key != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}


def _checked(python: Path, home: Home, backend: str, key: str) -> Path:
    if not python.is_file() or not os.access(python, os.X_OK):
        raise InputError(f"no such Python for {backend}: {python}; {home.mend}, or name one that is there", key=key)
    python = python.absolute()  # not resolve(): an environment's python is a link to the system's
    found = _installed(python, home.distribution)
    version = found.get(home.distribution)
    if version is None or home.version not in (None, version):
        wanted = f"{home.distribution} {home.version}" if home.version else home.distribution
        has = "no" if version is None else version
        raise InputError(f"{backend} needs {wanted}, and {python} has {has} {home.distribution}: {home.mend}", key=key)
    if "rlpath" not in found:
        raise InputError(
            f"{python} has no rlpath: {python} -m pip install --no-deps --editable {REPOSITORY}, or {home.mend}",
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
