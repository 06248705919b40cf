"""YAML and JSON configs: read, merged with overrides, checked by pydantic, one clear line on error."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rlpath_core.errors import InputError, nearest


class Section(BaseModel):
    """Base of every config section: unknown keys are errors, values cannot change after."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


S = TypeVar("S", bound=Section)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A YAML or JSON file that holds one mapping."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", path) from error
    return _parse(text, path)


def _parse(text: str, where: str | Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise InputError(f"not YAML: {getattr(error, 'problem', None) or error}", where, line) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"expected a mapping of keys to values, found {type(value).__name__}", where)
    return value


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``: mappings merge key by key, everything else replaces."""
    out = dict(base)
    for key, value in over.items():
        known = out.get(key)
        out[key] = merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return out


def parse_params(params: Iterable[str], path_keys: Iterable[str] = ()) -> tuple[dict[str, Any], Path | None]:
    """``--params`` values (a YAML/JSON file, inline JSON, or ``key.sub=value``) merged left to right.

    Relative paths under ``path_keys`` become absolute: against the folder of the file they stand in,
    else against the working directory. Returns the merged mapping and the last file named.
    """
    path_keys = tuple(path_keys)
    merged: dict[str, Any] = {}
    source: Path | None = None
    for text in params:
        folder = Path.cwd()
        if text.lstrip().startswith("{"):
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"not JSON: {error.msg} at character {error.pos}", "--params") from error
        elif "=" in text and not _is_file(text):
            key, _, raw = text.partition("=")
            try:
                value = yaml.safe_load(raw)
            except yaml.YAMLError as error:
                raise InputError(f"not a YAML value: {raw!r}", "--params", key) from error
            for part in reversed(key.strip().split(".")):
                value = {part: value}
        else:
            source = Path(text)
            value = read_mapping(source)
            folder = source.resolve().parent
        merged = merge(merged, located(value, folder, path_keys))
    return merged, source


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def located(value: dict[str, Any], folder: Path, path_keys: Iterable[str]) -> dict[str, Any]:
    """``value`` with the paths (or lists of paths) under ``path_keys`` read relative to ``folder``.

    A key may lead into sections, ``train.config_yml``; ``*`` stands for every key of one.
    """

    def placed(path: Any) -> Any:
        if isinstance(path, list):
            return [placed(one) for one in path]
        try:
            return str((folder / Path(path).expanduser()).resolve()) if isinstance(path, str) else path
        except (OSError, RuntimeError, ValueError) as error:  # links in a ring, nobody's home, a null character
            raise InputError(f"not a path that leads anywhere: {error}", path) from error

    def at(section: Any, key: str) -> Any:
        first, _, rest = key.partition(".")
        if not isinstance(section, dict):
            return section
        names = [name for name in section if first in ("*", name)]
        return section | {name: at(section[name], rest) if rest else placed(section[name]) for name in names}

    for key in path_keys:
        value = at(value, key)
    return value


def check(model: type[S], value: dict[str, Any], where: str | Path) -> S:
    """``value`` as a ``model``; InputError names the file, the key's path, what is allowed and the nearest key."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # A misspelt key is the cause of the key that is then missing.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        path, raw = _place(first, value), [str(p) for p in first["loc"]]
        if first["type"] == "extra_forbidden":
            known = _keys_at(model, raw[:-1])
            hint = nearest(path[-1], known) + (f" Known: {', '.join(sorted(known))}" if known else "")
            raise InputError(f"unknown key.{hint}", where, ".".join(path)) from error
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] != "missing" and not isinstance(first["input"], dict):
            what += f", got {first['input']!r}"
        raise InputError(what, where, ".".join(path) or None) from error


def _place(error: Any, value: Any) -> list[str]:
    """The keys that lead to an error. A union's branches are in pydantic's ``loc`` too, and in no file."""
    path: list[str] = []
    for part in error["loc"]:
        if _has(value, part):
            value = value[part]
        elif error["type"] != "missing" or not isinstance(value, dict | list | tuple):
            continue
        path.append(str(part))
    return path


def _has(value: Any, part: int | str) -> bool:
    if isinstance(part, int):
        return isinstance(value, list | tuple) and part < len(value)
    return isinstance(value, dict) and part in value


def _keys_at(model: Any, path: list[str]) -> list[str]:
    """Field names of the section that ``path`` leads to, through optionals, lists and mappings."""
    at: list[Any] = [model]
    for part in path:
        step: list[Any] = []
        for one in at:
            if isinstance(one, type) and issubclass(one, BaseModel):
                known = one.model_fields.get(part)
                step += _members(known.annotation) if known else [one] if part == one.__name__ else []
            else:
                step += [m for a in typing.get_args(one) for m in _members(a)]
        at = step
    return [name for one in at if isinstance(one, type) and issubclass(one, BaseModel) for name in one.model_fields]


def _members(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [m for a in typing.get_args(annotation) for m in _members(a)]
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    return [annotation]
