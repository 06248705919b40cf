"""Program of test_native_training: trains runs in forks of itself, and kills them or sends them SIGTERM.

A fork has torch and FairChem loaded already, so that its time is spent on training and not on imports.
"""

import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO, Any

from rlpath_core.backends.fairchem.shims import provide

provide()

from fairchem.core.common.utils import setup_imports  # noqa: E402

from rlpath_core.process.wire import BadMessage, read_message, write_message  # noqa: E402
from rlpath_core.process.worker import CHANNEL  # noqa: E402
from rlpath_core.training.fairchem import dataset, trainer, worker  # noqa: E402
from rlpath_core.training.options import read_run  # noqa: E402

assert dataset.RlpathDataset
assert trainer.install
setup_imports()


def forked(path: Path) -> tuple[int, IO[bytes]]:
    """Start training in a fork: its process id and its channel."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ[CHANNEL] = str(theirs.detach())
        worker.main()
        os._exit(0)
    theirs.close()
    channel = open(ours.detach(), "r+b", buffering=0)  # noqa: SIM115
    spec = read_run(path).model_dump(mode="json")
    write_message(channel, {"call": "train", "header": {"spec": spec}})
    return child, channel


def last_step(path: Path, child: int, channel: IO[bytes], signal_at: int | None = None) -> int:
    """Follow the process to its end, with SIGTERM after update step ``signal_at``; the last step that it reports."""
    last = -1
    with channel:
        while (message := next_message(channel)) is not None and "report" in message:
            if message["report"]["event"] == "at":
                last = message["report"]["global_step"]
                if last == signal_at:
                    os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code > 0 or (message is not None and "error" in message):
        sys.exit(f"{path.name}: exit code {code}: {message}")
    if signal_at is not None and (message is None or message["answer"] != {"stopped": True}):
        sys.exit(f"{path.name}: {message} and exit code {code} after SIGTERM")
    return last


def next_message(channel: IO[bytes]) -> dict[str, Any] | None:
    """None once the process is killed."""
    try:
        message = read_message(channel)
    except (OSError, BadMessage):
        return None
    return message and message[0]


def main(folder: Path, kills: int, seed: int) -> None:
    """Train ``whole.yaml`` without interruption, kill ``killed.yaml`` ``kills`` times before it is trained to the end,
    and send ``asked.yaml`` SIGTERM at step 5 and one step after it was resumed."""
    whole, killed, stopped = (folder / f"{name}.yaml" for name in ("whole", "killed", "asked"))
    start = time.monotonic()
    last_step(whole, *forked(whole))
    length = time.monotonic() - start
    generator, moments = random.Random(seed), []
    while len(moments) < kills:
        child, channel = forked(killed)
        time.sleep(moment := generator.uniform(0.1, 0.8) * length)
        os.kill(child, signal.SIGKILL)
        moments.append(round(moment, 2))
        last_step(killed, child, channel)
    last_step(killed, *forked(killed))
    stops = [last_step(stopped, *forked(stopped), signal_at=5)]
    stops.append(last_step(stopped, *forked(stopped), signal_at=stops[0] + 1))
    last_step(stopped, *forked(stopped))
    print(f"a whole run takes {length:.2f} s; killed after {moments} s; asked to end at steps {stops}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
