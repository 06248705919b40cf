"""What every command shares: flags made from config sections, ``--params``, one line per error.

A command is a ``Command``, which is called as ``main(argv)``. Its flags are the fields of config sections, so that each
key is declared once, with its type, limits and description.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import typing
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from rlpath_core.config import Section, check, located, merge, parse_params, read_layer
from rlpath_core.config.base import S, members, shorthand_fields
from rlpath_core.errors import FatalError, InputError, TransientError

if TYPE_CHECKING:
    from prefect import Flow
    from pydantic.fields import FieldInfo

R = TypeVar("R")

PROBE_SECONDS = 1.0
ALIASES = {"manifest": ("--model",)}
"""Further names of flags."""


@dataclass(frozen=True)
class Given:
    """What a command line gave: ``--params``, the file among them, and the flags, which lie on top."""

    params: dict[str, Any]
    flags: dict[str, Any]
    source: Path | None

    def of(self, section: type[Section], params: bool = True) -> dict[str, Any]:
        """The values of ``section``, paths made absolute; without ``params`` those of the flags alone."""
        fields = fields_of(section)
        flags = {key: value for key, value in self.flags.items() if key in fields}
        return (self.params if params else {}) | located(flags, section)

    def checked(self, section: type[S], params: bool = True) -> S:
        """The same as a ``section``. Raises InputError."""
        value, fields = self.of(section, params), section.model_fields
        missing = [key for key, field in fields.items() if field.is_required() and key not in value]
        if missing and set(value) <= set(fields):  # a misspelt key is the cause of the key that is then missing
            raise InputError(f"--{missing[0]} is required", self.source)
        return check(section, value, self.source or ("--params" if self.params else "command line"))


@dataclass(frozen=True)
class Command:
    """A command line, called with its arguments; returns the exit code.

    Parameters
    ----------
    name
        What follows ``rlpath``.
    summary
        The first line of ``--help``.
    act
        Does the work; what it returns, or 0, is the exit code.
    params
        The section whose keys ``--params`` takes. None: the keys of another file, or no ``--params`` at all.
    flags
        Those of its fields that are flags too. None: all but sections.
    own
        A section whose fields are flags only.
    positional
        The field of ``own`` that is given without its name.
    overrides
        Whether ``--params`` takes the keys of another file.
    """

    name: str
    summary: str
    act: Callable[[Given], int | None]
    params: type[Section] | None = None
    flags: Sequence[str] | None = None
    own: type[Section] | None = None
    positional: str | None = None
    overrides: bool = False

    def parser(self) -> argparse.ArgumentParser:
        out = argparse.ArgumentParser(prog=f"rlpath {self.name}", description=self.summary, allow_abbrev=False)
        if self.params is not None or self.overrides:
            out.add_argument(
                "--params",
                action="extend",
                nargs="+",
                default=[],
                metavar="FILE | JSON | KEY=VALUE",
                help="a YAML or JSON file, inline JSON, or key.sub=value; may be given again, later ones win",
            )
        for section, names in ((self.own, None), (self.params, self.flags)):
            for name, field in (fields_of(section) if section is not None else {}).items():
                if names is None or name in names:
                    add_flag(out, name, field, positional=name == self.positional)
        return out

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        arguments = vars(self.parser().parse_args(argv))
        words = arguments.pop("params", [])
        flags = {name: value for name, value in arguments.items() if value is not None}

        def command() -> int | None:
            params, source = parse_params(words, self.params)
            return self.act(Given(params, flags, source))

        return run_command(command)


def fields_of(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields of a section and its shorthands, by key."""
    fields = section.model_fields | shorthand_fields(section)
    return {field.alias or name: field for name, field in fields.items()}


def add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo, positional: bool = False) -> None:
    """The flag of one field of a section; none for a section or a mapping. The value is checked with the section."""
    kinds = [kind for kind in members(field.annotation) if kind is not type(None)]
    choices = [value for kind in kinds if typing.get_origin(kind) is Literal for value in typing.get_args(kind)]
    scalars = [kind for kind in kinds if kind in (str, int, float, bool, Path) or typing.get_origin(kind) is list]
    if not scalars and not choices:
        return
    options: dict[str, Any] = {"help": (field.description or "").replace("``", "`").replace("%", "%%")}
    if not field.is_required() and field.default not in (None, False, []):
        options["help"] += f" (default: {field.default})"
    if scalars == [bool]:
        options |= {"action": "store_true", "default": None}
    else:
        text = bool(choices) or any(kind in (str, Path) for kind in scalars)
        options |= {"type": str if text else _value, "choices": choices if choices and not scalars else None}
        if any(typing.get_origin(kind) is list for kind in scalars):
            options |= {"type": str, "nargs": "+", "action": "extend"}
        if not options["choices"]:
            options["metavar"] = "PATH" if Path in scalars else "N" if int in scalars else name.upper()
    if positional:
        options |= {} if field.is_required() else {"nargs": "?"}
        parser.add_argument(name, **options)
    else:
        parser.add_argument(f"--{name}", *ALIASES.get(name, ()), **options)


def _value(text: str) -> Any:
    """A number or null as YAML has it; anything else stays text, for the section to refuse."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def server_url() -> str | None:
    """The address of the Prefect server if one is configured and answers at once."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        return None
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS) as answer:
            return url if answer.status == 200 else None
    except (urllib.error.URLError, OSError, ValueError):
        return None


def execute(flow: Flow[..., R], here: Callable[[], R] | None = None, **parameters: Any) -> R:
    """Run a flow through Prefect if a server answers, else as the plain function, which starts at once.

    ``here`` is the flow's work on parameters that are parsed already; without a server it is all that is called.
    """
    if server_url() is not None:
        return flow(**parameters)
    return flow.fn(**parameters) if here is None else here()


def run_command(command: Callable[[], int | None]) -> int:
    """The exit code of ``command``: 2 and one line for bad input, 1 and one line for other failures."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("rlpath").setLevel(logging.INFO)  # Prefect's import sets the root logger to warnings
    try:
        return command() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TransientError as error:
        print(f"error: {error} (the same command may succeed later)", file=sys.stderr)
        return 1
    except FatalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def absolute(value: str | Path, must_exist: str | None = None) -> str:
    """A path relative to the working directory, made absolute.

    Raises InputError under the key ``must_exist`` if nothing is there.
    """
    path = Path(value).expanduser().resolve()
    if must_exist is not None and not path.exists():
        raise InputError("no such file or folder", path, must_exist)
    return str(path)


def layered(section: type[Section], name: str, config: Path | None, over: Section) -> dict[str, Any]:
    """The keys of a section: the file ``config`` (the section itself, or a mapping that has it as ``name``), and on top
    what ``over`` was given. Raises InputError for a wrong key or value."""
    value = {} if config is None else read_layer(config)
    value = value.get(name, value)
    if not isinstance(value, dict):
        raise InputError("expected a mapping of keys to values", config, name)
    value = located(merge(value, over.model_dump(mode="json", exclude_unset=True)), section)
    check(section, value, config or "--params")
    return value


def show(result: dict[str, Any]) -> None:
    """The closing summary: one ``key: value`` a line."""
    for key, value in result.items():
        print(f"{key}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")
