"""What every launcher must do. A plug-in's tests subclass ``LauncherConformance`` and override ``make``.

Commands are plain ``sh``: a launcher knows nothing of chemistry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlpath_core.dft.launchers.base import Event, Launcher, Task

Make = Callable[..., Launcher]


class LauncherConformance:
    patience = 60.0
    """Seconds that a handful of trivial tasks may take."""

    @pytest.fixture
    def make(self) -> Make:
        """Makes a launcher from ``workers`` and ``wall_seconds``."""
        raise NotImplementedError("override the fixture `make`")

    @staticmethod
    def tasks(folder: Path, *scripts: str) -> list[Task]:
        out = []
        for n, script in enumerate(scripts):
            (folder / str(n)).mkdir(parents=True, exist_ok=True)
            out.append(Task(f"task-{n}", folder / str(n), ("sh", "-c", script)))
        return out

    def ended(self, launcher: Launcher, names: Sequence[str]) -> dict[str, Event]:
        """Waits until all of ``names`` have ended; each exactly once, and none before it started."""
        started: set[str] = set()
        out: dict[str, Event] = {}
        until = time.monotonic() + self.patience
        while set(names) - set(out):
            assert time.monotonic() < until, f"only {sorted(out)} ended"
            for event in launcher.wait(1.0):
                if event.kind == "started":
                    started.add(event.name)
                else:
                    assert event.name not in out
                    out[event.name] = event
        return out

    def test_runs_every_task_in_its_folder(self, tmp_path: Path, make: Make) -> None:
        tasks = self.tasks(tmp_path, *["echo said; pwd > here"] * 5)
        with make() as launcher:
            assert set(launcher.submit(tasks)) == {task.name for task in tasks}
            ended = self.ended(launcher, [task.name for task in tasks])
        assert all(event.reason is None for event in ended.values())
        for task in tasks:
            assert (task.folder / "here").read_text().strip() == str(task.folder.resolve())
            assert "said" in (task.folder / "output.log").read_text()

    def test_a_failure_is_its_own(self, tmp_path: Path, make: Make) -> None:
        tasks = self.tasks(tmp_path, "exit 0", "echo no space left; exit 3", "kill -9 $$", "exit 0")
        with make() as launcher:
            launcher.submit(tasks)
            ended = self.ended(launcher, [task.name for task in tasks])
        assert ended["task-0"].reason is None
        assert ended["task-3"].reason is None
        assert "3" in (ended["task-1"].reason or "")
        assert "no space left" in (ended["task-1"].reason or "")
        assert ended["task-2"].reason is not None

    def test_a_command_that_is_not_there(self, tmp_path: Path, make: Make) -> None:
        (tmp_path / "x").mkdir()
        with make() as launcher:
            launcher.submit([Task("x", tmp_path / "x", ("/no/such/program",))])
            assert self.ended(launcher, ["x"])["x"].reason is not None

    def test_a_hanging_task_is_ended(self, tmp_path: Path, make: Make) -> None:
        tasks = self.tasks(tmp_path, "sleep 1000", "exit 0")
        with make(wall_seconds=1.0) as launcher:
            launcher.submit(tasks)
            ended = self.ended(launcher, ["task-0", "task-1"])
        assert "wall" in (ended["task-0"].reason or "")
        assert ended["task-1"].reason is None

    def test_cancelled_tasks_are_silent(self, tmp_path: Path, make: Make) -> None:
        tasks = self.tasks(tmp_path, "sleep 1000", "sleep 1000", "exit 0", "touch ran")
        with make(workers=1) as launcher:
            launcher.submit(tasks)
            launcher.wait(1.0)
            launcher.cancel(["task-0", "task-1", "task-3"])
            assert set(self.ended(launcher, ["task-2"])) == {"task-2"}
            assert launcher.wait(0.3) == []
        assert not (tmp_path / "3" / "ran").exists()

    def test_waiting_for_nothing_returns(self, make: Make) -> None:
        with make() as launcher:
            assert launcher.wait(0.1) == []
