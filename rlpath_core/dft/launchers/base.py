"""What every launcher is: it runs commands in folders, under names, and knows nothing of chemistry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self


@dataclass(frozen=True)
class Task:
    """One job for a machine.

    name     unique; a scheduler is asked for it by this name
    folder   where ``command`` runs; its output goes to ``output.log`` there
    command  calculates this folder and ends
    worker   a command that calculates folder after folder (``runner.py``'s protocol), where there is one
    batch    how many tasks a worker is best given at once
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    worker: tuple[str, ...] | None = None
    batch: int = 1


@dataclass(frozen=True)
class Event:
    """A task has started, or has ended; ``reason`` says what went wrong with the machine's part of it, if anything.

    An end without a reason promises nothing about the result: that is for the engine to judge.
    """

    name: str
    kind: Literal["started", "ended"]
    reason: str | None = None


class Launcher(ABC):
    """Runs tasks on a machine; used as a context manager.

    workers       tasks at a time; None: as many as there are cores
    threads       OpenMP threads of each
    wall_seconds  time limit of one task (or of one batch)
    """

    def __init__(self, workers: int | None = None, threads: int = 1, wall_seconds: float = 600.0) -> None:
        self.workers, self.threads, self.wall_seconds = workers, threads, wall_seconds

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> dict[str, str]:
        """Accept tasks; returns the scheduler's own id by name. Ask ``find`` first: submitting twice runs twice."""

    def find(self, names: Iterable[str]) -> dict[str, str]:
        """Of these names, the tasks that the machine still has from an earlier process, with the scheduler's ids."""
        return {}

    @abstractmethod
    def wait(self, timeout: float) -> list[Event]:
        """What has happened, at the latest after ``timeout`` seconds."""

    @abstractmethod
    def cancel(self, names: Iterable[str]) -> None:
        """End these tasks or forget them; they report nothing any more."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the machine. What runs locally ends, what a scheduler has stays there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
