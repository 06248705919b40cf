"""``Section``, the base of every config section, and ``check``: a mapping becomes a section or a one-line error.

A key is described by the string under its field. pydantic keeps it as the field's description, so that the reference
pages (``rlpath_core.config.reference``) and the JSON schemas are made from the declaration itself.
"""

from __future__ import annotations

import functools
import logging
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from rlpath_core.errors import InputError, nearest

logger = logging.getLogger("rlpath.config")


class Section(BaseModel):
    """Base of every config section: unknown keys are errors, and values cannot change after the check."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    renamed: ClassVar[Mapping[str, str]] = {}
    """Old names of keys and their new ones. An old name is accepted for one version, with a line in the log."""
    hints: ClassVar[Mapping[str, str]] = {}
    """What the error says about keys that this section does not have, in place of "unknown key"."""
    shorthand: ClassVar[type[Section] | None] = None
    """Keys that a file may also hold; whoever reads the file expands them before the check."""

    @classmethod
    def chosen(cls, value: Mapping[str, Any]) -> dict[str, type[Section]]:
        """Sections whose class depends on ``value``, by their key: ``{"train": MaceTraining}`` for backend mace.

        A key may lead through mappings: ``backends.mace``. A name that nobody knows is left to the field's own check.
        """
        return {}

    @model_validator(mode="before")
    @classmethod
    def _before_the_fields(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for old, new in cls.renamed.items():
            if old in value:
                if new in value:
                    raise ValueError(f"{old} is the old name of {new}: give {new} alone")
                _report_renamed(cls.__name__, old, new)
                value = {new if key == old else key: entry for key, entry in value.items()}
        for key, section in cls.chosen(value).items():
            value = changed_at(value, key, functools.partial(part, section, key=key))
        return value


S = TypeVar("S", bound=Section)


@functools.cache
def _report_renamed(section: str, old: str, new: str) -> None:
    logger.warning("%s: the key %s is now called %s; the old name is accepted in this version only", section, old, new)


def changed_at(value: dict[str, Any], path: str, change: typing.Callable[[Any], Any]) -> dict[str, Any]:
    """A copy of ``value`` with ``change`` applied to the entry that the dotted ``path`` leads to, if there is one."""
    first, _, rest = path.partition(".")
    if first not in value or (rest and not isinstance(value[first], dict)):
        return value
    return value | {first: changed_at(value[first], rest, change) if rest else change(value[first])}


def check(section: type[S], value: Mapping[str, Any], where: str | Path) -> S:
    """``value`` as a ``section``.

    Parameters
    ----------
    section
        The class that declares the keys.
    value
        The mapping as it was read; entries that are sections already are taken as they are.
    where
        The file, or the command-line option, that ``value`` came from.

    Raises
    ------
    InputError
        Names ``where``, the key's path, what is allowed, and for an unknown key the nearest known one.
    """
    try:
        return section.model_validate(value)
    except ValidationError as error:
        # A misspelt key is the cause of the key that is then missing.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        path, raw = _place(first, value), [str(p) for p in first["loc"]]
        if first["type"] == "part":
            context = first["ctx"]
            raise InputError(context["what"], where, ".".join([*path, *context["path"]])) from error
        if first["type"] == "extra_forbidden":
            raise InputError(_unknown(section, raw), where, ".".join(path)) from error
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] != "missing" and not isinstance(first["input"], dict):
            what += f", got {first['input']!r}"
        raise InputError(what, where, ".".join(path) or None) from error


def part(section: type[S], value: Any, key: str) -> S:
    """``check`` for use inside a validator: the error keeps its place below ``key`` of the section being checked."""
    if isinstance(value, section):
        return value
    if not isinstance(value, dict):
        raise wrong(key, f"expected a mapping of keys to values, got {value!r}")
    try:
        return check(section, value, "")
    except InputError as error:
        raise wrong(key if error.key is None else f"{key}.{error.key}", error.what) from error


def wrong(key: str, what: str) -> PydanticCustomError:
    """The error that a validator raises about ``key``, a dotted path below the section that it belongs to."""
    return PydanticCustomError("part", "{what}", {"what": what, "path": key.split(".")})


def _unknown(section: type[Section], path: list[str]) -> str:
    """What to say about an unknown key."""
    sections = list(_sections_at(section, path[:-1]))
    for one in sections:
        if path[-1] in one.hints:
            return one.hints[path[-1]]
    known = sorted({key for one in sections for key in (*one.model_fields, *shorthand_fields(one))})
    return f"unknown key.{nearest(path[-1], known)}" + (f" Known: {', '.join(known)}" if known else "")


def shorthand_fields(section: type[Section]) -> dict[str, Any]:
    """The fields of ``section.shorthand``."""
    return {} if section.shorthand is None else section.shorthand.model_fields


def _place(error: Any, value: Any) -> list[str]:
    """The keys that lead to an error. A union's branches are in pydantic's ``loc`` too, and in no file."""
    path: list[str] = []
    for key in error["loc"]:
        if _has(value, key):
            value = value[key]
        elif error["type"] != "missing" or not isinstance(value, dict | list | tuple):
            continue
        path.append(str(key))
    return path


def _has(value: Any, key: int | str) -> bool:
    if isinstance(key, int):
        return isinstance(value, list | tuple) and key < len(value)
    return isinstance(value, dict) and key in value


def _sections_at(section: type[Section], path: list[str]) -> Iterator[type[Section]]:
    """The sections that ``path`` leads to, through optionals, lists and mappings."""
    at: list[Any] = [section]
    for key in path:
        step: list[Any] = []
        for one in at:
            if is_section(one):
                known = one.model_fields.get(key)
                step += members(known.annotation) if known else [one] if key == one.__name__ else []
            else:
                step += [m for a in typing.get_args(one) for m in members(a)]
        at = step
    yield from (one for one in at if is_section(one))


def is_section(annotation: Any) -> typing.TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def members(annotation: Any) -> list[Any]:
    """The types that a value of ``annotation`` may have: a union's members, without their metadata."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [m for a in typing.get_args(annotation) for m in members(a)]
    if typing.get_origin(annotation) is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    return [annotation]
