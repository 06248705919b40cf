"""What every launcher must do. A plug-in's tests subclass ``LauncherConformance`` and override ``make``.

Commands are plain ``sh``: a launcher knows nothing of chemistry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlpath_core.dft.launchers.base import Event, Launcher, Submission

Make = Callable[..., Launcher]


class LauncherConformance:
    patience = 60.0
    """Seconds that a handful of trivial submissions may take."""

    @pytest.fixture
    def make(self) -> Make:
        """Makes a launcher from ``workers`` and ``wall_seconds``."""
        raise NotImplementedError("override the fixture `make`")

    @staticmethod
    def submissions(folder: Path, *scripts: str) -> list[Submission]:
        out = []
        for n, script in enumerate(scripts):
            (folder / str(n)).mkdir(parents=True, exist_ok=True)
            out.append(Submission(f"submission-{n}", folder / str(n), ("sh", "-c", script)))
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
        submissions = self.submissions(tmp_path, *["echo said; pwd > here"] * 5)
        with make() as launcher:
            assert set(launcher.submit(submissions)) == {submission.name for submission in submissions}
            ended = self.ended(launcher, [submission.name for submission in submissions])
        assert all(event.reason is None for event in ended.values())
        for submission in submissions:
            assert (submission.folder / "here").read_text().strip() == str(submission.folder.resolve())
            assert "said" in (submission.folder / "output.log").read_text()

    def test_a_failure_is_its_own(self, tmp_path: Path, make: Make) -> None:
        submissions = self.submissions(tmp_path, "exit 0", "echo no space left; exit 3", "kill -9 $$", "exit 0")
        with make() as launcher:
            launcher.submit(submissions)
            ended = self.ended(launcher, [submission.name for submission in submissions])
        assert ended["submission-0"].reason is None
        assert ended["submission-3"].reason is None
        assert "3" in (ended["submission-1"].reason or "")
        assert "no space left" in (ended["submission-1"].reason or "")
        assert ended["submission-2"].reason is not None

    def test_a_command_that_is_not_there(self, tmp_path: Path, make: Make) -> None:
        (tmp_path / "x").mkdir()
        with make() as launcher:
            launcher.submit([Submission("x", tmp_path / "x", ("/no/such/program",))])
            assert self.ended(launcher, ["x"])["x"].reason is not None

    def test_a_hanging_task_is_ended(self, tmp_path: Path, make: Make) -> None:
        submissions = self.submissions(tmp_path, "sleep 1000", "exit 0")
        with make(wall_seconds=1.0) as launcher:
            launcher.submit(submissions)
            ended = self.ended(launcher, ["submission-0", "submission-1"])
        assert "wall" in (ended["submission-0"].reason or "")
        assert ended["submission-1"].reason is None

    def test_cancelled_tasks_are_silent(self, tmp_path: Path, make: Make) -> None:
        submissions = self.submissions(tmp_path, "sleep 1000", "sleep 1000", "exit 0", "touch ran")
        with make(workers=1) as launcher:
            launcher.submit(submissions)
            launcher.wait(1.0)
            launcher.cancel(["submission-0", "submission-1", "submission-3"])
            assert set(self.ended(launcher, ["submission-2"])) == {"submission-2"}
            assert launcher.wait(0.3) == []
        assert not (tmp_path / "3" / "ran").exists()

    def test_waiting_for_nothing_returns(self, make: Make) -> None:
        with make() as launcher:
            assert launcher.wait(0.1) == []
