"""Background processes, each with a log and a pid file, which are ended together with everything they started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from rlpath_core.errors import FatalError
from rlpath_core.files import write_json

STATE = Path(os.environ.get("PREFECT_HOME", ".rlpath")).resolve()
"""Logs, pid files and Prefect's own files: in the folder that the command was given in."""


def log_of(name: str) -> Path:
    return STATE / "logs" / f"{name}.log"


def start(name: str, command: list[str], extra_env: dict[str, str] | None = None) -> None:
    """Start ``command`` in its own session, which neither a Ctrl-C nor the end of this process reaches."""
    # A child inherits ignored signals, and a worker that ignores SIGINT never ends.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log_of(name).parent.mkdir(parents=True, exist_ok=True)
    with open(log_of(name), "ab") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | (extra_env or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    write_json(_record(name), {"pid": process.pid, "started": psutil.Process(process.pid).create_time()})


def alive(name: str) -> bool:
    record = _read(name)
    if record is None:
        return False
    try:
        process = psutil.Process(record[0])
        return abs(process.create_time() - record[1]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(name: str, patience: float = 10.0) -> bool:
    """End a process and its whole session, including orphans of a killed one; False if there was nothing to end."""
    left = _session(name)
    if not left:
        _record(name).unlink(missing_ok=True)
        return False
    _signal(left, signal.SIGTERM)
    _, left = psutil.wait_procs(left, timeout=patience)
    _signal(left, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)
    _record(name).unlink(missing_ok=True)
    return True


def running() -> list[str]:
    """Names with a pid file."""
    return sorted(path.stem for path in STATE.glob("*.pid"))


def wait_for(name: str, ready: Callable[[], bool], seconds: float) -> None:
    """Wait until ``ready()``. Raises FatalError with the end of the log if the process dies or takes too long."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not alive(name) or time.monotonic() > deadline:
            lines = log_of(name).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            tail = "\n".join(lines)
            raise FatalError(f"{name} did not start; the end of {log_of(name)}: {tail}")
        time.sleep(0.3)


def _record(name: str) -> Path:
    return STATE / f"{name}.pid"


def _read(name: str) -> tuple[int, float] | None:
    try:
        value = json.loads(_record(name).read_text(encoding="utf-8"))
        return int(value["pid"]), float(value["started"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _session(name: str) -> list[psutil.Process]:
    record = _read(name)
    if record is None:
        return []
    pid, started = record
    try:
        if abs(psutil.Process(pid).create_time() - started) >= 1.0:
            return []  # the number belongs to another process now, so nothing of the session is left
    except psutil.NoSuchProcess:
        pass  # the leader died; the kernel keeps its number while others are in the session
    return [process for process in psutil.process_iter() if _sid(process.pid) == pid]


def _sid(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
