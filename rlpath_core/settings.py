"""Settings of this machine, which belong to no campaign: environment variables, else ``rlpath.toml``.

A setting ``fairchem_python`` is $RLPATH_FAIRCHEM_PYTHON, else the key ``fairchem_python`` of ``rlpath.toml`` in the
running Python environment (``sys.prefix``), else of ``~/.config/rlpath/rlpath.toml``. Paths are relative to their file.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from rlpath_core.errors import InputError

SUFFIX = "_python"
"""Every setting is the path of a Python, and is named after the environment that it belongs to."""


class Setting(NamedTuple):
    """A path, and the variable or the file and key that gave it."""

    path: Path
    where: str
    key: str


def variable_of(name: str) -> str:
    return f"RLPATH_{name.upper()}"


def files() -> list[Path]:
    """The settings files, whether they exist or not; the first that has a key decides."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return [Path(sys.prefix) / "rlpath.toml", home / "rlpath" / "rlpath.toml"]


def setting(name: str) -> Setting | None:
    """The value of a setting, None if it is set nowhere.

    Raises
    ------
    InputError
        If a settings file is not TOML, has an unknown key, or a value that is not a path.
    """
    variable = variable_of(name)
    if os.environ.get(variable):
        return Setting(Path(os.environ[variable]).expanduser(), "environment", variable)
    for file in files():
        if (value := _read(file).get(name)) is not None:
            return Setting(file.parent / Path(value).expanduser(), str(file), name)
    return None


def _read(file: Path) -> dict[str, str]:
    try:
        value = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as TOML: {error}", file) from error
    for key, entry in value.items():
        if not key.endswith(SUFFIX):
            raise InputError(f"unknown key: settings are called NAME{SUFFIX}, such as fairchem{SUFFIX}", file, key)
        if not isinstance(entry, str):
            raise InputError(f"expected a path, got {entry!r}", file, key)
    return value
