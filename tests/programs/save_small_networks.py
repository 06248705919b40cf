"""save_small_networks.py FAIRCHEM_TESTS FOLDER: bundles of the small networks that the tests of FairChem define."""

import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from conftest import trainer_of  # type: ignore[import-not-found]

from rlpath_core.backends.fairchem.bundle import export_checkpoint

for name, backend in (("gemnet", "gemnet_oc"), ("eqv2", "equiformer_v2")):
    folder = Path(sys.argv[2]) / name
    file = trainer_of(name, folder / "run").save(checkpoint_file="best_checkpoint.pt", training_state=False)
    export_checkpoint(Path(file), folder, backend=backend)
