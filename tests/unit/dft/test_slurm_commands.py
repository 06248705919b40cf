"""What Slurm's commands are asked, and what their answers mean; other versions and other sites answer differently."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlpath_core.dft.launchers import Submission
from rlpath_core.dft.launchers.slurm import SlurmLauncher
from rlpath_core.dft.launchers.slurm_commands import (
    SchedulerError,
    SlurmCommands,
    clusters_of,
    environment_of,
    options_of,
)
from rlpath_core.errors import InputError, TransientError

CASES = Path(__file__).parents[2] / "data" / "cases" / "slurm"
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
FAILED = "sbatch: error: Batch job submission failed: "
Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts scripts into PATH: ``fake(sbatch="echo 12")``; returns their folder, where each logs how it is called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(**scripts: str) -> Path:
        for name, text in scripts.items():
            log = f'echo "$@" >> {folder}/{name}.calls; env > {folder}/{name}.env\n'
            (folder / name).write_text("#!/bin/sh\n" + log + text + "\n")
            (folder / name).chmod(0o755)
        return folder

    return put


@pytest.fixture
def job_script(tmp_path: Path) -> Path:
    (tmp_path / "job.sh").write_text("#!/bin/bash\n#SBATCH --job-name=rlpath-x\n#SBATCH --time=0-0:1:0\ntrue\n")
    return tmp_path / "job.sh"


def sbatch(script: Path) -> str:
    with open(script.parent / ".lock", "a") as lock:
        return SlurmCommands().sbatch(script, lock)


def launcher(**options: Any) -> SlurmLauncher:
    quick = {"poll_seconds": 0.1, "grace_seconds": 0.1, "outage_seconds": 20.0}
    return SlurmLauncher(options={**quick, **options}, wall_seconds=60.0)


def task(folder: Path, **given: Any) -> Submission:
    (folder / "dft" / "0").mkdir(parents=True, exist_ok=True)
    return Submission(**{"name": "0", "folder": folder / "dft" / "0", "command": ("true",), **given})


@pytest.mark.parametrize(
    ("printed", "number"),
    [
        ("12", "12"),
        ("12;cluster", "12"),
        ("Submitted batch job 12", "12"),
        ("Submitted batch job 12 on cluster big", "12"),
        ("-----\n  Welcome to Lonestar 5\n--> Verifying valid submit host (login2)...OK\n12", "12"),
        ("12;big\nPlease note the maintenance on 2030-01-01", "12"),
        ("nothing that looks like it", ""),
    ],
)
def test_what_sbatch_prints(fake: Fake, job_script: Path, printed: str, number: str) -> None:
    fake(sbatch=f"cat <<'END'\n{printed}\nEND")
    assert sbatch(job_script) == number


@pytest.mark.parametrize(
    ("said", "transient", "key"),
    [
        (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", False, "wall_seconds"),
        (f"sbatch: error: invalid partition: x\n{FAILED}Invalid partition name specified", False, "partition"),
        (f"{FAILED}Invalid account or account/partition combination specified", False, "account"),
        (f"{FAILED}Invalid qos specification", False, "qos"),
        (f"{FAILED}Invalid feature specification", False, "constraint"),
        (f"{FAILED}Invalid job array specification", False, "array_size"),
        (f"{FAILED}User's group not permitted to use this partition", False, "partition"),
        (f"{FAILED}Memory specification can not be satisfied", False, "memory_mb"),
        (f"{FAILED}Node count specification invalid", False, "nodes"),
        (f"{FAILED}CPU count per node can not be satisfied", False, "tasks"),
        (f"{FAILED}Requested node configuration is not available", False, "tasks"),
        (f"{FAILED}Unspecified error", False, "launcher_options"),
        ("sbatch: unrecognized option '--foo'", False, "launcher_options"),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{FAILED}{POLICY}", False, "wall_seconds"),
        (f"sbatch: error: QOSMaxCpuPerJobLimit\n{FAILED}{POLICY}", False, "threads"),
        (f"sbatch: error: AssocGrpCPUMinutesLimit\n{FAILED}{POLICY}", False, "account"),
        (f"{FAILED}Unable to contact slurm controller (connect failure)", True, ""),
        (f"{FAILED}Socket timed out on send/recv operation", True, ""),
        (f"{FAILED}Slurm temporarily unable to accept job, sleeping and retrying.", True, ""),
        (f"{FAILED}Zero Bytes were transmitted or received", True, ""),
        (f"{FAILED}Protocol authentication error", True, ""),
        ("sbatch: error: Munge encode failed: Failed to access \"/run/munge/munge.socket.2\"", True, ""),
        (f"{FAILED}I/O error writing script/environment to file", True, ""),
        (f"{FAILED}Required partition not available (inactive or drained)", True, ""),
    ],
)  # fmt: skip
def test_refusals_are_for_ever_or_for_a_while(
    fake: Fake, job_script: Path, said: str, transient: bool, key: str
) -> None:
    fake(sbatch=f"cat >&2 <<'END'\n{said}\nEND\nexit 1")
    with pytest.raises(SchedulerError) as caught:
        sbatch(job_script)
    assert caught.value.transient is transient
    assert said.splitlines()[-1].removeprefix("sbatch: error: ").removeprefix("sbatch: ") in caught.value.message
    if not transient:
        assert key in caught.value.key


@pytest.mark.parametrize(
    "name", ["", "sbatch: error: AssocMaxSubmitJobLimit\n", "sbatch: error: QOSGrpSubmitJobsLimit\n"]
)
@pytest.mark.parametrize("queued", ["R", "COMPLETED"])
def test_too_many_jobs_is_for_a_while_only_if_there_are_others(
    fake: Fake, job_script: Path, name: str, queued: str
) -> None:
    state = "RUNNING" if queued == "R" else queued
    fake(sbatch=f"cat >&2 <<'END'\n{name}{FAILED}{POLICY}\nEND\nexit 1", squeue=f"echo '4|{state}|1:00|other|None|/x'")
    with pytest.raises(SchedulerError) as caught:
        sbatch(job_script)
    assert caught.value.transient is (queued == "R")
    assert caught.value.key == ("launcher_options.array_size" if name else "wall_seconds, launcher_options")


def test_a_refusal_is_said_at_once(fake: Fake, tmp_path: Path) -> None:
    fake(sbatch=(CASES / "fake_sbatch_time_limit.sh").read_text(), squeue="true")
    began = time.monotonic()
    with launcher() as slurm, pytest.raises(InputError, match="Requested time limit is invalid") as caught:
        slurm.submit([task(tmp_path)])
    assert caught.value.key == "wall_seconds"
    assert time.monotonic() - began < 5


def test_more_time_for_another_attempt_may_be_refused(fake: Fake, tmp_path: Path) -> None:
    """The longer limit of one job is no reason to stop the others."""
    fake(sbatch=(CASES / "fake_sbatch_time_limit.sh").read_text(), squeue="true")
    with launcher() as slurm:
        slurm.submit([task(tmp_path, attempt=2, wall_seconds=120.0)])
        started, ended = slurm.wait(0.0)
        assert slurm.wait(0.0) == []
    assert (started.kind, ended.kind, ended.cause) == ("started", "ended", "wall")
    assert "Requested time limit is invalid" in str(ended.reason)


def test_an_outage_is_said_and_waited_for(fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    down = f"{FAILED}Unable to contact slurm controller (connect failure)"
    folder = fake(squeue="true", sbatch=f'test $(wc -l < {tmp_path}/bin/sbatch.calls) -gt 2 && echo 7 || '
                                        f'{{ echo "{down}" >&2; exit 1; }}')  # fmt: skip
    with caplog.at_level(logging.INFO, "rlpath.dft"), launcher() as slurm:
        assert slurm.submit([task(tmp_path)]) == {"0": "7"}
    assert len((folder / "sbatch.calls").read_text().splitlines()) == 3
    said = [record.getMessage() for record in caplog.records if "Unable to contact" in record.getMessage()]
    assert len(said) == 1
    assert "tried again every 0.1 s for at most 20 s" in said[0]
    fake(squeue="echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1")
    with launcher(outage_seconds=0.3) as slurm, pytest.raises(TransientError, match="Socket timed out"):
        slurm.find([task(tmp_path)])


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    began = time.monotonic()
    with launcher() as slurm, pytest.raises(InputError, match="squeue is not on the PATH"):
        slurm.find([task(tmp_path)])
    assert time.monotonic() - began < 5


def test_an_ended_job_is_not_taken_for_the_one_that_sbatch_refused(fake: Fake, tmp_path: Path) -> None:
    """An earlier attempt has ended under its name; the next is accepted only at the second call."""
    fake(sbatch="echo 1", squeue="true")
    with launcher() as slurm:
        slurm.submit([task(tmp_path)])
    (old,) = (tmp_path / "dft" / "scheduler").glob("*.sh")
    folder = fake(sbatch=f"test $(wc -l < {tmp_path}/bin/sbatch.calls) -gt 2 && echo 2 || "
                         "{ echo 'Socket timed out' >&2; exit 1; }",
                  squeue=f"echo '1|COMPLETED|0:01|{old.stem}|None|/x'")  # fmt: skip
    with launcher() as slurm:
        assert slurm.submit([task(tmp_path)]) == {"0": "2"}
    assert len((folder / "sbatch.calls").read_text().splitlines()) == 3


def test_the_environment_of_a_job_around_us(fake: Fake, job_script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = {
        "SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "9", "SLURM_MEM_PER_CPU": "100",
        "SLURM_MEM_PER_NODE": "200", "SLURM_CPUS_PER_TASK": "2", "SLURM_TRES_PER_TASK": "cpu:2", "SLURM_NTASKS": "5",
        "SLURM_CPU_BIND": "mask_cpu:0x1", "SLURM_EXPORT_ENV": "NONE", "SLURMD_NODENAME": "n", "SRUN_DEBUG": "3",
        "SBATCH_CPU_BIND": "x", "PMI_RANK": "0", "PMIX_NAMESPACE": "x", "OMPI_COMM_WORLD_RANK": "0",
        "SBATCH_ARRAY_INX": "1-50", "SBATCH_WAIT": "1", "SBATCH_JOB_NAME": "mine",
    }  # fmt: skip
    own = {"SBATCH_ACCOUNT": "chem", "SBATCH_TIMELIMIT": "5", "SLURM_CONF": "/c", "PMIX_MCA_gds": "hash", "LC_ALL": "C"}
    for name, value in {**inherited, **own}.items():
        monkeypatch.setenv(name, value)
    folder = fake(sbatch="echo 1")
    sbatch(job_script)
    given = dict(line.split("=", 1) for line in (folder / "sbatch.env").read_text().splitlines() if "=" in line)
    assert not set(inherited) & set(given)
    assert own.items() <= given.items()
    # Slurm prefers SBATCH_TIMELIMIT to the script, and the command line to both.
    assert (folder / "sbatch.calls").read_text().split() == [
        "--parsable", "--job-name=rlpath-x", "--time=0-0:1:0", "job.sh",
    ]  # fmt: skip


def test_settings_of_squeue_and_scancel_hide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SQUEUE_PARTITION", "SQUEUE_STATES", "SCANCEL_STATE", "SCANCEL_INTERACTIVE"):
        monkeypatch.setenv(name, "x")
    assert not {name for name in environment_of("squeue") if name.startswith(("SQUEUE_", "SCANCEL_"))}


def test_which_jobs_squeue_is_asked_for(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, "somebody-else")
    folder = fake(squeue="true")
    assert SlurmCommands().squeue() == []
    assert f"--user={os.getuid()}" in (folder / "squeue.calls").read_text().split()


def test_lines_of_squeue(fake: Fake) -> None:
    """Jobs of ours and of others, of versions of Slurm with states that are not known here."""
    lines = [
        "1_3|RUNNING|1-02:03:04|rlpath-a|None|/a b|c",
        "2|LAUNCH_FAILED|INVALID|rlpath-b|launch failed|/x",
        "3|REQUEUED|0:00|rlpath-c|BeginTime|/x",
        "4|COMPLETED|0:10|a|name|with|bars|in|it",
        "CLUSTER: big",
        "",
        "5_[7-9%2]|PENDING|0:00|foreign|JobArrayTaskLimit|/x",
        "6|OUT_OF_MEMORY|0:10|rlpath-d|OutOfMemory|/x",
        "7|REVOKED|0:00|rlpath-e|None|/x",
    ]
    fake(squeue="cat <<'END'\n" + "\n".join(lines) + "\nEND")
    jobs = {job.number: job for job in SlurmCommands().squeue()}
    first = jobs["1_3"]
    assert (first.index, first.running, first.seconds, first.folder) == (3, True, 93784.0, "/a b|c")
    assert (jobs["2"].ended, jobs["2"].known_state, jobs["2"].seconds) == (False, None, None)
    assert (jobs["3"].ended, jobs["3"].waiting, jobs["3"].reason) == (False, True, "BeginTime")
    assert jobs["5_[7-9%2]"].index is None
    assert [number for number, job in jobs.items() if job.ended] == ["4", "6"]


@pytest.mark.parametrize(("words", "code"), [("slurm_load_jobs error: Socket timed out", 0), ("", 1)])
def test_half_a_list_of_jobs_is_none(fake: Fake, words: str, code: int) -> None:
    fake(squeue=f"echo '1|RUNNING|0:01|rlpath-a|None|/x'; echo '{words}' >&2; exit {code}")
    with pytest.raises(SchedulerError) as caught:
        SlurmCommands().squeue()
    assert caught.value.transient
    fake(
        squeue="echo '1|RUNNING|0:01|rlpath-a|None|/x'; echo 'squeue: error: Parsing error at unrecognized key: X' >&2"
    )
    assert [job.number for job in SlurmCommands().squeue()] == ["1"]


def test_a_job_in_an_unknown_state_is_asked_for_again(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fake(sbatch="echo 4711", squeue="true")
    with caplog.at_level(logging.INFO, "rlpath.dft"), launcher() as slurm:
        slurm.submit([task(tmp_path)])
        (script,) = (tmp_path / "dft" / "scheduler").glob("*.sh")
        fake(squeue=f"echo '4711|LAUNCH_FAILED|0:00|{script.stem}|launch failed|/x'")
        assert slurm.wait(1.0) == []
        fake(squeue="true")
        for _ in range(10):  # gone, and it never began: submitted again
            slurm.wait(0.3)
            if len((folder / "sbatch.calls").read_text().splitlines()) == 2:
                break
        else:
            pytest.fail("a job that has vanished was not submitted again")
    (said,) = [record.getMessage() for record in caplog.records if "LAUNCH_FAILED" in record.getMessage()]
    assert "unknown here" in said


def test_scancel(fake: Fake) -> None:
    lines = ["1|RUNNING|0:01|rlpath-a|None|/x", "2|RUNNING|0:01|rlpath-b|None|/x"]
    gone = "scancel: error: Kill job error on job id 1: Invalid job id specified"
    folder = fake(squeue="\n".join(f"echo '{line}'" for line in lines), scancel=f"echo '{gone}' >&2; exit 1")
    slurm = SlurmCommands()
    jobs = slurm.squeue()
    slurm.scancel(jobs)
    assert (folder / "scancel.calls").read_text().split() == ["1", "2"]
    SlurmCommands("big").scancel(jobs)
    assert (folder / "scancel.calls").read_text().splitlines()[-1] == "--clusters=big 1 2"
    SlurmCommands("big,small").scancel(jobs)  # a number is of one cluster only
    assert (folder / "scancel.calls").read_text().splitlines()[-1] == "--clusters=big,small --name=rlpath-b 2"
    fake(scancel="echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SchedulerError, match="Unable to contact"):
        slurm.scancel(jobs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\n#SBATCH --time=1\n\n#SBATCH -p a  # queue\ntrue\n#SBATCH --hold", ["--time=1", "-p", "a"]),
        ("#SBATCH --comment='a # b' # don't", ["--comment=a # b"]),
        ("#SBATCH\t--exclude=n[1-3]\n##SBATCH --hold\n#SBATCHES --hold\n# SBATCH --hold", ["--exclude=n[1-3]"]),
        ("#SBATCH --constraint=a&b  # it's fast", ["--constraint=a&b"]),
    ],
)  # fmt: skip
def test_options_of_a_script(text: str, words: list[str]) -> None:
    assert options_of(text) == words


def test_clusters() -> None:
    assert clusters_of(["", "#SBATCH --clusters=big"]) == "big"
    assert clusters_of(["#SBATCH -p main\n#SBATCH -M big"]) == "big"
    assert clusters_of(["", "#SBATCH --mail-type=END"]) is None


@pytest.mark.parametrize("line", ["--job-name=x", "-J x", "-a 1-3", "--wait", "-W"])
def test_a_header_may_not_hide_the_job(line: str) -> None:
    with pytest.raises(InputError, match="extra"):
        launcher(extra=[f"#SBATCH {line}"])
