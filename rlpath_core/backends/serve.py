"""The process of a ``RemoteModel``: ``python -m rlpath_core.backends.serve --parent PID --log FILE``.

Loads one model, then answers one message after the other, until its standard input is closed or its parent is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlpath_core.backends.base import Model
from rlpath_core.backends.exchange import pack_error, pack_predictions, unpack_structures
from rlpath_core.backends.frames import Arrays, NotAMessage, read_message, write_message
from rlpath_core.errors import RlpathError

WATCH_SECONDS = 0.5


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parent", type=int, required=True)
    arguments.add_argument("--log", type=Path, required=True)
    given = arguments.parse_args()
    # A signal to the whole group is the parent's to answer; this process ends when the parent has.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log = Log(given.log)
    threading.Thread(target=_watch, args=(given.parent, log), daemon=True).start()
    # What libraries print goes to the log: standard output is for answers alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError, NotAMessage):  # it ended in the middle of one: so has the parent
        serve(sys.stdin.buffer, answers, log)
    log.remove()
    return 0


@dataclass
class Log:
    """This process's standard error. The parent removes it; where that is gone, this process does.

    ``kept`` where it holds more than chatter.
    """

    path: Path
    kept: bool = False

    def remove(self) -> None:
        if not self.kept:
            self.path.unlink(missing_ok=True)


def _watch(parent: int, log: Log) -> None:
    """End when the parent is gone, even where a fork of it keeps the pipe open or a forward pass takes minutes."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    log.remove()
    os._exit(0)


def serve(requests: IO[bytes], answers: IO[bytes], log: Log) -> None:
    """Answer every message of ``requests`` until they end."""
    model: Model | None = None
    reply: dict[str, Any]
    out: Arrays
    while (message := read_message(requests)) is not None:
        header, arrays = message
        try:
            if model is None:
                model = load(header)
                reply, out = greeting(model), {}
            else:
                reply, out = {}, predict(model, header, arrays)
        except Exception as error:
            if not isinstance(error, RlpathError):
                log.kept = True
                traceback.print_exc()
            reply, out = {"error": pack_error(error)}, {}
        write_message(answers, reply, out)


def load(header: dict[str, Any]) -> Model:
    from rlpath_core.backends import load_local

    if header["threads"] is not None:
        import torch

        torch.set_num_threads(header["threads"])
    return load_local(Path(header["manifest"]), **header["options"])


def greeting(model: Model) -> dict[str, Any]:
    """What a ``Model`` says of itself, for the one that stands for it in the other process."""
    return {
        "digest": model.digest,
        "elements": sorted(model.elements),
        "device": model.device,
        "conservative": model.conservative,
        "backend": model.backend,
        "weights_sha256": model.weights_sha256,
    }


def predict(model: Model, header: dict[str, Any], arrays: Arrays) -> Arrays:
    structures = unpack_structures(arrays)
    return pack_predictions(model.predict(structures, forces=header["forces"], embeddings=header["embeddings"]))


if __name__ == "__main__":
    sys.exit(main())
