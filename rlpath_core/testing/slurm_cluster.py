"""A real one-node Slurm in a temporary folder, with its own munge: for tests of what submits jobs.

Debian: ``apt-get install slurm-wlm munge``. Runs as whoever starts it, listens on this machine only.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

CONF = """\
ClusterName=rlpath
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=2
SlurmdTimeout=12
BatchStartTimeout=3
MessageTimeout=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=100000 State=UNKNOWN
EnforcePartLimits=ALL
MaxArraySize=101
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=1 State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd")
START_SECONDS = 60.0


def missing_programs() -> list[str]:
    """What of a Slurm is not installed here."""
    return [name for name in PROGRAMS if _where(name) is None]


class SlurmCluster:
    """``with SlurmCluster(folder):`` starts it and points SLURM_CONF of this process at it.

    cpus  that the node claims to have; more than there are makes many small jobs run at a time

    A controller that is killed forgets its last seconds. It may then start what already runs, which the node refuses,
    and drain the node for it: a thread does what the administrator would, and resumes it.
    """

    def __init__(self, folder: Path, cpus: int = 8) -> None:
        self.folder = folder.resolve()
        host, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.getuid()).pw_name
        self.host = host
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        self.conf = self.folder / "slurm.conf"
        port, node_port = _free_ports(2)
        self.conf.write_text(
            CONF.format(host=host, user=user, folder=self.folder, cpus=cpus, port=port, node_port=node_port)
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._before: str | None = None
        self._stopping = threading.Event()
        self._administrator = threading.Thread(target=self._administer, daemon=True)

    def __enter__(self) -> Self:
        self._before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(self.conf)
        f = self.folder
        munge = [f"--socket={f}/munge.sock", f"--key-file={f}/munge.key", f"--pid-file={f}/munged.pid"]
        munge += [f"--log-file={f}/munged.log", f"--seed-file={f}/munged.seed", "--num-threads=2"]
        try:
            self._start("munged", "--foreground", "--force", *munge)
            self._until(lambda: (f / "munge.sock").exists(), "munged")
            self.start_controller(wait=False)
            self._start("slurmd", "-D", "-f", str(self.conf))
            self._until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "the node")
            self._administrator.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_controller(self, wait: bool = True) -> None:
        self._start("slurmctld", "-D", "-f", str(self.conf))
        if wait:
            self._until(self.answers, "slurmctld")

    def kill_controller(self) -> None:
        """SIGKILL, as a crash would."""
        process = self._processes.pop("slurmctld")
        process.kill()
        process.wait()

    def answers(self) -> bool:
        return subprocess.run(["squeue", "-h"], capture_output=True, env=self._environment()).returncode == 0

    def ask(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, env=self._environment()).stdout

    def _administer(self) -> None:
        while not self._stopping.wait(1.0):
            if "drain" in self.ask("sinfo", "-h", "-o", "%T"):
                self.ask("scontrol", "update", f"NodeName={self.host}", "State=RESUME")

    def stop(self) -> None:
        """End jobs and daemons, and whatever they left."""
        self._stopping.set()
        if self._administrator.is_alive():
            self._administrator.join()
        if "slurmctld" in self._processes:
            with suppress(OSError):
                subprocess.run(["scancel", "--me"], capture_output=True, timeout=10, env=self._environment())
        for name in ("slurmctld", "slurmd", "munged"):
            process = self._processes.pop(name, None)
            if process is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._end_leftovers()
        if self._before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = self._before

    def _end_leftovers(self) -> None:
        """Step daemons and the controller's helper outlive a killed controller; all carry our SLURM_CONF."""
        mark = f"SLURM_CONF={self.conf}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    name = (entry / "comm").read_text().strip()
                    if name.startswith("slurm") and mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)

    def _start(self, name: str, *words: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(_where(name)), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def _until(self, condition: object, what: str) -> None:
        until = time.monotonic() + START_SECONDS
        while not condition():  # type: ignore[operator]
            for name, process in self._processes.items():
                if process.poll() is not None:
                    said = (self.folder / f"{name}.out").read_text(errors="replace")[-500:]
                    raise RuntimeError(f"{name} ended with exit code {process.returncode}: {said}")
            if time.monotonic() >= until:
                raise RuntimeError(f"{what} did not come up in {START_SECONDS:g} s; its logs are in {self.folder}")
            time.sleep(0.05)


def _where(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
