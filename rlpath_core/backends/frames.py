"""Messages between two processes: a mapping as JSON, and arrays as npy. Reading one runs nothing.

A message is the length of its JSON (4 bytes, little endian), the JSON, and the arrays one after the other in the order
of its key ``arrays``, which holds their names and lengths in bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

LONGEST_HEADER = 1 << 24
Arrays = dict[str, NDArray[Any]]


class NotAMessage(Exception):
    """The stream ended inside a message, or holds something else."""


def write_message(stream: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    blobs = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
        blobs[name] = buffer.getbuffer()
    text = json.dumps({**header, "arrays": {name: len(blob) for name, blob in blobs.items()}}).encode()
    stream.write(b"".join([len(text).to_bytes(4, "little"), text, *blobs.values()]))
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays] | None:
    """The next message, or None where the stream ends before one."""
    begin = stream.read(4)
    if not begin:
        return None
    length = int.from_bytes(begin, "little")
    if len(begin) < 4 or length > LONGEST_HEADER:
        raise NotAMessage(f"{begin!r} begins no message")
    try:
        header = json.loads(_exactly(stream, length))
        arrays = {
            name: np.lib.format.read_array(io.BytesIO(_exactly(stream, size)), allow_pickle=False)
            for name, size in header.pop("arrays").items()
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise NotAMessage(str(error)) from error
    return header, arrays


def _exactly(stream: IO[bytes], length: int) -> bytes:
    found = stream.read(length)
    if len(found) < length:
        raise NotAMessage(f"it ended after {len(found)} of {length} bytes")
    return found
