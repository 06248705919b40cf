"""The inside of a ``Child``: ``serve`` answers its calls.

Imports nothing of rlpath but ``wire``, which lies beside it: a Python without rlpath, such as Blender's, runs this file
itself with the path of a plain file as its last argument. That file defines ``HANDLERS``.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

try:
    from rlpath_core.process.wire import Arrays, BadMessage, read_message, write_message
except ImportError:
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    from wire import Arrays, BadMessage, read_message, write_message  # type: ignore[import-not-found, no-redef]

CHANNEL = "RLPATH_CHANNEL"
"""The environment variable with the number of the open file over which calls and answers go."""
WATCH_SECONDS = 0.5
STOP_SECONDS = 600.0
"""What ``stop`` may take before the orphaned process is ended."""
ERRORS = ("InputError", "TransientError", "FatalError")


class Call(NamedTuple):
    """What a handler is called with; ``report`` sends a mapping to the parent before the answer."""

    header: dict[str, Any]
    arrays: Arrays
    report: Callable[[Mapping[str, Any]], None]


Handler = Callable[[Call], dict[str, Any] | tuple[dict[str, Any], Arrays] | None]
"""Returns the header of the answer, alone or with arrays."""


def serve(
    handlers: Mapping[str, Handler], *, stop: Callable[[], None] | None = None, finish_if_orphaned: bool = False
) -> None:
    """Answer the calls of the parent, each by the handler of its name, until the parent closes the channel.

    Signals to the whole process group are for the parent to handle. When the parent is gone, however it ended and even
    in the middle of a call, this process ends too.

    Parameters
    ----------
    handlers
        What they raise is raised in the parent.
    stop
        Called on SIGTERM, and when the parent is gone: the handler has ``STOP_SECONDS`` to return.
    finish_if_orphaned
        Finish the call, then end. SIGTERM ends the process at any time.
    """
    if CHANNEL not in os.environ:
        sys.exit("this program answers the calls of a parent: it is started by rlpath_core.process.child.Child")
    channel = int(os.environ.pop(CHANNEL))
    os.set_inheritable(channel, False)
    for number in (signal.SIGINT, signal.SIGHUP, *([] if finish_if_orphaned else [signal.SIGTERM])):
        signal.signal(number, signal.SIG_IGN)
    if stop is not None:
        signal.signal(signal.SIGTERM, lambda number, frame: stop())
    if not finish_if_orphaned:
        threading.Thread(target=_watch, args=(os.getppid(), stop), daemon=True).start()
    with open(channel, "r+b", buffering=0) as stream, contextlib.suppress(OSError, BadMessage):  # the parent is gone

        def report(content: Mapping[str, Any]) -> None:
            with contextlib.suppress(OSError):
                write_message(stream, {"report": dict(content)})

        while (message := read_message(stream)) is not None:
            request, arrays = message
            call = Call(request["header"], arrays, report)
            write_message(stream, *_answer(handlers, request["call"], call))


def _answer(handlers: Mapping[str, Handler], name: str, call: Call) -> tuple[dict[str, Any], Arrays]:
    try:
        result = handlers[name](call) or {}
    except Exception as error:
        return {"error": _pack_error(error)}, {}
    header, arrays = result if isinstance(result, tuple) else (result, {})
    return {"answer": header}, arrays


def _pack_error(error: Exception) -> dict[str, Any]:
    """For ``child.unpack_error``. The traceback of an error that is not one of rlpath's goes to the log."""
    classes = {cls.__name__ for cls in type(error).__mro__}
    kind = next((name for name in ERRORS if name in classes), None)
    arguments = [error.what, error.where, error.key] if kind == "InputError" else [str(error)]  # type: ignore[attr-defined]
    if kind is None:
        traceback.print_exc()
    return {"kind": kind, "arguments": arguments, "text": f"{type(error).__name__}: {error}"}


def _watch(parent: int, stop: Callable[[], None] | None) -> None:
    """End with the parent, also if a fork of it holds the channel, or a call takes minutes."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    if stop is not None:
        stop()
        time.sleep(STOP_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    serve(runpy.run_path(sys.argv[-1])["HANDLERS"])
