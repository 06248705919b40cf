"""Launcher ``local``: processes on this machine, as many as it has cores and memory for.

Python engines run in persistent workers, so that their imports are paid once and not per job; other programs are
started once per job, by the script that a scheduler's job runs too. A process that dies, hangs or exits with an error
fails its own task; its batch mates start over, one by one.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import selectors
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from pydantic import Field

from rlpath_core.config import Section
from rlpath_core.dft.engines.base import OUTPUT
from rlpath_core.dft.engines.runner import LOCK, LOCKED, WALL
from rlpath_core.dft.launchers import script
from rlpath_core.dft.launchers.base import Event, Launcher, Submission
from rlpath_core.errors import InputError

GRACE = 5.0
"""Seconds that a process's own alarm has before the launcher ends it."""
POLL = 0.05
Limits = tuple[float, int | None]
"""Wall time, s, and memory, MB."""


class LocalOptions(Section):
    cores: int | None = Field(None, ge=1)
    """Cores for all calculations together; null takes those of this process."""
    memory_mb: int | None = Field(None, ge=1)
    """Memory in MB for all calculations together, counted if they have limits; null takes what is free."""


@dataclass
class _Slot:
    """One process and what it is busy with."""

    process: subprocess.Popen[bytes]
    worker: tuple[str, ...] | None
    limits: Limits
    stderr: IO[bytes] | None
    tasks: list[Submission] = field(default_factory=list)
    deadline: float = float("inf")
    buffer: bytes = b""
    overdue: bool = False


class LocalLauncher(Launcher):
    Options: ClassVar[type[Section]] = LocalOptions

    def prepare(self) -> None:
        cores = self.options.cores or len(os.sched_getaffinity(0))
        self.size = self.workers or max(1, cores // self.threads)
        self.memory = self.options.memory_mb or free_memory_mb()
        self._waiting: deque[list[Submission]] = deque()
        self._over: list[Event] = []
        self._slots: list[_Slot] = []
        self._cancelled: set[str] = set()
        self._selector = selectors.DefaultSelector()

    def memory_of(self, task: Submission) -> int | None:
        need = super().memory_of(task)
        # A repeated task asks for more than the config says, which this machine may not have.
        return min(need, self.memory) if need is not None and task.attempt > 1 else need

    def submit(self, tasks: Sequence[Submission]) -> dict[str, str]:
        rest = list(tasks)
        for task in tasks:
            if (need := self.memory_of(task)) is not None and need > self.memory:
                raise InputError(
                    f"one task may take {need} MB, and there are {self.memory} for all of them", None, "memory_mb"
                )
        while rest:
            # No batch is larger than an even share of the work, or some workers would have none.
            size = max(1, min(rest[0].batch, -(-len(tasks) // self.size))) if rest[0].worker else 1
            batch = [task for task in rest[:size] if self._kind(task) == self._kind(rest[0])]
            self._waiting.append(batch)
            rest = [task for task in rest[:size] if task not in batch] + rest[size:]
        self._cancelled -= {task.name for task in tasks}
        return {task.name: "" for task in tasks}

    def find(self, tasks: Sequence[Submission]) -> dict[str, str]:
        """Programs that ended while nobody looked. What still runs is waited for by whoever starts it again."""
        found = {}
        for task in tasks:
            if task.worker is not None or script.is_locked(task.folder):
                continue
            end = script.end_of(task, self.wall_of(task))
            if end is not None:
                self._over += [Event(task.name, "started"), end]
                found[task.name] = ""
        return found

    def _kind(self, task: Submission) -> tuple[tuple[str, ...] | None, Limits]:
        return task.worker, (self.wall_of(task), self.memory_of(task))

    def wait(self, timeout: float) -> list[Event]:
        until = time.monotonic() + timeout
        events, self._over = self._over, []
        while not events:
            events += self._fill()
            now = time.monotonic()
            left = min([until - now, *(slot.deadline - now for slot in self._slots)])
            alone = any(slot.worker is None for slot in self._slots) or self._waiting
            ready = self._selector.select(max(0.0, min(left, POLL) if alone else left))
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
            kind = worker, limits = self._kind(batch[0])
            mine = next((slot for slot in idle if (slot.worker, slot.limits) == kind), None)
            if mine is None and not self._has_room(limits):
                if not idle:
                    break
                self._kill(idle[0])
                self._remove(idle[0])
                if not self._has_room(limits):
                    continue
            self._waiting.popleft()
            if worker is not None:
                events += self._give(mine or self._start_worker(worker, limits), batch)
            elif self._start_alone(batch[0]):
                events.append(Event(batch[0].name, "started"))
            else:
                self._waiting.append(batch)  # another process has it; look again later
        return events

    def _has_room(self, limits: Limits) -> bool:
        """Whether one more process fits beside those that run, idle workers included."""
        used = sum(slot.limits[1] or 0 for slot in self._slots) + (limits[1] or 0)
        return len(self._slots) < self.size and used <= self.memory

    def _environment(self, **more: str) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        return {**os.environ, **threads, **more}

    def _started(self, process: subprocess.Popen[bytes], limits: Limits) -> None:
        if limits[1] is not None:
            # Heap and anonymous memory; the address space would count what libraries reserve and never touch.
            size = limits[1] << 20
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (size, size))

    def _start_worker(self, worker: tuple[str, ...], limits: Limits) -> _Slot:
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        process = subprocess.Popen(
            worker,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self._environment(**{WALL: str(limits[0])}),
            bufsize=0,
        )
        self._started(process, limits)
        slot = _Slot(process, worker, limits, stderr)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, slot)
        self._slots.append(slot)
        return slot

    def _give(self, slot: _Slot, batch: list[Submission]) -> list[Event]:
        slot.tasks = list(batch)
        assert slot.process.stdin is not None
        try:
            slot.process.stdin.write(json.dumps([str(task.folder) for task in batch]).encode() + b"\n")
        except BrokenPipeError:
            return self._died(slot)
        return []

    def _start_alone(self, task: Submission) -> bool:
        """Start a program of its own, which inherits the lock on its folder; False where another process has it."""
        limits = self._kind(task)[1]
        with open(task.folder / LOCK, "a") as lock, open(task.folder / OUTPUT, "ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if not script.ended_of(task).exists():  # begun by a launcher that is no more, and ended with it
                script.claim_of(task).unlink(missing_ok=True)
            process = subprocess.Popen(
                ["bash", str(script.write_script(task, limits[0], self.threads))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(**{LOCKED: "1"}),
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # so that a program that starts others is ended with them
            )
        self._started(process, limits)
        deadline = time.monotonic() + limits[0] + GRACE
        self._slots.append(_Slot(process, None, limits, None, [task], deadline))
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
                slot.deadline = time.monotonic() + slot.limits[0] + GRACE
                events += [Event(names[folder], "started") for folder in answer["started"]]
            else:
                slot.tasks, slot.deadline = [], float("inf")
                events += [Event(names[folder], "ended") for folder in answer["ended"]]
        return events

    def _died(self, slot: _Slot) -> list[Event]:
        """A worker has ended with tasks in hand. Alone, the task is to blame; of several, each gets another chance."""
        code = slot.process.wait()
        said = _last_line(slot.stderr) or (script.last_line(slot.tasks[0].folder / OUTPUT) if slot.tasks else "")
        self._remove(slot)
        if len(slot.tasks) > 1:
            self._waiting.extend([task] for task in slot.tasks)
            return []
        if slot.overdue or code == -signal.SIGALRM:
            return [self._out_of_time(slot, task) for task in slot.tasks]
        return [Event(task.name, "ended", *script.failed(code, said)) for task in slot.tasks]

    def _ended_alone(self, slot: _Slot) -> list[Event]:
        code, task = slot.process.returncode, slot.tasks[0]
        self._kill(slot)  # what it may have started and left behind
        self._slots.remove(slot)
        end = script.end_of(task, slot.limits[0])
        if end is not None:
            return [end]
        if slot.overdue:
            return [self._out_of_time(slot, task)]
        return [Event(task.name, "ended", *script.failed(code, script.last_line(task.folder / OUTPUT)))]

    @staticmethod
    def _out_of_time(slot: _Slot, task: Submission) -> Event:
        return Event(task.name, "ended", script.wall_reason(slot.limits[0]), "wall", slot.limits[0])

    def _kill(self, slot: _Slot) -> None:
        if slot.worker is None:
            _kill_session(slot.process.pid)
        else:
            with suppress(ProcessLookupError):
                slot.process.kill()

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


def free_memory_mb() -> int:
    """What this machine, or the control group that confines this process, has for us now."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    free = next(int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError):
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")) >> 20)
    return free


def _kill_session(leader: int) -> None:
    """Kill whatever is in the session of ``leader``, in whichever process groups."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)


def _last_line(stream: IO[bytes] | None) -> str:
    if stream is None:
        return ""
    stream.seek(0)
    return script.last_line_of(stream.read())
