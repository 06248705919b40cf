"""Launcher ``local``: processes on this machine, as many as it has cores and memory for.

Python engines run in persistent workers, so that their imports are paid once and not per job; other programs are
started once per job, by the script that a scheduler's job runs too. A process that dies, hangs or exits with an error
fails its own task; its batch mates start over, one by one.
"""

from __future__ import annotations

import fcntl
import os
import resource
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from rlpath_core.config import Section
from rlpath_core.dft.engines.base import OUTPUT
from rlpath_core.dft.engines.python_worker import LOCK, LOCKED, WALL
from rlpath_core.dft.launchers import script
from rlpath_core.dft.launchers.base import Event, Launcher, Submission
from rlpath_core.errors import InputError
from rlpath_core.process.child import Child

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
    """One process, a program or a worker started by ``command``, and its tasks."""

    process: subprocess.Popen[bytes] | Child
    command: tuple[str, ...]
    limits: Limits
    tasks: list[Submission] = field(default_factory=list)
    deadline: float = float("inf")
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
            alone = any(not isinstance(slot.process, Child) for slot in self._slots) or self._waiting
            ready = self._selector.select(max(0.0, min(left, POLL) if alone else left))
            for key, _ in ready:
                events += self._receive(key.data)
            for slot in list(self._slots):
                late = time.monotonic() >= slot.deadline
                if isinstance(slot.process, Child):
                    events += self._died(slot, -signal.SIGALRM) if late else []
                elif (code := slot.process.poll()) is not None:
                    events += self._ended_alone(slot, code)
                elif late:
                    slot.overdue, slot.deadline = True, float("inf")
                    _kill_session(slot.process.pid)
            if time.monotonic() >= until or not (self._waiting or any(slot.tasks for slot in self._slots)):
                break
        return [event for event in events if event.name not in self._cancelled]

    def cancel(self, names: Iterable[str]) -> None:
        self._cancelled |= set(names)
        left = [[task for task in batch if task.name not in self._cancelled] for batch in self._waiting]
        self._waiting = deque(batch for batch in left if batch)
        for slot in list(self._slots):
            if slot.tasks and all(task.name in self._cancelled for task in slot.tasks):
                self._remove(slot)

    def close(self) -> None:
        self._waiting.clear()
        for slot in self._slots:
            if isinstance(slot.process, Child) and not slot.tasks:
                slot.process.request_exit()  # all idle workers end at the same time
        for slot in list(self._slots):
            self._remove(slot, 0.0 if slot.tasks else GRACE)
        self._selector.close()

    def _fill(self) -> list[Event]:
        events: list[Event] = []
        for _ in range(len(self._waiting)):
            batch = self._waiting[0]
            idle = [slot for slot in self._slots if isinstance(slot.process, Child) and not slot.tasks]
            kind = worker, limits = self._kind(batch[0])
            mine = next((slot for slot in idle if (slot.command, slot.limits) == kind), None)
            if mine is None and not self._has_room(limits):
                if not idle:
                    break
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

    def _add(self, slot: _Slot) -> _Slot:
        if slot.limits[1] is not None:
            # Heap and anonymous memory; the address space would count what libraries reserve and never touch.
            size = slot.limits[1] << 20
            with suppress(ProcessLookupError):
                resource.prlimit(slot.process.pid, resource.RLIMIT_DATA, (size, size))
        if isinstance(slot.process, Child):
            self._selector.register(slot.process, selectors.EVENT_READ, slot)
        self._slots.append(slot)
        return slot

    def _start_worker(self, worker: tuple[str, ...], limits: Limits) -> _Slot:
        child = Child(worker, "the engine's process", env=self._environment(**{WALL: str(limits[0])}))
        return self._add(_Slot(child, worker, limits))

    def _give(self, slot: _Slot, batch: list[Submission]) -> list[Event]:
        assert isinstance(slot.process, Child)
        slot.tasks = list(batch)
        try:
            slot.process.send("calculate", {"folders": [str(task.folder) for task in batch]})
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
            command = ("bash", str(script.write_script(task, limits[0], self.threads)))
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(**{LOCKED: "1"}),
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # so that a program that starts others is ended with them
            )
        self._add(_Slot(process, command, limits, [task], time.monotonic() + limits[0] + GRACE))
        return True

    def _receive(self, slot: _Slot) -> list[Event]:
        assert isinstance(slot.process, Child)
        message = slot.process.receive()
        if message is None:
            return self._died(slot)
        if "error" in message[0]:
            return self._died(slot, 1, message[0]["error"]["text"])
        if "report" in message[0]:
            slot.deadline = time.monotonic() + slot.limits[0] + GRACE
            return [Event(task.name, "started") for task in slot.tasks]
        events = [Event(task.name, "ended") for task in slot.tasks]
        slot.tasks, slot.deadline = [], float("inf")
        return events

    def _died(self, slot: _Slot, code: int | None = None, line: str = "") -> list[Event]:
        """A worker has ended with tasks in hand, or is ended with them: ``code`` and ``line`` are then the reason.

        A task that was alone is to blame; of several, each gets another chance.
        """
        assert isinstance(slot.process, Child)
        if code is None:
            code = slot.process.exit_code() or 0
            line = slot.process.last_line() or (script.last_line(slot.tasks[0].folder / OUTPUT) if slot.tasks else "")
        self._remove(slot)
        if len(slot.tasks) > 1:
            self._waiting.extend([task] for task in slot.tasks)
            return []
        if code == -signal.SIGALRM:
            return [self._out_of_time(slot, task) for task in slot.tasks]
        return [Event(task.name, "ended", *script.failed(code, line)) for task in slot.tasks]

    def _ended_alone(self, slot: _Slot, code: int) -> list[Event]:
        task = slot.tasks[0]
        self._remove(slot)
        end = script.end_of(task, slot.limits[0])
        if end is not None:
            return [end]
        if slot.overdue:
            return [self._out_of_time(slot, task)]
        return [Event(task.name, "ended", *script.failed(code, script.last_line(task.folder / OUTPUT)))]

    @staticmethod
    def _out_of_time(slot: _Slot, task: Submission) -> Event:
        return Event(task.name, "ended", script.wall_reason(slot.limits[0]), "wall", slot.limits[0])

    def _remove(self, slot: _Slot, grace: float = 0.0) -> None:
        """End the process, and whatever a program has started."""
        self._slots.remove(slot)
        if isinstance(slot.process, Child):
            self._selector.unregister(slot.process)
            slot.process.end(grace)
        else:
            _kill_session(slot.process.pid)
            slot.process.wait()


def free_memory_mb(root: Path = Path("/")) -> int:
    """What this machine, or the control groups that confine this process (a Slurm job's, say), have for us now."""
    text = (root / "proc/meminfo").read_text(encoding="ascii")
    free = next(int(line.split()[1]) >> 10 for line in text.splitlines() if line.startswith("MemAvailable"))
    limits = [free]
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, inside = line.split(":", 2)
            if controllers == "":
                base, file = root / "sys/fs/cgroup", "memory.max"
            elif "memory" in controllers.split(","):
                base, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            else:
                continue
            group = base / inside.lstrip("/")
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # no such file outside of a container's own groups; "max"
                    limits.append(int((folder / file).read_text(encoding="ascii")) >> 20)
                if folder == base:
                    break
    return min(limits)


def _kill_session(leader: int) -> None:
    """Kill whatever is in the session of ``leader``, in whichever process groups."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)
