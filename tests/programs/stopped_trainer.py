"""stopped_trainer.py RUN_YAML STEP SIGNAL: trains, and sends itself SIGNAL (a name) after update step STEP."""

import os
import signal
import sys
from typing import Any

from rlpath_core.training import train
from rlpath_core.training.options import read_run

path, step, number = sys.argv[1], int(sys.argv[2]), signal.Signals[sys.argv[3]]


def watch(line: dict[str, Any]) -> None:
    if line["event"] == "step" and line["global_step"] == step:
        os.kill(os.getpid(), number)


train(read_run(path), progress=watch)
