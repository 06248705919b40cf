"""label_counted.py STORE: labels round 1 by EMT; each calculation takes a second and leaves a mark in STORE/marks."""

import sys
from pathlib import Path

from rlpath_core.dft import label
from rlpath_core.dft.options import DftConfig
from rlpath_core.store import Store

folder = Path(sys.argv[1])
settings = {"calculator": "counting_emt:Counting", "kwargs": {"marks": str(folder / "marks"), "seconds": 1.0}}
with Store(folder) as store:
    print(label(store, DftConfig(engine="ase", settings=settings, workers=2), round_index=1, lmdb=folder / "l.lmdb"))
