"""The three kinds of failure, told apart by what the caller can do about them.

``InputError``      the user mends a file or a flag; one line, exit code 2
``TransientError``  the same call may succeed later (a node died, a disk was full for a moment); retried
``FatalError``      the same call will fail again; never retried, says what to do
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class RlpathError(Exception):
    """Base of all errors that rlpath raises on purpose."""


class InputError(RlpathError):
    """Bad input: ``where`` names the file, with the key or line when known, and ``what`` says how to mend it."""

    def __init__(self, what: str, where: str | Path | None = None, key: str | int | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.key = key
        place = "" if self.where is None else f"{self.where}: "
        if key is not None:
            place += f"line {key}: " if isinstance(key, int) else f"{key}: "
        super().__init__(" ".join(f"{place}{what}".split()))

    def __reduce__(self) -> tuple:
        return (type(self), (self.what, self.where, self.key))


class TransientError(RlpathError):
    """Worth another try with nothing changed."""


class FatalError(RlpathError):
    """Will fail again in the same way; the message says what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the closest of ``known``, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
