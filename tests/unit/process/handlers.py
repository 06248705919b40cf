"""Worker of test_child: handlers that answer, fail, print, end, and wait. Needs the standard library alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


class InputError(Exception):
    """As rlpath's, which a Python without rlpath does not have."""

    def __init__(self, what, where, key):
        super().__init__(what)
        self.what, self.where, self.key = what, where, key


class TransientError(Exception):
    """As rlpath's."""


class FatalError(Exception):
    """As rlpath's."""


def echo(call):
    return call.header, {name: array * 2 for name, array in call.arrays.items()}


def about(call):
    return {"pid": os.getpid(), "modules": sorted(sys.modules)}


def fail(call):
    kinds = {"InputError": InputError, "TransientError": TransientError, "FatalError": FatalError}
    raise kinds.get(call.header["kind"], ZeroDivisionError)(*call.header["parts"])


def chatter(call):
    print("printed")
    os.write(1, b"by compiled code\n")
    subprocess.run(["echo", "by a program"], check=True, close_fds=False)
    print("on standard error", file=sys.stderr)


def count(call):
    for k in range(call.header["to"]):
        call.report({"k": k})
    return {"total": call.header["to"]}


def end(call):
    print("last words", flush=True)
    if call.header["code"] < 0:
        os.kill(os.getpid(), -call.header["code"])
    os._exit(call.header["code"])


def hold(call):
    """Report, then wait until the file ``until`` is there."""
    call.report({"pid": os.getpid()})
    while not Path(call.header["until"]).exists():
        time.sleep(0.01)
    Path(call.header["until"] + ".seen").touch()


HANDLERS = {f.__name__: f for f in (echo, about, fail, chatter, count, end, hold)}

if __name__ == "__main__":
    from rlpath_core.process.worker import serve

    if sys.argv[1:] == ["stop"]:
        file = Path(os.environ["RLPATH_TEST_STOP"])
        serve(HANDLERS, stop=file.touch)
    else:
        serve(HANDLERS, finish_if_orphaned=sys.argv[1:] == ["finish"])
