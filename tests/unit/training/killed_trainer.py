"""Child of test_twenty_kills: trains one run in forks of itself and kills them at random moments.

A fork has torch and mace loaded already, so that a life is training and not importing.
"""

import os
import random
import signal
import sys
import time

from rlpath_core.spec.run import read_run
from rlpath_core.training import train
from rlpath_core.training.tasks import finished_result


def forked(path: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            train(read_run(path))
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def main(whole: str, killed: str, kills: int, seed: int) -> None:
    start = time.monotonic()
    child = forked(whole)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    length = time.monotonic() - start
    generator, done, lives = random.Random(seed), 0, 0
    while done < kills:
        lives += 1
        child = forked(killed)
        until = time.monotonic() + generator.uniform(0, 1.1 * length)
        while time.monotonic() < until and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.002)
        try:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            done += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        except (ProcessLookupError, ChildProcessError):
            pass  # this life ended by itself, and was reaped above
        if lives > 3 * kills:
            sys.exit(f"only {done} kills in {lives} lives")
        if finished_result(read_run(killed).run_dir) is not None and done < kills:
            break
    child = forked(killed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print(f"kills {done} lives {lives + 1} seconds of a whole run {length:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
