"""How the files of version 1 in this folder were made; they stay as they are, and later versions must read them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from rlpath_core.backends import load_model
from rlpath_core.data import read_labelled, write_labelled
from rlpath_core.training import train
from rlpath_core.training.options import read_run

HERE = Path(__file__).parent
TINY = {
    "z_table": [1, 8, 29],
    "cutoff": 3.0,
    "hidden_irreps": "2x0e",
    "max_ell": 1,
    "num_radial_basis": 3,
    "interactions": [{"type": "RealAgnosticInteractionBlock", "radial_mlp": [4]}, {"radial_mlp": [4]}],
    "products": [{"correlation": 1}, {"correlation": 1}],
    "readouts": [{}, {"type": "NonLinearReadoutBlock", "mlp_irreps": "2x0e", "gate": "silu"}],
}

if __name__ == "__main__":
    labelled = read_labelled(HERE.parent / "oc22_emt" / "val.lmdb")[:4]
    for old in ("labels.lmdb", "checkpoint.pt", "run.yaml"):
        (HERE / old).unlink(missing_ok=True)
    write_labelled(HERE / "labels.lmdb", labelled)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.json").write_text(json.dumps(TINY))
        value = {
            "task": "train",
            "run_dir": "run",
            "device": "cpu",
            "data": {"train": str(HERE / "labels.lmdb"), "val": str(HERE / "labels.lmdb")},
            "train": {"input_json": "model.json", "epochs": 2, "batch_size": 2, "progress_bar": False},
        }
        (folder / "run.yaml").write_text(json.dumps(value))
        result = train(read_run(folder / "run.yaml"))
        shutil.copy(folder / "run" / "checkpoints" / "checkpoint.pt", HERE / "checkpoint.pt")
        shutil.copytree(folder / "run" / "artifacts", HERE / "artifacts", dirs_exist_ok=True)
        answers = load_model(result.manifest).predict([one.structure for one in labelled])
    expected = {"energies": [a.energy for a in answers], "labels": [one.energy for one in labelled]}
    (HERE / "expected.json").write_text(json.dumps(expected) + "\n")
