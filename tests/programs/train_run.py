"""train_run.py RUN_YAML: trains, also as one of several processes that torchrun starts."""

import sys

from rlpath_core.training import train
from rlpath_core.training.options import read_run

train(read_run(sys.argv[1]))
