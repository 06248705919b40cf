"""The local Prefect server and one worker per pool, of the folder that the command is given in.

Not by ``prefect server start --background``: it waits for no answer, keeps no log, and ends whatever process has the
pid that it noted; for workers there is no such option. Here both are ended with all they started, after a power cut
too.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

from flows.services import processes
from flows.services.register import pool_names, register
from rlpath_core.backends.environments import interpreter_of
from rlpath_core.errors import FatalError, InputError
from rlpath_core.locks import exclusive
from rlpath_core.packaged import packaged

PORT = 4271
SETTINGS = Path("prefect.toml")
QUIET = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def up() -> str:
    """A server that answers, everything registered, a worker on every pool; returns the API's address.

    Uses the server of PREFECT_API_URL if that is set, else this folder's own, which is started if it does not run, on
    RLPATH_PORT (4271) or the next free port. Prefect reads its settings from the folder's ``prefect.toml``: one that is
    not there yet is written.
    """
    processes.STATE.mkdir(parents=True, exist_ok=True)
    if not SETTINGS.exists():
        shutil.copy(packaged(SETTINGS.name), SETTINGS)
    with exclusive(processes.STATE / ".services.lock", "the set-up of the services", wait=180):
        given = os.environ.get("PREFECT_API_URL")
        url = given or _own_server()
        if given and not answers(given):
            raise InputError(
                "no Prefect server answers there; unset it to have a local one started", "PREFECT_API_URL", given
            )
        with connected(url):
            register()
            started = _start_workers(url, own=given is None)
            if started and given is None:
                mark_lost_runs()
    return url


def connected(url: str) -> AbstractContextManager[Any]:
    """Prefect's clients talk to ``url``; the settings that were read at import may not know it yet."""
    return temporary_settings({PREFECT_API_URL: url})


def _own_server() -> str:
    url_file = processes.STATE / "url"
    if processes.alive("server") and url_file.exists():
        url = url_file.read_text(encoding="utf-8").strip()
        processes.wait_for("server", lambda: answers(url), 120)
        return url
    for name in processes.running():
        processes.stop(name)  # workers of a server that no longer runs
    port = free_port(int(os.environ.get("RLPATH_PORT", PORT)))
    url = f"http://127.0.0.1:{port}/api"
    print(f"starting the Prefect server at {url.removesuffix('/api')}", flush=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    processes.start("server", command, QUIET | {"PREFECT_API_URL": url})
    url_file.write_text(f"{url}\n", encoding="utf-8")
    # `prefect ...` and `python -m flows.NAME` in this folder find the server by this profile (prefect.toml names it).
    profile = f'active = "local"\n\n[profiles.local]\nPREFECT_API_URL = "{url}"\n'
    (processes.STATE / "profiles.toml").write_text(profile, encoding="utf-8")
    processes.wait_for("server", lambda: answers(url), 120)
    return url


def free_port(first: int) -> int:
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise FatalError(f"no free port between {first} and {first + 99}; set RLPATH_PORT")


def _start_workers(url: str, own: bool) -> list[str]:
    """Start a worker for every pool that has none, from the environment that the pool's runs need."""
    started = []
    for pool in pool_names():
        name = f"worker-{pool}"
        python = _python_of(pool)
        if processes.alive(name) or python is None or (not own and _has_worker(pool)):
            continue
        processes.stop(name)  # runs that a killed worker left behind
        command = [str(python), "-m", "prefect", "worker", "start"]
        command += ["--pool", pool, "--type", "process", "--name", f"{pool}-{socket.gethostname()}"]
        path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        processes.start(name, command, QUIET | {"PREFECT_API_URL": url, "PATH": path})
        started.append(name)
    return started


def _python_of(pool: str) -> Path | None:
    """The interpreter of a pool's worker; None for FairChem's if there is no such environment."""
    if pool != "gpu-fairchem":
        return Path(sys.executable)
    try:
        return interpreter_of("equiformer_v2")
    except InputError:
        return None


def _has_worker(pool: str) -> bool:
    with get_client(sync_client=True) as client:
        workers: list[Any] = client._client.post(f"/work_pools/{pool}/workers/filter", json={}).json()
    return any(worker["status"] == "ONLINE" for worker in workers)


def mark_lost_runs() -> list[str]:
    """Mark runs as Crashed whose process on this machine is gone (a power cut, a killed worker).

    Only for the server of this folder: processes of other machines are not known here. Returns the names of the runs.
    """
    live = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    lost = []
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=live)))
        )
        for run in found:
            if run.deployment_id is not None and not _engine_runs(run.infrastructure_pid):
                client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)
                lost.append(run.name)
    return lost


def _engine_runs(pid: str | None) -> bool:
    """Whether that process of this machine is still a Prefect engine; ``pid`` is "123" or "host:123"."""
    if pid is None:
        return False
    try:
        return "prefect.engine" in psutil.Process(int(pid.rpartition(":")[2])).cmdline()
    except (psutil.Error, ValueError):
        return False


def down() -> None:
    """End the workers, what they run, and the server."""
    names = sorted(processes.running(), key=lambda name: name == "server")
    ended = [name for name in names if processes.stop(name)]
    for file in ("url", "profiles.toml"):
        (processes.STATE / file).unlink(missing_ok=True)
    print(f"ended: {', '.join(ended)}" if ended else "nothing was running")


def status() -> None:
    for name in processes.running():
        print(f"{name}: {'up' if processes.alive(name) else 'dead'}, log {processes.log_of(name)}")
