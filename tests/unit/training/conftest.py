"""Real data for the trainer: an OC22-form LMDB of Cu, O and H that FairChem's own classes wrote, and a tiny network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlpath_core.data import read_labelled, write_extxyz
from rlpath_core.training.options import RunSpec, read_run

OC22 = Path(__file__).parents[2] / "data" / "oc22_emt"
TINY = {
    "z_table": [1, 8, 29],
    "cutoff": 3.5,
    "hidden_irreps": "4x0e",
    "max_ell": 1,
    "num_radial_basis": 5,
    "interactions": [{"type": "RealAgnosticInteractionBlock", "radial_mlp": [8]}, {"radial_mlp": [8]}],
    "products": [{"correlation": 2}, {"correlation": 2}],
    "readouts": [{}, {"type": "NonLinearReadoutBlock", "mlp_irreps": "4x0e", "gate": "silu"}],
}
Configure = Callable[..., RunSpec]


@pytest.fixture(scope="session")
def oc22() -> Path:
    return OC22


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.xyz (8 structures), val.xyz (4) and model.json."""
    folder = tmp_path_factory.mktemp("small")
    write_extxyz(folder / "train.xyz", read_labelled(OC22 / "train")[:8])
    write_extxyz(folder / "val.xyz", read_labelled(OC22 / "val.lmdb")[:4])
    (folder / "model.json").write_text(json.dumps(TINY))
    return folder


@pytest.fixture(scope="session")
def configure(small: Path) -> Configure:
    """A checked run in ``folder``: two epochs of four update steps; sections given are laid over these."""

    def made(folder: Path, **parts: Any) -> RunSpec:
        train = {"epochs": 2, "batch_size": 2, "lr": 0.01, "progress_bar": False}
        value = {
            "task": "train",
            "run_dir": str(folder),
            "device": "cpu",
            **parts,
            "data": {"train": str(small / "train.xyz"), "val": str(small / "val.xyz"), **parts.get("data", {})},
            "train": {"input_json": str(small / "model.json"), **train, **parts.get("train", {})},
        }
        path = folder.with_name(f"{folder.name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        return read_run(path)

    return made
