"""Locks that vanish with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlpath_core.errors import InputError


@contextmanager
def exclusive(
    path: str | Path, what: str, *, wait: float = 0.0, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold ``path`` alone; the kernel lets go of it when the process ends, ``kill -9`` included.

    A lock that another process has is asked for again for ``wait`` seconds, ``waiting`` being told once who has it;
    then InputError names the holder. The file stays: removing it would let two processes lock two files of one name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # O_CLOEXEC is Python's default: a child that outlives this process does not keep the lock for it.
    with open(path, "a+", encoding="utf-8") as stream:
        deadline = time.monotonic() + wait
        told = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip() or "another process"
            if time.monotonic() >= deadline:
                raise InputError(f"{what} is already at work: {holder}; wait for it or end it first", path)
            if waiting is not None and not told:
                waiting(f"{what} is still at work: {holder}; waiting for it")
                told = True
            time.sleep(0.2)
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield
