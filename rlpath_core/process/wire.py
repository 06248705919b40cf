"""Messages between two processes: a JSON header and npy arrays. Reading one runs no code that it brings.

A message is the length of its header (4 bytes, little endian), the header, and the arrays in the order of the header's
key ``arrays``, which maps their names to their lengths in bytes. Imports nothing of rlpath, and numpy only for arrays.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import IO, Any

MAX_HEADER_BYTES = 1 << 28
Arrays = dict[str, Any]
"""``numpy.ndarray`` by name."""


class BadMessage(Exception):
    """The stream ended inside a message, or holds something else."""


def write_message(stream: IO[bytes], header: Mapping[str, Any], arrays: Arrays | None = None) -> None:
    """Write to ``stream``, unbuffered. Raises ValueError for an array of Python objects."""
    blobs = {name: _pack(array) for name, array in (arrays or {}).items()}
    text = json.dumps({**header, "arrays": {name: len(blob) for name, blob in blobs.items()}}).encode()
    rest = memoryview(b"".join([len(text).to_bytes(4, "little"), text, *blobs.values()]))
    while rest:
        rest = rest[stream.write(rest) :]


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays] | None:
    """The next message of ``stream``, unbuffered; None if it ends before one. Raises BadMessage."""
    start = _read(stream, 4)
    if not start:
        return None
    length = int.from_bytes(start, "little")
    if len(start) < 4 or length > MAX_HEADER_BYTES:
        raise BadMessage(f"no message begins with {start!r}")
    try:
        header = json.loads(_read_exactly(stream, length))
        arrays = {name: _unpack(_read_exactly(stream, size)) for name, size in header.pop("arrays").items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadMessage(str(error)) from error
    return header, arrays


def _pack(array: Any) -> memoryview:
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getbuffer()


def _unpack(blob: bytes) -> Any:
    import numpy as np

    return np.lib.format.read_array(io.BytesIO(blob), allow_pickle=False)


def _read_exactly(stream: IO[bytes], length: int) -> bytes:
    content = _read(stream, length)
    if len(content) < length:
        raise BadMessage(f"it ended after {len(content)} of {length} bytes")
    return content


def _read(stream: IO[bytes], length: int) -> bytes:
    """``length`` bytes; fewer only at the end of ``stream``."""
    parts, left = [], length
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
