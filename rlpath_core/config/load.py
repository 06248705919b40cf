"""Configs from files and from the command line: read, and laid over one another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlpath_core.config.base import S, Section, check
from rlpath_core.config.paths import located, remember
from rlpath_core.errors import InputError


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON file that holds one mapping, as it is written there. Raises InputError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", path) from error
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise InputError(f"not YAML: {getattr(error, 'problem', None) or error}", path, line) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"expected a mapping of keys to values, found {type(value).__name__}", path)
    return value


def read_layer(path: str | Path) -> dict[str, Any]:
    """A file as a layer to ``merge`` with others: its strings remember its folder, for ``located``."""
    found: dict[str, Any] = remember(read_mapping(path), Path(path).resolve().parent)
    return found


def read_section(path: str | Path, section: type[S]) -> S:
    """A file that holds one ``section``. Raises InputError."""
    return check(section, located(read_layer(path), section), path)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``: mappings are merged key by key, everything else is replaced."""
    out = dict(base)
    for key, value in over.items():
        known = out.get(key)
        out[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return out


def nested(path: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for the dotted path ``a.b``."""
    for key in reversed(path.split(".")):
        value = {key: value}
    found: dict[str, Any] = value
    return found


def parse_params(params: Iterable[str], section: type[Section] | None = None) -> tuple[dict[str, Any], Path | None]:
    """The values of ``--params`` merged from left to right.

    Parameters
    ----------
    params
        Each is the path of a YAML or JSON file, inline JSON, or ``key.sub=value``.
    section
        Declares which keys are paths: these become absolute, read against the folder of the file they stand in, else
        against the working directory. Without it all strings stay as they are.

    Returns
    -------
    mapping, source
        The merged mapping, and the last file that was named.

    Raises
    ------
    InputError
        For a file that cannot be read, and for what is neither a file nor JSON nor ``key=value``.
    """
    merged: dict[str, Any] = {}
    source: Path | None = None
    for text in params:
        if text.lstrip().startswith("{"):
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"not JSON: {error.msg} at character {error.pos}", "--params") from error
        elif "=" in text and not _is_file(text):
            key, _, raw = text.partition("=")
            try:
                value = nested(key.strip(), yaml.safe_load(raw))
            except yaml.YAMLError as error:
                raise InputError(f"not a YAML value: {raw!r}", "--params", key) from error
        else:
            source = Path(text)
            value = read_mapping(source) if section is None else read_layer(source)
        merged = merge(merged, value)
    return merged if section is None else located(merged, section), source


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def yaml_of(section: Section) -> str:
    """The YAML of a section with all its defaults, as it is written into run folders."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False)
