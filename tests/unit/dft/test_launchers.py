"""The local launcher: the conformance suite, and workers that die, hang, share batches and wait for locks."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.build import molecule

from rlpath_core.dft.engines.base import RESULT
from rlpath_core.dft.engines.tblite import TbliteEngine
from rlpath_core.dft.launchers.base import Submission
from rlpath_core.dft.launchers.local import LocalLauncher, free_memory_mb
from rlpath_core.structure import Structure
from rlpath_core.testing.launcher import LauncherConformance, Make

SCRIPTED_WORKER = Path(__file__).with_name("scripted_worker.py")


class TestLocal(LauncherConformance):
    @pytest.fixture
    def make(self) -> Make:
        return lambda **given: LocalLauncher(**{"workers": 2, **given})

    @pytest.fixture
    def worker(self) -> tuple[str, ...]:
        return (sys.executable, str(SCRIPTED_WORKER))

    def jobs(self, tmp_path: Path, worker: tuple[str, ...], *scripts: str, batch: int = 1) -> list[Submission]:
        out = []
        for n, script in enumerate(scripts):
            (tmp_path / f"job{n}").mkdir()
            (tmp_path / f"job{n}" / "script.py").write_text(script)
            out.append(Submission(f"job{n}", tmp_path / f"job{n}", ("false",), worker, batch))
        return out

    def test_workers_are_kept(self, tmp_path: Path, worker: tuple[str, ...], make: Make) -> None:
        submissions = self.jobs(tmp_path, worker, *[""] * 8)
        with make() as launcher:
            launcher.submit(submissions)
            self.ended(launcher, [t.name for t in submissions])
        assert 1 <= len({(t.folder / "by").read_text() for t in submissions}) <= 2

    @pytest.mark.slow
    @pytest.mark.parametrize("batch", [1, 4])
    def test_a_dying_or_hanging_worker_fails_its_own_job(
        self, tmp_path: Path, worker: tuple[str, ...], make: Make, batch: int
    ) -> None:
        scripts = ["", "os.kill(os.getpid(), 11)", "", "sys.exit('disk full')", "", "import time; time.sleep(99)", ""]
        scripts.append("raise ValueError('wrong')")
        submissions = self.jobs(tmp_path, worker, *scripts, batch=batch)
        with make(wall_seconds=-1.0) as launcher:  # plus the grace: four seconds
            launcher.submit(submissions)
            ended = self.all_ended(launcher, [t.name for t in submissions])
        assert {name for name, event in ended.items() if event.reason is None} == {"job0", "job2", "job4", "job6"}
        assert "SIGSEGV" in (ended["job1"].reason or "")
        assert "disk full" in (ended["job3"].reason or "")
        assert "wall" in (ended["job5"].reason or "")
        assert "exit code 1: ValueError: wrong" in (ended["job7"].reason or "")

    def all_ended(self, launcher, names):  # type: ignore[no-untyped-def]
        """As ``ended``: a submission of a batch that died starts again."""
        return self.ended(launcher, names)

    def test_a_worker_that_cannot_start(self, tmp_path: Path, make: Make) -> None:
        submissions = self.jobs(tmp_path, (sys.executable, "-c", "raise SystemExit('no licence')"), "", "")
        with make() as launcher:
            launcher.submit(submissions)
            ended = self.ended(launcher, [t.name for t in submissions])
        assert all("no licence" in (event.reason or "") for event in ended.values())

    def test_a_locked_folder_is_left_alone(self, tmp_path: Path, make: Make) -> None:
        """Another process is at it: the command waits until that has let go."""
        (submission,) = self.submissions(tmp_path, "touch ran")
        with make() as launcher, open(submission.folder / ".lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            launcher.submit([submission])
            assert launcher.wait(0.5) == []
            assert not (submission.folder / "ran").exists()
            fcntl.flock(lock, fcntl.LOCK_UN)
            self.ended(launcher, [submission.name])
        assert (submission.folder / "ran").exists()

    @pytest.mark.slow
    def test_a_program_keeps_its_lock_when_the_launcher_is_killed(
        self, tmp_path: Path, program: Callable[..., list[str]]
    ) -> None:
        command = program("launcher_to_kill", tmp_path, "command")
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        assert "started" in parent.stdout.readline()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        with open(tmp_path / ".lock", "a") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert (tmp_path / "ended").exists()


@pytest.mark.slow
def test_an_orphaned_worker_finishes_its_job_and_ends(tmp_path: Path, program: Callable[..., list[str]]) -> None:
    """Its parent killed, the job in hand still gets its result, and the process does not stay."""
    engine = TbliteEngine()
    slow = Structure.from_ase(molecule("C60"))
    engine.write_inputs(tmp_path, "0" * 64, slow)
    command = program("launcher_to_kill", tmp_path, "worker")
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    assert "started" in line
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    worker = int(line.split()[-1])
    until = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split(")")[1][:3]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (tmp_path / RESULT).exists()
    assert os.path.getsize(tmp_path / "output.log") > 0  # noqa: PTH202


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/", {}, 8000),
        ("0::/slurm/job_7/step", {"slurm/job_7/memory.max": 2000, "slurm/memory.max": 4000}, 2000),
        ("0::/slurm/job_7", {"memory.max": 1000, "slurm/job_7/memory.max": "max"}, 1000),
        ("3:cpu:/x\n4:cpuset,memory:/slurm/job_7", {"memory/slurm/job_7/memory.limit_in_bytes": 3000}, 3000),
        ("4:memory:/outside/of/the/container", {"memory/memory.limit_in_bytes": 500}, 500),
    ],
)
def test_memory_of_the_groups_that_confine_us(
    tmp_path: Path, groups: str, files: dict[str, int | str], free: int
) -> None:
    written = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8000 << 10} kB\n", "proc/self/cgroup": groups + "\n"}
    for name, limit in files.items():
        written[f"sys/fs/cgroup/{name}"] = f"{limit if isinstance(limit, str) else limit << 20}\n"
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory_mb(tmp_path) == free
