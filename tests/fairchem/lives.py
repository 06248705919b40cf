"""Child of test_native_training: trains runs in forks of itself, kills them or asks them to end at random moments.

A fork has torch and FairChem loaded already, so that a life is training and not importing.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from rlpath_core.backends.fairchem.shims import provide

provide()

from fairchem.core.common.utils import setup_imports  # noqa: E402

from rlpath_core.training.fairchem import dataset, launch, trainer  # noqa: E402
from rlpath_core.training.options import read_run  # noqa: E402

assert dataset.RlpathDataset
assert trainer.install
setup_imports()


def forked(path: Path) -> tuple[int, int, int]:
    """The process id of a life, its standard input and its reports."""
    (reading, writing), (spec_out, spec_in) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(spec_out, 0)
        os.close(spec_in)
        os.close(reading)
        log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdin = open(0)  # noqa: SIM115
        os._exit(launch.main(["--report", str(writing)]))
    os.close(writing)
    os.close(spec_out)
    os.write(spec_in, read_run(path).model_dump_json().encode() + b"\n")
    return child, spec_in, reading


def ended(child: int, stdin: int, reading: int) -> int:
    reports = [json.loads(line) for line in os.fdopen(reading)]
    os.close(stdin)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code > 0:
        sys.exit(f"exit code {code}: {reports[-1:]}")
    return code


def asked_to_end(path: Path, step: int) -> int:
    """SIGTERM once ``step`` update steps are over; the number of the last that the life reports."""
    child, stdin, reading = forked(path)
    last = -1
    with os.fdopen(reading) as reports:
        for text in reports:
            line = json.loads(text)
            if line["event"] == "at":
                last = line["global_step"]
                if last == step:
                    os.kill(child, signal.SIGTERM)
            if line["event"] == "error":
                sys.exit(f"{path.name}: {line}")
    os.close(stdin)
    if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) != 0:
        sys.exit(f"{path.name}: exit code {code} after SIGTERM")
    return last


def main(folder: Path, kills: int, seed: int) -> None:
    """Trains ``whole.yaml`` in one life; ``killed.yaml`` is killed so many times and then ended; ``asked.yaml`` is
    asked to end at step 5 and, taken up, one later, and then ended."""
    start = time.monotonic()
    ended(*forked(folder / "whole.yaml"))
    length = time.monotonic() - start
    generator, moments = random.Random(seed), []
    while len(moments) < kills:
        child, stdin, reading = forked(folder / "killed.yaml")
        time.sleep(moment := generator.uniform(0.1, 0.8) * length)
        os.kill(child, signal.SIGKILL)
        moments.append(round(moment, 2))
        ended(child, stdin, reading)
    ended(*forked(folder / "killed.yaml"))
    stops = [asked_to_end(folder / "asked.yaml", 5)]
    stops.append(asked_to_end(folder / "asked.yaml", stops[0] + 1))
    ended(*forked(folder / "asked.yaml"))
    print(f"a whole run takes {length:.2f} s; killed after {moments} s; asked to end at steps {stops}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
