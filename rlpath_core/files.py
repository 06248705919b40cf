"""Atomic files: a reader sees the old content or the new, whole; a kill leaves no half."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rlpath_core.errors import InputError


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on success flush it to disk and rename it over ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=2, allow_nan=False)
        stream.write("\n")


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """All objects of a JSONL file. Raises InputError naming the line that does not parse; no line is skipped."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path) from error
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON ({error.msg})", path, number) from error
        if not isinstance(records[-1], dict):
            raise InputError("expected a JSON object", path, number)
    return records


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class AppendedFiles:
    """Files to which text is appended one checkpoint at a time, and which are cut back to it after a kill.

    Whoever appends keeps the lengths in the same transaction as what the text tells.

    Parameters
    ----------
    folder
        Of the files.
    names
        Their paths below it.
    lengths
        What the last checkpoint kept, bytes: each file is cut to it, to nothing without one.

    Raises
    ------
    InputError
        A file is shorter than that.
    """

    def __init__(self, folder: Path, names: Iterable[str], lengths: Mapping[str, int]) -> None:
        self.paths = {name: folder / name for name in names}
        for name, path in self.paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            length = lengths.get(name, 0)
            with path.open("ab") as stream:
                size = stream.tell()
                if size < length:
                    raise InputError(
                        f"is shorter ({size} bytes) than the run's last checkpoint left it ({length}): it was changed; "
                        "restore it or start in another run_dir",
                        path,
                    )
                stream.truncate(length)

    def append(self, texts: Mapping[str, str]) -> dict[str, int]:
        """Append a text to each file, by its name; returns the files' lengths in bytes, which are on disk by then."""
        lengths = {}
        for name, path in self.paths.items():
            with path.open("ab") as stream:
                stream.write(texts[name].encode())
                stream.flush()
                os.fsync(stream.fileno())
                lengths[name] = stream.tell()
        return lengths
