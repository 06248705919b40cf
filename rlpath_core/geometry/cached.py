"""Results of pure functions, kept with the object that they were computed from."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Keep what ``function`` finds with the object that is its first argument: many draws are made from one structure.

    For functions of objects that never change, whose results nobody changes.
    """

    @wraps(function)
    def look(*given: P.args, **options: P.kwargs) -> R:
        key = (
            function.__name__,
            *(g.tobytes() if isinstance(g, np.ndarray) else g for g in given[1:]),
            *options.items(),
        )
        found: dict[Any, R] = given[0].__dict__.setdefault("remembered", {})
        if key not in found:
            found[key] = function(*given, **options)
        return found[key]

    return look
