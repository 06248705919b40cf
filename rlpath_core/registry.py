"""What a config names: registered here, an entry point of an installed distribution, or ``package.module:Name``."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Generic, TypeVar

from rlpath_core.errors import InputError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to classes, functions or records of one kind.

    With a ``group``, the entry points that installed distributions declare in it are names like any other. They are
    listed without being imported, and imported when they are looked up.

    Parameters
    ----------
    kind
        What the things are, for error messages: "action".
    group
        Group of entry points: "rlpath.actions". None: only registered names and ``module:Name``.

    Examples
    --------
    >>> actions: Registry[type] = Registry("action")
    >>> @actions.register("jitter")
    ... class Jitter: ...
    >>> actions["jitter"] is Jitter
    True
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def keep(thing: T) -> T:
            if name in self._registered:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._registered[name] = thing
            return thing

        return keep

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._registered, *installed(self.group))))

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in installed(self.group)

    def __getitem__(self, name: str) -> T:
        """The thing behind a name.

        Raises
        ------
        InputError
            The name is unknown, cannot be imported, or is claimed twice.
        """
        candidates = installed(self.group).get(name, ())
        if len(candidates) + (name in self._registered) > 1:
            owners = ["rlpath"] * (name in self._registered) + [_distribution(point) for point in candidates]
            raise InputError(
                f"{self.kind} {name!r} is provided by {' and by '.join(owners)}: uninstall one of them, "
                "or give it as module:Name"
            )
        if name in self._registered:
            return self._registered[name]
        if candidates:
            return _loaded(candidates[0], self.kind)
        if ":" in name:
            return import_name(name, self.kind)
        raise self.unknown(name)

    def unknown(self, name: str) -> InputError:
        """The error for a name that nobody provides: one line with the near miss and all names."""
        return InputError(f"no {self.kind} is called {name!r}.{nearest(name, self)} Known: {', '.join(sorted(self))}")


def installed(group: str | None) -> dict[str, tuple[metadata.EntryPoint, ...]]:
    """Entry points of a group by name, several where several distributions claim it. Imports none of them."""
    return {} if group is None else _entry_points(group, tuple(sys.path))


@functools.cache
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, tuple[metadata.EntryPoint, ...]]:
    by_name: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for point in metadata.entry_points(group=group):
        by_name[point.name] = (*by_name.get(point.name, ()), point)
    return by_name


def _distribution(point: metadata.EntryPoint) -> str:
    return "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _loaded(point: metadata.EntryPoint, kind: str) -> T:  # type: ignore[type-var]
    try:
        thing: T = point.load()
    except Exception as error:  # a distribution of someone else's raises what it will
        raise InputError(
            f"{kind} {point.name!r} of {_distribution(point)}: cannot load {point.value!r} "
            f"({type(error).__name__}: {error})"
        ) from error
    return thing


def import_name(name: str, kind: str = "object") -> T:  # type: ignore[type-var]
    """The object behind ``package.module:Name``; InputError names what is missing."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"{kind} {name!r}: cannot import {module_name!r} ({error})") from error
    except Exception as error:  # a module of the user's own raises what it will
        what = f"{kind} {name!r}: cannot import {module_name!r} ({type(error).__name__}: {error})"
        raise InputError(what) from error
    try:
        thing: T = getattr(module, attribute)
    except AttributeError as error:
        raise InputError(f"{kind} {name!r}: {module_name!r} has no {attribute!r}") from error
    return thing
