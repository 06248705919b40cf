"""Paths in configs, known by their annotation: ``Path`` and ``ModelReference``, alone, optional, in lists or mappings.

A relative path belongs to the file it stands in; one from the command line, to the working directory.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from rlpath_core.config.base import Section, changed_at, is_section, members, shorthand_fields
from rlpath_core.errors import InputError

CALCULATOR = "ase:"


class _Reference:
    """Marks a string as a path unless it names a calculator."""


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


ModelReference = Annotated[str, BeforeValidator(_text), _Reference()]
"""A model: the path of a manifest or of its folder, or ``ase:package.module.Class(key=value, ...)``."""


def is_path(reference: str | Path) -> bool:
    """Whether a model reference is a path, and not the name of a calculator.

    >>> is_path("models/starter/manifest.json"), is_path("ase:ase.calculators.emt.EMT")
    (True, False)
    """
    return not str(reference).startswith(CALCULATOR)


class Text(str):
    """A string of a config that remembers the folder which a relative path in it belongs to."""

    folder: Path


def remember(value: Any, folder: Path) -> Any:
    """``value`` with every string inside as a ``Text`` of ``folder``; those that are one already stay as they are."""
    if isinstance(value, dict):
        return {key: remember(entry, folder) for key, entry in value.items()}
    if isinstance(value, list):
        return [remember(entry, folder) for entry in value]
    if isinstance(value, str) and not isinstance(value, Text):
        value = Text(value)
        value.folder = folder
    return value


def located(value: Mapping[str, Any], section: type[Section], folder: Path | None = None) -> dict[str, Any]:
    """``value`` with absolute paths, each read against the folder that its string remembers, else against ``folder``.

    Parameters
    ----------
    value
        A mapping as it was read; keys that ``section`` does not have are left to ``check``.
    section
        Declares which keys are paths.
    folder
        For strings that remember none; the working directory if not given.

    Raises
    ------
    InputError
        For what cannot be a path.
    """
    return _section(dict(value), section, (folder or Path.cwd()).resolve())


def _section(value: dict[str, Any], section: type[Section], folder: Path) -> dict[str, Any]:
    for key, one in section.chosen(value).items():
        value = changed_at(value, key, functools.partial(_placed, annotation=one, folder=folder))
    fields = section.model_fields | shorthand_fields(section)
    out = {}
    for key, entry in value.items():
        field = fields.get(section.renamed.get(key, key))
        annotation: Any = None if field is None else field.annotation
        if field is not None and any(map(refers, field.metadata)):
            annotation = ModelReference
        out[key] = _placed(entry, annotation, folder)
    return out


def _placed(value: Any, annotation: Any, folder: Path) -> Any:
    kinds = members(annotation)
    if isinstance(value, str):
        if Path in kinds or (refers(annotation) and is_path(value)):
            return _absolute(value, getattr(value, "folder", folder))
        return str(value)
    if isinstance(value, Path):
        return _placed(str(value), annotation, folder)
    if isinstance(value, dict):
        sections = [kind for kind in kinds if is_section(kind)]
        for section in sections:
            value = _section(value, section, folder)
        if not sections:
            inner = next((typing.get_args(k)[1] for k in kinds if typing.get_origin(k) is dict), None)
            value = {key: _placed(entry, inner, folder) for key, entry in value.items()}
        return value
    if isinstance(value, list):
        inner = next((typing.get_args(k)[0] for k in kinds if typing.get_origin(k) in (list, tuple)), None)
        return [_placed(entry, inner, folder) for entry in value]
    return value


def refers(annotation: Any) -> bool:
    """Whether a union of annotations has a model reference among its members."""
    if isinstance(annotation, _Reference):
        return True
    if typing.get_origin(annotation) is typing.Annotated:
        return any(isinstance(mark, _Reference) for mark in annotation.__metadata__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(refers(one) for one in typing.get_args(annotation))
    return False


def _absolute(path: str, folder: Path) -> str:
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a ring, nobody's home, a null character
        raise InputError(f"not a path that leads anywhere: {error}", str(path)) from error
