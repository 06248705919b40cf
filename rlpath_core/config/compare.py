"""Two configs side by side: what differs between a run and its resumption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A value that differs; None stands for one that is missing."""

    key: str
    old: Any
    new: Any


def first_change(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Callable[[str], bool] = lambda key: False
) -> Change | None:
    """The first key, in alphabetical order, whose values differ.

    Parameters
    ----------
    old, new
        Nested mappings.
    ignore
        Is given the dotted path of each key that differs, and returns True for one that may.

    Returns
    -------
    Change or None
        The dotted path with both values; None if nothing differs.
    """
    return _first(old, new, ignore, "")


def _first(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Callable[[str], bool], above: str) -> Change | None:
    for key in sorted({*old, *new}, key=str):
        before, after, path = old.get(key), new.get(key), f"{above}{key}"
        if before == after:
            continue
        if isinstance(before or {}, Mapping) and isinstance(after or {}, Mapping) and (before or after):
            if found := _first(before or {}, after or {}, ignore, f"{path}."):
                return found
        elif not ignore(path):
            return Change(path, before, after)
    return None
