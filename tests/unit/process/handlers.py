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


def echo(header, arrays, report):
    return header, {name: array * 2 for name, array in arrays.items()}


def about(header, arrays, report):
    return {"pid": os.getpid(), "modules": sorted(sys.modules)}, {}


def fail(header, arrays, report):
    kinds = {"InputError": InputError, "TransientError": TransientError, "FatalError": FatalError}
    raise kinds.get(header["kind"], ZeroDivisionError)(*header["parts"])


def chatter(header, arrays, report):
    print("printed")
    os.write(1, b"by compiled code\n")
    subprocess.run(["echo", "by a program"], check=True, close_fds=False)
    print("on standard error", file=sys.stderr)
    return {}, {}


def count(header, arrays, report):
    for k in range(header["to"]):
        report({"k": k})
    return {"total": header["to"]}, {}


def end(header, arrays, report):
    print("last words", flush=True)
    if header["code"] < 0:
        os.kill(os.getpid(), -header["code"])
    os._exit(header["code"])


def hold(header, arrays, report):
    """Report, then wait until the file ``until`` is there."""
    report({"pid": os.getpid()})
    while not Path(header["until"]).exists():
        time.sleep(0.01)
    Path(header["until"] + ".seen").touch()
    return {}, {}


def handlers():
    return {f.__name__: f for f in (echo, about, fail, chatter, count, end, hold)}


if __name__ == "__main__":
    from rlpath_core.process.worker import serve

    if sys.argv[1:] == ["stop"]:
        file = Path(os.environ["RLPATH_TEST_STOP"])
        serve(handlers(), stop=file.touch)
    else:
        serve(handlers(), finish_if_orphaned=sys.argv[1:] == ["finish"])
