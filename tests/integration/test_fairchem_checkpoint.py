"""FairChem's own checkpoint files from an environment without FairChem: a process of the other one opens them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read

from rlpath_core.backends import load_model
from rlpath_core.backends.environments import interpreter_of
from rlpath_core.errors import InputError
from rlpath_core.structure import read_structures
from rlpath_core.training import run
from rlpath_core.training.options import RunSpec

MODELS = Path(__file__).parents[2] / "models"
STARTER, DATA = MODELS / "starter-gemnet_oc", MODELS / "starter" / "data" / "near.xyz"

try:
    interpreter_of("gemnet_oc")
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.integration
def test_export_and_infer(tmp_path):
    given = {"backend": "gemnet_oc", "device": "cpu"}
    exported = run(RunSpec(task="export", model_in=STARTER, run_dir=tmp_path / "export", **given))
    file = exported.manifest.parent / "fairchem.pt"
    assert "state_dict" in torch.load(file, weights_only=True)
    spec = RunSpec(
        task="infer", model_in=file, run_dir=tmp_path / "infer", data={"test": DATA, "indices": [0, 3]}, **given
    )
    found = read(run(spec), ":")
    every = read_structures(DATA)
    expected = load_model(STARTER).predict([every[0], every[3]])
    for atoms, prediction in zip(found, expected, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(prediction.energy, abs=1e-4)
        np.testing.assert_allclose(atoms.get_forces(apply_constraint=False), prediction.forces, atol=1e-5)
    with pytest.raises(InputError, match="say backend: gemnet_oc") as error:
        run(spec.model_copy(update={"backend": "equiformer_v2", "run_dir": tmp_path / "wrong"}))
    assert str(file) in str(error.value)
    assert not (tmp_path / "wrong").exists()
