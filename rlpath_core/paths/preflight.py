"""A config that is refused before a run makes its folder: names that nobody provides, options that they do not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlpath_core.config import check
from rlpath_core.errors import InputError
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.proposals import PROPOSALS
from rlpath_core.paths.searches import SEARCHES
from rlpath_core.registry import Registry


def check_config(config: PathsConfig, where: str | Path | None = None, prefix: str = "") -> None:
    """Every search and proposal that the config names is there and takes its options, and one search is drawn.

    Raises InputError with the key, which begins with ``prefix``, in the file ``where``.
    """
    named: list[tuple[str, Registry[Any], dict[str, dict[str, Any]]]] = [
        ("proposals", PROPOSALS, config.proposals),
        ("searches", SEARCHES, config.searches),
    ]
    weights = []
    for at, registry, entries in named:
        for name, given in entries.items():
            key = f"{prefix}{at}.{name}"
            try:
                options = check(registry[name].Options, given, "")
                if at == "searches":
                    registry[name](options)  # a package that it needs may not be installed here
            except InputError as error:
                below = "" if error.key is None else f".{error.key}"
                raise InputError(error.what, where, key + below) from error
            weights += [options.weight] * (at == "searches")
    if not any(weights):
        raise InputError("name at least one search with a weight above zero", where, f"{prefix}searches")
