"""What every ``python -m flows.NAME`` shares: --params, one line per error, Prefect only where a server answers."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefect import Flow
from prefect.settings import get_current_settings

from rlpath_core.config import merge, read_mapping
from rlpath_core.errors import FatalError, InputError, TransientError, nearest

R = TypeVar("R")

PROBE_SECONDS = 1.0


def parser(name: str, description: str, params: bool = True) -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(prog=f"python -m flows.{name}", description=description)
    if not params:
        return out
    out.add_argument(
        "--params",
        action="append",
        nargs="+",
        default=[],
        metavar="FILE | JSON | KEY=VALUE",
        help="a YAML or JSON file, inline JSON, or key.sub=value; may be given again, later ones win",
    )
    return out


def params_of(arguments: argparse.Namespace) -> list[str]:
    return [text for group in arguments.params for text in group]


def server_url() -> str | None:
    """The address of the Prefect server if one is configured and answers at once."""
    url = get_current_settings().api.url
    if url is None:
        return None
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS) as answer:
            return url if answer.status == 200 else None
    except (urllib.error.URLError, OSError, ValueError):
        return None


def execute(flow: Flow[..., R], **parameters: Any) -> R:
    """Run a flow through Prefect where a server answers, else as the plain function: that starts at once."""
    if server_url() is None:
        return flow.fn(**parameters)
    return flow(**parameters)


def run_command(command: Callable[[], int | None]) -> int:
    """The exit code of ``command``: 2 and one line for bad input, 1 and one line for what cannot go on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
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
    """A path relative to the working directory, made absolute; InputError under the key ``must_exist`` if it is not
    there."""
    path = Path(value).expanduser().resolve()
    if must_exist is not None and not path.exists():
        raise InputError("no such file or folder", path, must_exist)
    return str(path)


def section(params: dict[str, Any], name: str, config: str | None) -> dict[str, Any]:
    """A config section: the file ``config`` (the section itself, or a mapping that has it), ``params[name]`` on top."""
    value = read_mapping(config) if config else {}
    value = value.get(name, value)
    if not isinstance(value, dict):
        raise InputError("expected a mapping of keys to values", config, name)
    return merge(value, params.get(name) or {})


def only(params: dict[str, Any], known: Sequence[str], where: str | Path | None) -> dict[str, Any]:
    """``params``; InputError for a key that is not ``known``."""
    for key in params:
        if key not in known:
            hint = nearest(key, known)
            raise InputError(f"unknown key.{hint} Known: {', '.join(known)}", where or "--params", key)
    return params


def show(result: dict[str, Any]) -> None:
    """The closing summary: one ``key: value`` a line."""
    for key, value in result.items():
        print(f"{key}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")
