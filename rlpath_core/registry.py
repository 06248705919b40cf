"""Things that a config names: looked up by name, or imported as ``package.module:Name``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from rlpath_core.errors import InputError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to classes or functions of one kind.

    >>> actions: Registry[type] = Registry("action")
    >>> @actions.register("jitter")
    ... class Jitter: ...
    >>> actions["jitter"] is Jitter
    True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def keep(thing: T) -> T:
            if name in self._known:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._known[name] = thing
            return thing

        return keep

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __getitem__(self, name: str) -> T:
        """Raises InputError for a name that is neither registered nor importable as ``module:Name``."""
        if name in self._known:
            return self._known[name]
        if ":" in name:
            return import_name(name, self.kind)
        known = ", ".join(sorted(self._known))
        raise InputError(f"no {self.kind} is called {name!r}.{nearest(name, self._known)} Known: {known}")


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
