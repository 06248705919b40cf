"""Pickled models from elsewhere: refused without trust, then converted once and equal to mace's own calculator."""

import os

import mace.modules
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from e3nn import o3
from mace.calculators import MACECalculator

from rlpath_core.backends import load_model
from rlpath_core.backends.mace.architecture import read_architecture
from rlpath_core.backends.mace.build import restore
from rlpath_core.backends.mace.bundle import load_state
from rlpath_core.backends.mace.foreign import convert_model_file
from rlpath_core.backends.mace.heads import with_new_head
from rlpath_core.backends.mace.model import MaceModel
from rlpath_core.backends.manifest import read_manifest
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

RESIDUAL = mace.modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
DENSITY = mace.modules.interaction_classes["RealAgnosticDensityResidualInteractionBlock"]
NONLINEAR = mace.modules.interaction_classes["RealAgnosticResidualNonLinearInteractionBlock"]


def foreign(path, dtype=torch.float64, kind="ScaleShiftMACE", **changes):
    """A network built and pickled by mace itself, not by rlpath."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(3)
    try:
        options = {
            "r_max": 4.5, "num_bessel": 6, "num_polynomial_cutoff": 5, "max_ell": 2,
            "interaction_cls": RESIDUAL, "interaction_cls_first": RESIDUAL, "num_interactions": 2, "num_elements": 3,
            "hidden_irreps": o3.Irreps("4x0e+4x1o"), "MLP_irreps": o3.Irreps("6x0e"),
            "atomic_energies": np.array([[-1.1, -5.3, -3.2]]), "avg_num_neighbors": 17.5, "atomic_numbers": [1, 8, 29],
            "correlation": 2, "gate": torch.nn.functional.silu, "radial_MLP": [16, 16],
            **changes,
        }  # fmt: skip
        if kind == "ScaleShiftMACE":
            scales = {"atomic_inter_scale": [0.8, 1.1][: len(changes.get("heads", ["a"]))]}
            scales["atomic_inter_shift"] = [0.1, -0.2][: len(changes.get("heads", ["a"]))]
            net = mace.modules.ScaleShiftMACE(**{**{k: np.array(v) for k, v in scales.items()}, **options})
        else:
            net = mace.modules.MACE(**options)
    finally:
        torch.set_default_dtype(before)
    torch.save(net.to(dtype), path)
    return path


def atoms():
    slab = fcc111("Cu", (2, 2, 2), vacuum=6.0)
    slab += Atoms("OH", [slab.positions[4] + [0.3, 0.2, 1.7], slab.positions[4] + [0.4, 0.5, 2.6]])
    slab.positions += np.random.default_rng(0).normal(0, 0.1, slab.positions.shape)
    return slab


TWO = {"heads": ["pbe", "rpbe"], "atomic_energies": np.array([[-1.1, -5.3, -3.2], [-1.0, -5.0, -3.0]])}
KINDS = {
    "mp": {"interaction_cls": DENSITY, "interaction_cls_first": DENSITY, "distance_transform": "Agnesi",
           "pair_repulsion": True},
    "mh": {**TWO, "interaction_cls": NONLINEAR, "interaction_cls_first": NONLINEAR, "apply_cutoff": False,
           "readout_cls": mace.modules.readout_classes["NonLinearBiasReadoutBlock"],
           "edge_irreps": o3.Irreps("4x0e+4x1o"), "use_edge_irreps_first": True},
    "single": {"dtype": torch.float32},
    "plain": {"kind": "MACE", "gate": torch.tanh, "keep_last_layer_irreps": True},
    "one-layer": {"num_interactions": 1, "hidden_irreps": o3.Irreps("4x0e"), "use_reduced_cg": False},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_converted_bundle_equals_mace_calculator(kind, tmp_path):
    path = foreign(tmp_path / "foreign.model", **KINDS[kind])
    manifest, digest = convert_model_file(path, tmp_path / "bundle", trust_pickle=True)
    structure = Structure.from_ase(atoms())
    for head in KINDS[kind].get("heads", [None]):
        model = load_model(manifest, dtype="float64", head=head)
        own = atoms()
        own.calc = MACECalculator(
            model_paths=str(path), device="cpu", default_dtype="float64", **({"head": head} if head else {})
        )
        found = model.predict([structure])[0]
        assert found.energy == pytest.approx(own.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(found.forces, own.get_forces(), atol=1e-5)
        assert np.abs(found.forces).max() > 0.01
    assert read_manifest(manifest).weights.dtype == ("float32" if kind == "single" else "float64")
    assert model.digest == digest


@pytest.mark.slow
def test_converted_once(tmp_path):
    path = foreign(tmp_path / "foreign.model")
    first = convert_model_file(path, tmp_path / "bundle", trust_pickle=True)
    before = (tmp_path / "bundle" / "best_model.pt").stat().st_mtime_ns
    assert convert_model_file(path, tmp_path / "bundle") == first  # no pickle is opened: no trust is needed
    assert (tmp_path / "bundle" / "best_model.pt").stat().st_mtime_ns == before
    other = foreign(tmp_path / "other.model", avg_num_neighbors=3.0)
    with pytest.raises(InputError, match="bundle of another model"):
        convert_model_file(other, tmp_path / "bundle", trust_pickle=True)


def test_nothing_is_opened_without_trust(tmp_path):
    marker = tmp_path / "was-run"

    class Bad:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    torch.save(Bad(), tmp_path / "bad.model")
    with pytest.raises(InputError, match=r"model\.trust_pickle: is a pickled module"):
        convert_model_file(tmp_path / "bad.model", tmp_path / "bundle")
    with pytest.raises(InputError, match="is a pickled model, not a manifest"):
        load_model(tmp_path / "bad.model")
    assert not marker.exists()
    assert not (tmp_path / "bundle").exists()


def test_what_is_no_mace(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "linear.model")
    with pytest.raises(InputError, match="holds a Linear; only MACE"):
        convert_model_file(tmp_path / "linear.model", tmp_path / "bundle", trust_pickle=True)
    (tmp_path / "half.model").write_bytes(foreign(tmp_path / "whole.model").read_bytes()[:20000])
    with pytest.raises(InputError, match="cannot be opened"):
        convert_model_file(tmp_path / "half.model", tmp_path / "bundle", trust_pickle=True)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mp", "mh", "one-layer"])
def test_a_new_head_starts_as_the_one_it_is_made_like(kind, tmp_path):
    """Every old head answers as before, the new one as its model."""
    convert_model_file(foreign(tmp_path / "f.model", **KINDS[kind]), tmp_path / "b", trust_pickle=True)
    architecture, state = read_architecture(tmp_path / "b" / "model.json"), load_state(tmp_path / "b" / "best_model.pt")
    grown, more = with_new_head(architecture, state, "mine", architecture.heads[-1])
    new_net, old_net = restore(grown, more, torch.float64), restore(architecture, state, torch.float64)
    structure = Structure.from_ase(atoms())
    for new, old in [*zip(architecture.heads, architecture.heads, strict=True), ("mine", architecture.heads[-1])]:
        a = MaceModel(new_net, grown, head=new).predict([structure])[0]
        b = MaceModel(old_net, architecture, head=old).predict([structure])[0]
        assert a.energy == pytest.approx(b.energy, abs=1e-9)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-9)
    with pytest.raises(InputError, match="has a head 'mine' already"):
        with_new_head(grown, more, "mine", "mine")
