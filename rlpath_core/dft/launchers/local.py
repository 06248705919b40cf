"""Launcher ``local``: processes on this machine, as many as it has cores.

Python engines run in persistent workers, so that their imports are paid once and not per job; other programs are
started once per job. A process that dies, hangs or exits with an error fails its own task; its batch mates start over,
one by one.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from rlpath_core.dft.engines.base import OUTPUT
from rlpath_core.dft.engines.runner import LOCK, WALL
from rlpath_core.dft.launchers.base import Event, Launcher, Task

GRACE = 5.0
"""Seconds that a worker's own alarm has before the launcher ends it."""
POLL = 0.05


@dataclass
class _Slot:
    """One process and what it is busy with."""

    process: subprocess.Popen[bytes]
    worker: tuple[str, ...] | None
    stderr: IO[bytes] | None
    tasks: list[Task] = field(default_factory=list)
    deadline: float = float("inf")
    buffer: bytes = b""
    overdue: bool = False


class LocalLauncher(Launcher):
    def __init__(self, workers: int | None = None, threads: int = 1, wall_seconds: float = 600.0) -> None:
        super().__init__(workers, threads, wall_seconds)
        self.size = workers or max(1, len(os.sched_getaffinity(0)) // threads)
        self._waiting: deque[list[Task]] = deque()
        self._slots: list[_Slot] = []
        self._cancelled: set[str] = set()
        self._selector = selectors.DefaultSelector()

    def submit(self, tasks: Sequence[Task]) -> dict[str, str]:
        rest = list(tasks)
        while rest:
            # No batch is larger than an even share of the work, or some workers would have none.
            size = max(1, min(rest[0].batch, -(-len(tasks) // self.size))) if rest[0].worker else 1
            batch = [task for task in rest[:size] if task.worker == rest[0].worker]
            self._waiting.append(batch)
            rest = rest[len(batch) :]
        self._cancelled -= {task.name for task in tasks}
        return {task.name: "" for task in tasks}

    def wait(self, timeout: float) -> list[Event]:
        until = time.monotonic() + timeout
        events: list[Event] = []
        while not events:
            events += self._fill()
            now = time.monotonic()
            left = min([until - now, *(slot.deadline - now for slot in self._slots)])
            alone = any(slot.worker is None for slot in self._slots) or self._waiting
            ready = self._selector.select(max(0.0, min(left, POLL) if alone else left)) if self._slots else []
            for key, _ in ready:
                events += self._heard(key.data)
            for slot in list(self._slots):
                if slot.worker is None and slot.process.poll() is not None:
                    events += self._ended_alone(slot)
                elif time.monotonic() >= slot.deadline:
                    slot.overdue = True
                    slot.deadline = float("inf")
                    self._kill(slot)
            if time.monotonic() >= until or not (self._waiting or any(slot.tasks for slot in self._slots)):
                break
        return [event for event in events if event.name not in self._cancelled]

    def cancel(self, names: Iterable[str]) -> None:
        self._cancelled |= set(names)
        left = [[task for task in batch if task.name not in self._cancelled] for batch in self._waiting]
        self._waiting = deque(batch for batch in left if batch)
        for slot in list(self._slots):
            if slot.tasks and all(task.name in self._cancelled for task in slot.tasks):
                self._kill(slot)
                self._remove(slot)

    def close(self) -> None:
        self._waiting.clear()
        for slot in list(self._slots):
            if slot.tasks:
                self._kill(slot)
            elif slot.process.stdin is not None:
                slot.process.stdin.close()  # an idle worker ends by itself
        for slot in list(self._slots):
            self._remove(slot)
        self._selector.close()

    def _fill(self) -> list[Event]:
        events: list[Event] = []
        for _ in range(len(self._waiting)):
            batch = self._waiting[0]
            idle = [slot for slot in self._slots if slot.worker and not slot.tasks]
            mine = next((slot for slot in idle if slot.worker == batch[0].worker), None)
            if mine is None and len(self._slots) >= self.size:
                if not idle:
                    break
                self._kill(idle[0])
                self._remove(idle[0])
            self._waiting.popleft()
            if batch[0].worker is not None:
                events += self._give(mine or self._start_worker(batch[0].worker), batch)
            elif self._start_alone(batch[0]):
                events.append(Event(batch[0].name, "started"))
            else:
                self._waiting.append(batch)  # another process has it; look again later
        return events

    def _environment(self) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        return {**os.environ, **threads, WALL: str(self.wall_seconds)}

    def _start_worker(self, worker: tuple[str, ...]) -> _Slot:
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        process = subprocess.Popen(
            worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=self._environment(), bufsize=0
        )
        slot = _Slot(process, worker, stderr)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, slot)
        self._slots.append(slot)
        return slot

    def _give(self, slot: _Slot, batch: list[Task]) -> list[Event]:
        slot.tasks = list(batch)
        assert slot.process.stdin is not None
        try:
            slot.process.stdin.write(json.dumps([str(task.folder) for task in batch]).encode() + b"\n")
        except BrokenPipeError:
            return self._died(slot)
        return []

    def _start_alone(self, task: Task) -> bool:
        """Start a program of its own, which inherits the lock on its folder; False where another process has it."""
        with open(task.folder / LOCK, "a") as lock, open(task.folder / OUTPUT, "ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            try:
                process = subprocess.Popen(
                    task.command,
                    cwd=task.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,  # so that a program that starts others is ended with them
                )
            except OSError as error:
                # A process that fails in our place, so that a command that is not there is reported like any other.
                log.write(f"{error}\n".encode())
                process = subprocess.Popen(["sh", "-c", "exit 127"], start_new_session=True)
        deadline = time.monotonic() + self.wall_seconds
        self._slots.append(_Slot(process, None, None, [task], deadline))
        return True

    def _heard(self, slot: _Slot) -> list[Event]:
        assert slot.process.stdout is not None
        data = os.read(slot.process.stdout.fileno(), 1 << 16)
        if not data:
            return self._died(slot)
        *lines, slot.buffer = (slot.buffer + data).split(b"\n")
        events: list[Event] = []
        for line in lines:
            answer: dict[str, Any] = json.loads(line)
            names = {str(task.folder): task.name for task in slot.tasks}
            if "started" in answer:
                slot.deadline = time.monotonic() + self.wall_seconds + GRACE
                events += [Event(names[folder], "started") for folder in answer["started"]]
            else:
                slot.tasks, slot.deadline = [], float("inf")
                events += [Event(names[folder], "ended") for folder in answer["ended"]]
        return events

    def _died(self, slot: _Slot) -> list[Event]:
        """A worker has ended with tasks in hand. Alone, the task is to blame; of several, each gets another chance."""
        code = slot.process.wait()
        said = _last_line(slot.stderr) or (_last_line_of(slot.tasks[0].folder / OUTPUT) if slot.tasks else "")
        self._remove(slot)
        if len(slot.tasks) > 1:
            self._waiting.extend([task] for task in slot.tasks)
            return []
        return [Event(task.name, "ended", self._reason(code, slot.overdue, said)) for task in slot.tasks]

    def _ended_alone(self, slot: _Slot) -> list[Event]:
        code, task = slot.process.returncode, slot.tasks[0]
        self._kill(slot)  # what it may have started and left behind
        self._slots.remove(slot)
        if code == 0 and not slot.overdue:
            return [Event(task.name, "ended")]
        return [Event(task.name, "ended", self._reason(code, slot.overdue, _last_line_of(task.folder / OUTPUT)))]

    def _reason(self, code: int, overdue: bool, said: str) -> str:
        if overdue or code == -signal.SIGALRM:
            return f"wall-time limit of {self.wall_seconds:g} s"
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the engine's process ended: {cause}{': ' + said if said else ''}"

    def _kill(self, slot: _Slot) -> None:
        try:
            if slot.worker is None:
                os.killpg(slot.process.pid, signal.SIGKILL)
            else:
                slot.process.kill()
        except ProcessLookupError:
            pass

    def _remove(self, slot: _Slot) -> None:
        for stream in (slot.process.stdin, slot.process.stdout):
            if stream is not None:
                if stream is slot.process.stdout:
                    self._selector.unregister(stream)
                stream.close()
        try:
            slot.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._kill(slot)
            slot.process.wait()
        if slot.stderr is not None:
            slot.stderr.close()
        self._slots.remove(slot)


def _last_line(stream: IO[bytes] | None) -> str:
    if stream is None:
        return ""
    stream.seek(0)
    return _tail(stream.read())


def _last_line_of(path: Path) -> str:
    try:
        return _tail(path.read_bytes())
    except OSError:
        return ""


def _tail(content: bytes) -> str:
    lines = [line.strip() for line in content.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
