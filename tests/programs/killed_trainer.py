"""Child of test_killed_at_random_moments: trains runs in forks of itself and kills them at random moments.

A fork has torch and mace loaded already, so that a life is training and not importing.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from rlpath_core.training import train
from rlpath_core.training.options import read_run


def forked(path: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            train(read_run(path))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def finished(path: Path) -> None:
    if (code := os.waitstatus_to_exitcode(os.waitpid(forked(path), 0)[1])) != 0:
        sys.exit(f"{path.name}: exit code {code}")


def killed(path: Path, after: float) -> bool:
    """A life of at most ``after`` seconds; whether it was killed before it had finished."""
    child, until = forked(path), time.monotonic() + after
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                sys.exit(f"{path.name}: ended with status {status}")
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def main(folder: Path, kills: int, seed: int) -> None:
    """Trains ``whole.yaml``, then ``killed0.yaml``, ``killed1.yaml`` ... until all kills are done, and ends it."""
    start = time.monotonic()
    finished(folder / "whole.yaml")
    length = time.monotonic() - start
    generator, done, n, moments = random.Random(seed), 0, 0, []
    while done < kills:
        moment = generator.uniform(0, 0.4 * length)
        if killed(folder / f"killed{n}.yaml", moment):
            done += 1
            moments.append(round(moment, 2))
        else:
            n += 1
    finished(folder / f"killed{n}.yaml")
    print(f"a whole run takes {length:.2f} s; {done} kills in {n + 1} run(s), after {moments} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
