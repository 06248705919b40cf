"""The network on cuequivariance's operations against the one on e3nn's, here by their plain fallback on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rlpath_core.backends.mace.acceleration.cuequivariance import with_cuequivariance
from rlpath_core.backends.mace.build import restore
from rlpath_core.backends.mace.bundle import read_bundle
from rlpath_core.backends.mace.model import MaceModel
from rlpath_core.backends.manifest import read_manifest
from rlpath_core.structure import read_structures

STARTER = Path(__file__).resolve().parents[3] / "models" / "starter"

pytest.importorskip("cuequivariance_torch", reason="cuequivariance-torch is not installed (it is for GPUs)")


@pytest.mark.filterwarnings("ignore:cuequivariance_ops_torch is not available")
def test_same_energies_forces_and_embeddings():
    path = STARTER / "manifest.json"
    architecture, state = read_bundle(path, read_manifest(path))
    before = torch.get_default_dtype()
    converted = with_cuequivariance(restore(architecture, state, torch.float64), "cpu")
    assert torch.get_default_dtype() == before
    assert type(converted.interactions[0].conv_tp).__module__.startswith("cuequivariance_torch")
    models = [MaceModel(net, architecture) for net in (restore(architecture, state, torch.float64), converted)]
    structures = read_structures(STARTER / "data" / "near.xyz")[:3]
    for one, other in zip(*(model.predict(structures, embeddings=True) for model in models), strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-6)
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-5)
        np.testing.assert_allclose(one.node_embedding, other.node_embedding, atol=1e-6)
