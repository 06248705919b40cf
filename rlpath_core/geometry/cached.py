"""Results of pure functions, kept with the object that they were computed from."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def cached_on_object(function: Callable[P, R]) -> Callable[P, R]:
    """Keep the results of ``function`` in its first argument, as long as that lives.

    For functions of objects that never change, whose results nobody changes. Further arguments may be arrays: they are
    compared by their values.
    """

    @wraps(function)
    def cached(*args: P.args, **kwargs: P.kwargs) -> R:
        key = (
            function.__qualname__,
            *(value.tobytes() if isinstance(value, np.ndarray) else value for value in args[1:]),
            *kwargs.items(),
        )
        results: dict[Any, R] = args[0].__dict__.setdefault("cached_results", {})
        if key not in results:
            results[key] = function(*args, **kwargs)
        return results[key]

    return cached
