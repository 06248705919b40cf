"""A reference page (Markdown) and a JSON schema for a config file, made from the sections that check it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from rlpath_core.config.base import Section, is_section, members, shorthand_fields
from rlpath_core.config.paths import refers

HEADER = "| key | value | default | meaning |\n|---|---|---|---|"


@dataclass(frozen=True)
class ConfigFile:
    """A kind of config file.

    Parameters
    ----------
    name
        The name of the page and of the schema.
    section
        Checks the file.
    introduction
        The head of the page; its first line is the title.
    choices
        Sections among which another key chooses, by the dotted path of the key they stand at, then by what is chosen:
        ``{"train": {"mace": MaceTraining, ...}}``.
    entries
        Sections of the known entries of a mapping, by its dotted path, then by the entry's name.
    pages
        Sections that have a page of their own, by their key.
    several
        A key that may hold a list of such configs, each with a ``name``, in place of one config.
    replaced
        Required keys that a file may leave out, because they are filled in or the shorthand replaces them.
    """

    name: str
    section: type[Section]
    introduction: str
    choices: Mapping[str, Mapping[str, type[Section]]] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, type[Section]]] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    several: str | None = None
    replaced: tuple[str, ...] = ()


class Key(NamedTuple):
    """A key that takes a value: its dotted path and its field."""

    path: str
    field: FieldInfo


class Table(NamedTuple):
    """The keys of one section; ``choice`` is what chooses it, "" for nothing."""

    path: str
    choice: str
    section: type[Section]
    keys: list[Key]


def keys(file: ConfigFile) -> list[Key]:
    """Every key of a file, those of all choices included."""
    return [key for table in tables(file) for key in table.keys]


def tables(file: ConfigFile) -> Iterator[Table]:
    """The sections of a file, in the order in which they are declared."""
    yield from _tables(file, file.section, "", "")


def _tables(file: ConfigFile, section: type[Section], path: str, choice: str) -> Iterator[Table]:
    own: list[Key] = []
    inner: list[tuple[type[Section], str, str]] = []
    for name, declared in (section.model_fields | shorthand_fields(section)).items():
        at = f"{path}.{name}".lstrip(".")
        section_at, below = _section_of(declared)
        if at in file.choices:
            inner += [(one, at, chosen) for chosen, one in file.choices[at].items()]
        elif at in file.entries:
            own.append(Key(at, declared))
            inner += [(one, f"{at}.{entry}", "") for entry, one in file.entries[at].items()]
        elif section_at is None or at in file.pages:
            own.append(Key(at, declared))
        else:
            inner.append((section_at, f"{at}{below}", ""))
    if own:
        yield Table(path, choice, section, own)
    for one, at, chosen in inner:
        yield from _tables(file, one, at, chosen)


def _section_of(declared: FieldInfo) -> tuple[type[Section] | None, str]:
    """The section behind a field, and what stands between the two in a path: ``.NAME`` for a mapping of sections."""
    for member in members(declared.annotation):
        if is_section(member):
            return member, ""
        if typing.get_origin(member) is dict and is_section(typing.get_args(member)[1]):
            return typing.get_args(member)[1], ".NAME"
    return None, ""


def meaning(file: ConfigFile, key: Key) -> str:
    """The description of a key, as one line of Markdown."""
    if key.path in file.pages:
        return f"See [{file.pages[key.path]}]({file.pages[key.path]})."
    return " ".join((key.field.description or "").replace("``", "`").split())


def page(file: ConfigFile, command: str) -> str:
    """The reference page. ``command`` writes it, as its head says."""
    title, _, about = file.introduction.strip().partition("\n")
    out = [f"# {title}\n", f"Written by `{command}` from the code that checks the file; do not edit.\n", about.strip()]
    for table in tables(file):
        if table.path:
            out += [f"\n## {table.path}{f' ({table.choice})' if table.choice else ''}\n"]
            out += [" ".join((table.section.__doc__ or "").replace("``", "`").split())]
        out += [f"\n{HEADER}"]
        for path, declared in table.keys:
            value = f"{_kind(declared.annotation, declared)}{_limits(declared)}"
            out += [f"| `{path}` | {value} | {_default(declared)} | {meaning(file, Key(path, declared))} |"]
    return "\n".join(out) + "\n"


def _kind(annotation: Any, declared: FieldInfo | None = None) -> str:
    """How a YAML value of this type is written."""
    if refers(annotation) or (declared is not None and any(refers(mark) for mark in declared.metadata)):
        return "model"
    if annotation is type(None):
        return "null"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is typing.Literal:
        return " / ".join(str(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " / ".join(dict.fromkeys(_kind(one) for one in inner if one is not type(None)))
    if origin in (list, tuple):
        return f"list of {_kind(inner[0])}"
    if origin is dict or is_section(annotation):
        return "mapping"
    names = {Path: "path", bool: "true / false", int: "integer", float: "number", str: "text", Any: "any value"}
    return names.get(annotation, str(annotation))


def _limits(declared: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    marks = [*declared.metadata]
    for member in typing.get_args(declared.annotation) or ():
        marks += [m for mark in getattr(member, "__metadata__", ()) for m in getattr(mark, "metadata", [mark])]
    return "".join(
        f", {sign} {getattr(mark, name):g}"
        for mark in marks
        for name, sign in signs.items()
        if getattr(mark, name, None) is not None
    )


def _default(declared: FieldInfo) -> str:
    if declared.is_required():
        return "required"
    value = declared.get_default(call_default_factory=True, validated_data={})
    return "" if isinstance(value, Section) else _yaml(value)


def _yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(entry)}" for key, entry in value.items()) + "}"
    return str(value)


def schema(file: ConfigFile) -> dict[str, Any]:
    """The JSON schema by which an editor completes and checks a file.

    If another key chooses a section, the keys of every choice are accepted.
    """
    out = file.section.model_json_schema()
    definitions = out.setdefault("$defs", {})

    def reference(section: type[Section]) -> dict[str, Any]:
        part = section.model_json_schema()
        definitions.update(part.pop("$defs", {}))
        definitions[section.__name__] = part
        return {"$ref": f"#/$defs/{section.__name__}"}

    if file.section.shorthand is not None:
        reference(file.section.shorthand)
        out["properties"] |= definitions.pop(file.section.shorthand.__name__)["properties"]
    out["required"] = [key for key in out.get("required", []) if key not in file.replaced]
    for path, choices in file.choices.items():
        at = _at(out, path.split("."))
        kept = {key: at[key] for key in ("description", "default") if key in at}
        at.clear()
        at |= kept | {"anyOf": [reference(section) for section in dict.fromkeys(choices.values())]}
    for path, entries in file.entries.items():
        at = _at(out, path.split("."))
        named = {name: {"anyOf": [reference(one), {"type": ["null", "boolean"]}]} for name, one in entries.items()}
        kept = {key: at[key] for key in ("description", "default") if key in at}
        at.clear()
        at |= kept | {"anyOf": [{"type": "object", "properties": named}, {"type": "array"}]}
    if file.several is not None:
        one = {"properties": {"name": {"type": "string"}} | out.pop("properties"), "type": "object"}
        one |= {"required": out.pop("required"), "additionalProperties": out.pop("additionalProperties")}
        definitions[file.section.__name__] = one
        this = {"$ref": f"#/$defs/{file.section.__name__}"}
        many = {"type": "object", "properties": {file.several: {"type": "array", "items": this}}}
        out["anyOf"] = [many | {"required": [file.several], "additionalProperties": False}, this]
        out.pop("type")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **out}


def _at(root: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """The part of a schema that describes the key at ``path``; ``NAME`` stands for any key of a mapping."""
    at = root
    for name in path:
        while "$ref" in at:
            at = root["$defs"][at["$ref"].rpartition("/")[2]]
        at = at["additionalProperties"] if name == "NAME" else at["properties"][name]
    return at
