"""What every launcher is: it runs commands in folders, under names, and knows nothing of chemistry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from rlpath_core.config import Section, check

Cause = Literal["wall", "memory", "node", "disk", "exit", "cancelled"]
"""Why a submission failed on the machine: its time or memory ran out, its node died (or the scheduler lost it), its
disk was full, its program ended with an error, somebody cancelled it."""


@dataclass(frozen=True)
class Submission:
    """One try of a job, for a machine.

    name          unique; a scheduler is asked for it by this name, so the next attempt at it has another
    folder        where ``command`` runs; its output goes to ``output.log`` there
    command       calculates this folder and ends
    worker        a command for a ``process.Child`` that calculates folder after folder, as ``python_worker.py`` does
    batch         how many submissions a worker is best given at once
    attempt       which attempt at the folder this is, from 1
    wall_seconds  time limit; None: the launcher's
    memory_mb     memory limit; None: the launcher's
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    worker: tuple[str, ...] | None = None
    batch: int = 1
    attempt: int = 1
    wall_seconds: float | None = None
    memory_mb: int | None = None


@dataclass(frozen=True)
class Event:
    """A submission has started or ended; ``reason`` and ``cause`` tell what went wrong on the machine.

    An end without a reason promises nothing about the result: the engine judges that. ``seconds`` is the wall time, if
    the launcher knows it.
    """

    name: str
    kind: Literal["started", "ended"]
    reason: str | None = None
    cause: Cause | None = None
    seconds: float | None = None


class NoOptions(Section):
    """The options of a launcher that has none."""


class Launcher(ABC):
    """Runs submissions on a machine; used as a context manager.

    workers       submissions at a time; None: as many as the machine takes
    threads       OpenMP threads of each
    wall_seconds  time limit of one submission (or of one batch)
    memory_mb     memory of one submission; None: no limit
    options       the launcher's own keys (``Options``)
    """

    Options: ClassVar[type[Section]] = NoOptions
    detached: ClassVar[bool] = False
    """Whether submissions outlive the process that made them, because a scheduler has them."""

    def __init__(
        self,
        workers: int | None = None,
        threads: int = 1,
        wall_seconds: float = 600.0,
        memory_mb: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.workers, self.threads, self.wall_seconds, self.memory_mb = workers, threads, wall_seconds, memory_mb
        self.options: Any = check(self.Options, options or {}, "launcher_options")
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 - a launcher may need nothing
        """Make what the launcher keeps while it is used; ``options`` and limits are known by now."""

    @property
    def cores(self) -> int:
        """Cores that one submission holds."""
        return self.threads

    def wall_of(self, submission: Submission) -> float:
        return self.wall_seconds if submission.wall_seconds is None else submission.wall_seconds

    def memory_of(self, submission: Submission) -> int | None:
        return self.memory_mb if submission.memory_mb is None else submission.memory_mb

    @abstractmethod
    def submit(self, submissions: Sequence[Submission]) -> dict[str, str]:
        """Submit; returns the scheduler's own ids by name. Ask ``find`` first: submitting twice runs twice."""

    def find(self, submissions: Sequence[Submission]) -> dict[str, str]:
        """Those submissions that an earlier process gave to the machine, with the scheduler's ids.

        ``wait`` reports on them as if they had been submitted by this launcher. Raises TransientError if the
        machine cannot be asked.
        """
        return {}

    def reasons(self, submissions: Sequence[Submission]) -> dict[str, str]:
        """Why the machine lets submissions of an earlier process wait, in its own words, by name; others are left out.

        Asks once. Raises TransientError if the machine cannot be asked.
        """
        return {}

    @abstractmethod
    def wait(self, timeout: float) -> list[Event]:
        """What has happened, at the latest after ``timeout`` seconds."""

    @abstractmethod
    def cancel(self, names: Iterable[str]) -> None:
        """End these submissions or forget them; they report nothing any more."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the machine. What runs locally ends, what a scheduler has stays there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
