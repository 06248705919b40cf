"""A real Slurm that is not ours alone: other campaigns, other jobs, limits, and whatever the shell around us says."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flows.dft_submit import main
from rlpath_core.dft import cancel, collect, label, retry, submit
from rlpath_core.dft.launchers import Submission, script
from rlpath_core.dft.launchers.slurm import SlurmLauncher
from rlpath_core.dft.options import DftConfig
from rlpath_core.errors import InputError
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.slurm_cluster import SlurmCluster, missing_programs
from rlpath_core.testing.store import select

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]

CASES = Path(__file__).parents[1] / "data" / "cases" / "slurm"
OPTIONS = {"poll_seconds": 0.3, "grace_seconds": 1.0, "margin_seconds": 5.0, "outage_seconds": 30.0}
EMT = {"engine": "ase", "settings": {"calculator": "ase.calculators.emt:EMT"}, "launcher": "slurm"}
ODD = ["""-a b 'q' "d" $HOME `ls` ü\N{SNOWMAN};&|*#""", "100%j %%a", "a\\x %"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), cpus=8) as started:
        yield started


def config(**options: Any) -> DftConfig:
    return DftConfig(**EMT, launcher_options={**OPTIONS, **options})


def copper(count: int = 2) -> list[Structure]:
    return [Structure([29, 29], [[0, 0, 0], [0, 0, 2.2 + 0.1 * n]]) for n in range(count)]


def campaign(folder: Path, count: int = 2, **options: Any) -> Store:
    """A store with jobs that Slurm holds."""
    store = Store(folder)
    select(store, copper(count))
    held = config(extra=["#SBATCH --hold"], **options)
    assert submit(store, held, round_index=1, lmdb=folder / "l.lmdb").open == count
    return store


def names(folder: Path) -> set[str]:
    return {json.loads(path.read_text())["job"] for path in folder.glob("dft/*/submission.*.json")}


def waiting(cluster: SlurmCluster, name: str) -> int:
    return cluster.ask("squeue", "-h", "-r", "-t", "pending", "-o", "%j").split().count(name)


def task(folder: Path, command: str = "true", n: int = 0, **given: Any) -> Submission:
    (folder / "dft" / str(n)).mkdir(parents=True, exist_ok=True)
    return Submission(**{"name": str(n), "folder": folder / "dft" / str(n), "command": ("sh", "-c", command), **given})


def finish(launcher: SlurmLauncher, count: int = 1) -> dict[str, Any]:
    ended: dict[str, Any] = {}
    until = time.monotonic() + 60
    while len(ended) < count:
        assert time.monotonic() < until, f"only {sorted(ended)} ended"
        ended |= {event.name: event for event in launcher.wait(1.0) if event.kind == "ended"}
    return ended


def in_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_two_campaigns_with_the_same_structures(tmp_path: Path, cluster: SlurmCluster) -> None:
    with campaign(tmp_path / "one") as one, campaign(tmp_path / "two") as two:
        (first,), (second,) = names(one.folder), names(two.folder)
        assert first != second
        shutil.copytree(one.folder, tmp_path / "copy")
        with Store(tmp_path / "copy") as copy:
            assert len(cancel(copy, config(), round_index=1)) == 2
        assert (waiting(cluster, first), waiting(cluster, second)) == (2, 2)
        assert len(cancel(one, config(), round_index=1)) == 2
        assert (waiting(cluster, first), waiting(cluster, second)) == (0, 2)
        cancel(two, config(), round_index=1)
        assert waiting(cluster, second) == 0


def test_jobs_that_another_launcher_has(tmp_path: Path, cluster: SlurmCluster) -> None:
    """Without the cluster's config, nothing is calculated twice, and ``cancel`` still ends the cluster's jobs."""
    here = DftConfig(**{**EMT, "launcher": "local"})
    with campaign(tmp_path) as store:
        (name,) = names(store.folder)
        with pytest.raises(InputError, match="launcher slurm has 2 jobs of this store"):
            collect(store, here, round_index=1, lmdb=tmp_path / "l.lmdb")
        assert waiting(cluster, name) == 2
        assert len(cancel(store, here, round_index=1)) == 2
        assert waiting(cluster, name) == 0
        assert retry(store, here, round_index=1)
        done = collect(store, here, round_index=1, lmdb=tmp_path / "l.lmdb")
        assert (done.labelled, done.failed) == (2, 0)
        with store.reading() as session:
            assert set(session.scalars(sa.select(orm.JobRow.launcher))) == {"local"}


def test_submissions_of_an_earlier_version(tmp_path: Path, cluster: SlurmCluster) -> None:
    """Version 0.2 gave jobs of two campaigns one name, and recorded no folder."""
    name = "rlpath-" + 40 * "a"
    tasks = [task(tmp_path / which) for which in ("one", "two")]
    for each in tasks:
        spool = each.folder.parent / "scheduler"
        spool.mkdir()
        (spool / "job.sh").write_text(f"#!/bin/bash\n#SBATCH --job-name={name} --hold\ntrue\n")
        subprocess.run(["sbatch", "job.sh"], cwd=spool, check=True, capture_output=True)
        (each.folder / "submission.1.json").write_text(json.dumps({"job": name, "index": None, "times": 1}))
    for left, each in ((1, tasks[0]), (0, tasks[1])):
        with SlurmLauncher(options=OPTIONS) as launcher:
            assert set(launcher.find([each])) == {each.name}
            launcher.cancel([each.name])
        assert waiting(cluster, name) == left


def test_a_second_attempt_whose_sbatch_fails_at_first(
    tmp_path: Path, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller still lists the ended first submission of the same attempt."""
    real = shutil.which("sbatch")
    fails = f'#!/bin/sh\n[ -e {tmp_path}/failed ] && exec {real} "$@"\n: > {tmp_path}/failed\n'
    fails += "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1\n"
    again = task(tmp_path, "echo run >> runs")
    with SlurmLauncher(options=OPTIONS) as launcher:
        launcher.submit([again])
        finish(launcher)
        for path in (script.claim_of(again), script.ended_of(again)):
            path.unlink()
        in_path(tmp_path / "bin", monkeypatch, sbatch=fails)
        assert launcher.submit([again])["0"].isdigit()
        assert finish(launcher)["0"].reason is None
    assert (again.folder / "runs").read_text() == "run\nrun\n"


SUBMITTING = """
import sys, time
from pathlib import Path
from rlpath_core.dft.launchers import Submission
from rlpath_core.dft.launchers.slurm import SlurmLauncher

tasks = []
for n in range(int(sys.argv[2])):
    folder = Path(sys.argv[1]) / "dft" / str(n)
    folder.mkdir(parents=True)
    tasks.append(Submission(str(n), folder, ("sh", "-c", "env > environment"), attempt=1))
with SlurmLauncher(options={"poll_seconds": 0.3, "grace_seconds": 1.0, "margin_seconds": 5.0}) as launcher:
    launcher.submit(tasks)
    ended = {}
    until = time.monotonic() + 50
    while len(ended) < len(tasks) and time.monotonic() < until:
        ended |= {event.name: event.reason for event in launcher.wait(1.0) if event.kind == "ended"}
print("ended:", sorted(ended.items()))
"""


@pytest.mark.parametrize("count", [1, 2])
def test_submitted_from_inside_an_array(tmp_path: Path, cluster: SlurmCluster, count: int) -> None:
    (tmp_path / "submitting.py").write_text(SUBMITTING)
    (tmp_path / "outer.sh").write_text(
        "#!/bin/bash\n#SBATCH --array=7 --mem-per-cpu=100 --cpus-per-task=2 --job-name=outer --output=outer.log\n"
        f"PYTHONPATH={Path(__file__).parents[2]} {sys.executable} submitting.py {tmp_path} {count}; touch over\n"
    )
    subprocess.run(["sbatch", "outer.sh"], cwd=tmp_path, check=True, capture_output=True)
    until = time.monotonic() + 60
    while not (tmp_path / "over").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert f"ended: {[(str(n), None) for n in range(count)]}" in (tmp_path / "outer.log").read_text()
    for n in range(count):
        lines = (tmp_path / "dft" / str(n) / "environment").read_text().splitlines()
        inner = dict(line.split("=", 1) for line in lines if line.startswith("SLURM"))
        assert inner.get("SLURM_ARRAY_TASK_ID") == (None if count == 1 else str(n + 1))
        assert inner["SLURM_CPUS_PER_TASK"] == "1"
        assert "SLURM_MEM_PER_CPU" not in inner
        assert inner["SLURM_JOB_NAME"].startswith("rlpath-")


def test_variables_of_the_shell(
    tmp_path: Path, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = {
        "SBATCH_JOB_NAME": "mine", "SBATCH_TIMELIMIT": "1", "SBATCH_ARRAY_INX": "1-3", "SBATCH_WAIT": "1",
        "SBATCH_OUTPUT": "/dev/null", "SBATCH_REQUEUE": "1", "SBATCH_PARTITION": "nowhere",
        "SBATCH_MEM_PER_NODE": "50", "SLURM_MEM_PER_NODE": "50",
        "SQUEUE_PARTITION": "nowhere", "SQUEUE_STATES": "completed", "SCANCEL_STATE": "suspended",
        "LOGNAME": "somebody-else", "USER": "somebody-else",
    }  # fmt: skip
    for name, value in {**hostile, "SBATCH_ACCOUNT": "chem"}.items():
        monkeypatch.setenv(name, value)
    fields = "%j/%l/%a/%P/%m"
    with (
        caplog.at_level(logging.INFO, "rlpath.dft"),
        SlurmLauncher(options={**OPTIONS, "partition": "main"}, wall_seconds=595.0, memory_mb=300) as launcher,
    ):
        ask = f"unset SQUEUE_PARTITION SQUEUE_STATES; squeue -h -j $SLURM_JOB_ID -o {fields} > seen; echo run >> runs"
        launcher.submit([task(tmp_path, ask), task(tmp_path, "sleep 1000", 1)])
        assert set(finish(launcher)) == {"0"}
        launcher.cancel(["1"])
    name, limit, account, partition, memory = (tmp_path / "dft" / "0" / "seen").read_text().strip().split("/")
    assert name.startswith("rlpath-")
    assert (limit, account, partition, memory) == ("11:00", "chem", "main", "300M")
    assert (tmp_path / "dft" / "0" / "runs").read_text() == "run\n"
    assert name not in cluster.ask("squeue", "-h", "-t", "pending,running", "-o", "%j")
    assert "SBATCH_ACCOUNT=chem" in caplog.text


def test_jobs_of_others_in_unknown_states(
    tmp_path: Path, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = (
        (CASES / "fake_squeue_unknown_state.sh").read_text().replace("/usr/bin/squeue", str(shutil.which("squeue")))
    )
    more = 'echo "4712|LAUNCH_FAILED|INVALID|another-project|launch failed|/x"\nexit $rc\n'
    in_path(tmp_path / "bin", monkeypatch, squeue=shared.replace("exit $rc", more))
    monkeypatch.setenv("LOGNAME", "somebody-else")
    with Store(tmp_path / "store") as store:
        select(store, copper())
        done = label(store, config(), round_index=1, lmdb=tmp_path / "l.lmdb")
    assert (done.labelled, done.failed) == (2, 0), done
    assert len(list((tmp_path / "store" / "dft" / "scheduler").glob("*.sh"))) == 1, "submitted once"
    for runs in (tmp_path / "store").glob("dft/*/runs.log"):
        assert len(runs.read_text().splitlines()) == 1


def test_limits_of_the_cluster(tmp_path: Path, cluster: SlurmCluster) -> None:
    """Refused at once, in Slurm's words, with the key; another attempt with more time fails alone."""
    began = time.monotonic()
    with SlurmLauncher(options={**OPTIONS, "partition": "short"}, wall_seconds=30.0) as launcher:
        with pytest.raises(InputError, match="Requested time limit is invalid") as caught:
            launcher.submit([task(tmp_path, wall_seconds=600.0)])
        assert caught.value.key == "wall_seconds"
        launcher.submit([task(tmp_path, n=1), task(tmp_path, n=2, attempt=2, wall_seconds=600.0)])
        ended = finish(launcher, 2)
    assert ended["1"].reason is None
    assert ended["2"].cause == "wall"
    assert "Requested time limit is invalid" in ended["2"].reason
    with (
        SlurmLauncher(options={**OPTIONS, "array_size": 500}) as launcher,
        pytest.raises(InputError, match="Invalid job array specification") as caught,
    ):
        launcher.submit([task(tmp_path, n=n) for n in range(101)])
    assert caught.value.key == "launcher_options.array_size"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("name", "count"), list(zip(ODD, (2, 1, 2), strict=True)), ids=["shell", "percent", "backslash"]
)
def test_a_folder_with_an_odd_name(tmp_path: Path, cluster: SlurmCluster, name: str, count: int) -> None:
    folder = tmp_path / name
    with Store(folder) as store:
        select(store, copper(count))
        done = label(store, config(setup=["echo set up in $PWD"]), round_index=1, lmdb=folder / "l.lmdb")
        assert (done.labelled, done.failed) == (count, 0), done
        with store.reading() as session:
            assert session.scalars(sa.select(orm.JobRow.tries)).all() == [1] * count
    logs = sorted((folder / "dft" / "scheduler").glob("*.log"))
    assert len(logs) == count
    assert {log.read_text() for log in logs} == {f"set up in {folder}/dft/scheduler\n"}


def test_status_says_why_jobs_wait_and_cancel_takes_all(
    tmp_path: Path, cluster: SlurmCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with campaign(tmp_path, 3) as store:
        (name,) = names(store.folder)
    options = ", ".join(f"{key}: {value}" for key, value in OPTIONS.items())
    (tmp_path / "dft.yaml").write_text(
        "engine: ase\nsettings: {calculator: 'ase.calculators.emt:EMT'}\nlauncher: slurm\n"
        f"launcher_options: {{{options}}}\n"
    )
    given = ["--run_dir", str(tmp_path), "--config", str(tmp_path / "dft.yaml")]
    assert main(["status", "--run_dir", str(tmp_path)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "waiting"
    assert row.endswith("3 JobHeldUser")
    assert main(["status", "--json", *given]) == 0
    assert json.loads(capsys.readouterr().out)[0]["waiting"] == {"JobHeldUser": 3}
    assert main(["cancel", "--job", "all", *given]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "cancel: 3"
    assert waiting(cluster, name) == 0
