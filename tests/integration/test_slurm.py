"""A real one-node Slurm runs the loop's jobs, and its controller is killed in the middle."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from ase import Atoms
from ase.build import molecule

from rlpath_core.data import S2EFReader
from rlpath_core.dft import cancel, collect, label, submit
from rlpath_core.dft.launchers.slurm import SlurmLauncher
from rlpath_core.dft.options import DftConfig
from rlpath_core.errors import InputError, TransientError
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.launcher import LauncherConformance, Make
from rlpath_core.testing.slurm_cluster import SlurmCluster, missing_programs
from rlpath_core.testing.store import select

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]

OPTIONS = {"poll_seconds": 0.3, "grace_seconds": 1.0, "margin_seconds": 5.0, "outage_seconds": 30.0}
GPAW = {"ecut": 250, "kpoint_length": 5}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), cpus=8) as started:
        yield started


class TestSlurm(LauncherConformance):
    @pytest.fixture
    def make(self, cluster: SlurmCluster) -> Make:
        return lambda **given: SlurmLauncher(**{"options": OPTIONS, **given})

    def test_a_header_of_ones_own(self, tmp_path: Path, make: Make) -> None:
        header = "#SBATCH --job-name=$${job_name}\n#SBATCH --time=$${time}\n#SBATCH --array=$${array}\n"
        header += "#SBATCH --account=$${account}\n#SBATCH --comment=mine\n#SBATCH --output=/dev/null"
        tasks = self.submissions(tmp_path, "squeue -h -j $SLURM_JOB_ID -o %k > comment; echo $MADE > made", "true")
        with make(options={**OPTIONS, "header": header, "setup": ["export MADE=here"]}) as launcher:
            launcher.submit(tasks)
            self.ended(launcher, [task.name for task in tasks])
        assert (tmp_path / "0" / "comment").read_text().strip() == "mine"
        assert (tmp_path / "0" / "made").read_text().strip() == "here"
        (script,) = (tmp_path / "scheduler").glob("*.sh")
        assert "--account" not in script.read_text()

    def test_limits_are_the_tasks_own(self, tmp_path: Path, make: Make) -> None:
        short, long = self.submissions(tmp_path, "sleep 20", "true")
        short = type(short)(**{**vars(short), "wall_seconds": 1.0})
        with make(wall_seconds=100.0) as launcher:
            launcher.submit([short, long])
            ended = self.ended(launcher, [short.name, long.name])
        assert ended[short.name].cause == "wall"
        assert ended[long.name].reason is None

    def test_what_an_earlier_launcher_submitted_is_found(self, tmp_path: Path, make: Make) -> None:
        tasks = self.submissions(tmp_path, "sleep 1", "true", "true")
        with make() as first:
            ids = first.submit(tasks[:2])
        with make() as second:
            found = second.find(tasks)
            assert set(found) == {tasks[0].name, tasks[1].name}
            assert all(found[name] in ("", ids[name]) for name in found)
            self.ended(second, list(found))
        assert [len((t.folder / "runs.log").read_text().splitlines()) for t in tasks[:2]] == [1, 1]

    def test_a_cancellation_that_was_not_asked_for_here_is_the_machines(self, tmp_path: Path, make: Make) -> None:
        (task,) = self.submissions(tmp_path, "sleep 100")
        with make() as launcher:
            (number,) = launcher.submit([task]).values()
            subprocess.run(["scancel", number], check=True)
            ended = self.ended(launcher, [task.name])[task.name]
        assert ended.cause == "node"
        assert "CANCELLED" in (ended.reason or "")

    def test_refused_by_the_scheduler(self, tmp_path: Path, make: Make) -> None:
        (task,) = self.submissions(tmp_path, "true")
        with (
            make(options={**OPTIONS, "partition": "nowhere"}) as launcher,
            pytest.raises(InputError, match="nvalid partition"),
        ):
            launcher.submit([task])

    def test_a_scheduler_that_is_gone(self, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        (task,) = self.submissions(tmp_path, "true")
        conf = Path(os.environ["SLURM_CONF"]).read_text()
        (tmp_path / "slurm.conf").write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=9", conf))
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        with make(options={**OPTIONS, "outage_seconds": 0.5}) as launcher, pytest.raises(TransientError):
            launcher.find([task])


def waters(count: int) -> list[Structure]:
    rng = np.random.default_rng(3)
    water = Structure.from_ase(molecule("H2O"))
    return [water.moved(water.positions + rng.normal(0, 0.05, (3, 3))) for _ in range(count)]


def hydrogens(count: int) -> list[Structure]:
    return [
        Structure.from_ase(Atoms("H2", [[0.1, 0, 0], [0, 0.2, 0.8 + 0.03 * n]], cell=[3, 3, 3.4], pbc=True))
        for n in range(count)
    ]


def test_fifty_three_jobs_and_a_dying_controller(tmp_path: Path, cluster: SlurmCluster) -> None:
    """50 tblite and 3 GPAW jobs; the controller is killed while they run and comes back two seconds later."""
    options = {**OPTIONS, "grace_seconds": 2.0}
    tblite = DftConfig(launcher="slurm", launcher_options=options, wall_seconds=120)
    gpaw = DftConfig(engine="gpaw", settings=GPAW, launcher="slurm", launcher_options=options, wall_seconds=300)
    have_gpaw = subprocess.run(["/usr/bin/python3", "-c", "import gpaw"], capture_output=True).returncode == 0
    with Store(tmp_path) as store:
        ids = select(store, waters(50), 1)
        dft_ids = select(store, hydrogens(3), 2)
        if have_gpaw:
            assert submit(store, gpaw, round_index=2, lmdb=tmp_path / "2.lmdb").open == 3

        def crash() -> None:
            while len(list(tmp_path.glob("dft/*/ended.*.json"))) < 10:
                time.sleep(0.05)
            cluster.kill_controller()
            time.sleep(2.0)
            cluster.start_controller()

        crashing = threading.Thread(target=crash)
        crashing.start()
        done = label(store, tblite, round_index=1, lmdb=tmp_path / "1.lmdb")
        crashing.join()
        assert (done.labelled, done.failed, done.open) == (50, 0, 0), done
        assert [entry.sid for entry in S2EFReader(tmp_path / "1.lmdb")] == ids
        if have_gpaw:
            done = collect(store, gpaw, round_index=2, lmdb=tmp_path / "2.lmdb", wait=True)
            assert (done.labelled, done.failed) == (3, 0), done
            assert [entry.sid for entry in S2EFReader(tmp_path / "2.lmdb")] == dft_ids
        with store.reading() as session:
            jobs = list(session.scalars(sa.select(orm.JobRow)))
        for job in jobs:
            runs = (tmp_path / job.folder / "runs.log").read_text().splitlines()
            attempts = [line.split("attempt ")[1].split()[0] for line in runs]
            assert len(attempts) == len(set(attempts)) <= job.tries
            assert len(list((tmp_path / job.folder).glob("ended.*.json"))) == 1
        assert sum(job.core_seconds for job in jobs) > 0


def test_submit_goes_away_and_collect_comes_back(tmp_path: Path, cluster: SlurmCluster) -> None:
    """As on a login node: three commands, nothing in between; one job is cancelled, one hangs."""
    (tmp_path / "sleepy.py").write_text(
        "import time\nfrom ase.calculators.emt import EMT\nclass Sleepy(EMT):\n"
        "    def calculate(self, *a, **k):\n        super().calculate(*a, **k)\n"
        "        time.sleep(self.atoms.positions[1, 2] - 3.0 if self.atoms.positions[1, 2] > 3 else 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    config = tmp_path / "dft.yaml"
    options = ", ".join(f"{key}: {value}" for key, value in OPTIONS.items())
    config.write_text(
        "engine: ase\nsettings: {calculator: sleepy:Sleepy}\nlauncher: slurm\nwall_seconds: 4\nretries: 1\n"
        f"launcher_options: {{{options}}}\n"
    )
    with Store(tmp_path) as store:
        select(store, [Structure([29, 29], [[0, 0, 0], [0, 0, z]]) for z in (2.2, 2.3, 7.5, 60.0)], 1)

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flows.dft_submit", *words, "--run_dir", str(tmp_path), "--config", str(config)],
            env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "open: 4" in command("submit")
    printed = command("collect", "--wait")
    assert "labelled: 3" in printed, printed  # the third after its time limit was doubled
    assert "failed: 1" in printed
    table = command("failures")
    assert "ran out of time" in table
    assert "wall-time limit of 8 s" in table
    with Store(tmp_path) as store, store.reading() as session:
        tries = session.scalars(sa.select(orm.JobRow.tries).order_by(orm.JobRow.tries)).all()
    assert tries == [1, 1, 2, 2]


def test_cancel(tmp_path: Path, cluster: SlurmCluster) -> None:
    config = DftConfig(
        engine="ase", settings={"calculator": "ase.calculators.emt:EMT"}, launcher="slurm",
        launcher_options={**OPTIONS, "extra": ["#SBATCH --hold"]},
    )  # fmt: skip
    with Store(tmp_path) as store:
        select(store, [Structure([29, 29], [[0, 0, 0], [0, 0, 2.2]])], 1)
        assert submit(store, config, round_index=1, lmdb=tmp_path / "l.lmdb").open == 1
        assert collect(store, config, round_index=1, lmdb=tmp_path / "l.lmdb").open == 1
        (job,) = cancel(store, config, round_index=1)
        assert (tmp_path / "dft" / job / "claim.1").read_text() == "cancelled\n"
        done = label(store, config, round_index=1, lmdb=tmp_path / "l.lmdb")
        assert (done.failed, done.reasons) == (1, {"cancelled": 1})
    name = json.loads((tmp_path / "dft" / job / "submission.1.json").read_text())["job"]
    assert name not in cluster.ask("squeue", "-h", "-t", "pending,running", "-o", "%j")
