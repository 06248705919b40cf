"""FairChem checkpoints made into bundles and back: every form of them, and what must be refused."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from rlpath_core.backends import load_model
from rlpath_core.backends.fairchem.bundle import export_checkpoint, write_checkpoint
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.training import run
from rlpath_core.training.options import RunSpec


@pytest.fixture(scope="module")
def atoms():
    """Moved off their sites: GemNet-OC's dihedral angles over three atoms in a line are anything."""
    found = Atoms("MgOMgO", [[0, 0, 5], [2.1, 0, 5], [2.1, 2.1, 5], [0, 2.1, 5]], cell=[4.2, 4.2, 12], pbc=True)
    found = found.repeat((2, 1, 1)) + Atoms("OHH", molecule("H2O").positions + [0.2, 0.1, 7.2])
    found.rattle(0.1, seed=4)
    return found


def calculated(checkpoint, atoms):
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator

    calculator = OCPCalculator(checkpoint_path=checkpoint, cpu=True, seed=0)
    calculator.calculate(atoms, ["energy", "forces"], [])
    return float(calculator.results["energy"]), np.array(calculator.results["forces"])


def assert_same(manifest, checkpoint, atoms):
    found, (energy, forces) = (
        load_model(manifest).predict([Structure.from_ase(atoms)])[0],
        calculated(checkpoint, atoms),
    )
    assert found.energy == pytest.approx(energy, rel=5e-7)
    np.testing.assert_allclose(found.forces, forces, atol=5e-5)


@pytest.fixture
def changed(saved, tmp_path):
    """A saved checkpoint with something else in it."""

    def change(name, **changes):
        value = torch.load(saved(name), weights_only=True)
        for key, new in changes.items():
            value[key] = new(value[key]) if callable(new) else new
        torch.save(value, tmp_path / "changed.pt")
        return tmp_path / "changed.pt"

    return change


@pytest.mark.parametrize("name", ["eqv2", "gemnet-all"])
def test_there_and_back(name, bundled, tmp_path, atoms):
    write_checkpoint(bundled(name), tmp_path / "back.pt")
    assert_same(bundled(name), tmp_path / "back.pt", atoms)
    backend = load_model(bundled(name)).backend
    again = load_model(export_checkpoint(tmp_path / "back.pt", tmp_path / "again", backend=backend)[0])
    structure = Structure.from_ase(atoms)
    assert again.predict([structure])[0].energy == load_model(bundled(name)).predict([structure])[0].energy


def test_same_checkpoint_same_digest(saved, tmp_path):
    one, other = (
        export_checkpoint(saved("gemnet"), tmp_path / name, backend="gemnet_oc")[1] for name in ("one", "other")
    )
    assert one == other


@pytest.mark.parametrize(("name", "backend"), [("eqv2-old", "equiformer_v2"), ("gemnet-all", "gemnet_oc")])
def test_the_form_of_published_checkpoints(name, backend, changed, tmp_path, atoms):
    """Before FairChem 1: the network's name apart from its arguments, parallel training's prefixes, normalizers by
    older names, no outputs section, and GemNet-OC's scale factors beside the weights."""
    scales = {}

    def weights(state):
        scales.update({k.removesuffix(".scale_factor"): v for k, v in state.items() if k.endswith("scale_factor")})
        return {f"module.module.{k}": v for k, v in state.items() if not k.endswith("scale_factor")}

    def config(new):
        arguments = dict(new["model"])
        return {
            "task": {"dataset": "trajectory_lmdb"},
            "model": arguments.pop("name"),
            "model_attributes": arguments,
            "dataset": {"src": "nowhere", "normalize_labels": True},
            "optim": {"energy_coefficient": 1, "force_coefficient": 30},
            "trainer": "forces",
            "cmd": {"seed": 0},
        }

    def normalizers(new):
        return {
            old: {"mean": mean, "std": new[key]["rmsd"]}
            for old, key, mean in (("target", "energy", -0.7), ("grad_target", "forces", 0.0))
        }

    path = changed(name, state_dict=weights, config=config, normalizers=normalizers, scale_dict=scales, elementrefs={})
    manifest, _ = export_checkpoint(path, tmp_path / "bundle", backend=backend)
    assert_same(manifest, path, atoms)
    model = load_model(manifest)
    assert model.elements >= set(range(1, 84))  # nothing says which of those were in the training set
    fitted = json.loads(manifest.read_text())["backend_state"]["scale_factors_fitted"]
    assert fitted is (True if backend == "gemnet_oc" else None)


def test_numpy_numbers_in_metrics_are_data(changed, tmp_path):
    path = changed("gemnet", val_metrics=np.float64(0.25), best=np.float32(1.5))
    export_checkpoint(path, tmp_path / "bundle", backend="gemnet_oc")


def test_averaged_weights_are_taken(tmp_path, atoms, make_trainer):
    """FairChem's best checkpoint has the averages in place of the weights; its training checkpoint has both."""
    trainer = make_trainer("eqv2", tmp_path, ema_decay=0.9)
    trainer.load_optimizer()
    trainer.load_extras()
    for value in trainer.ema.shadow_params:
        value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    folder = tmp_path / "bundles"
    whole = trainer.save(checkpoint_file="checkpoint.pt", training_state=True)
    best = trainer.save(checkpoint_file="best_checkpoint.pt", training_state=False)
    averaged, _ = export_checkpoint(whole, folder / "whole", backend="equiformer_v2")
    assert_same(averaged, best, atoms)
    energy = load_model(averaged).predict([Structure.from_ase(atoms)])[0].energy
    assert abs(energy - calculated(whole, atoms)[0]) > 1e-3  # the calculator takes the weights themselves
    export_checkpoint(best, folder / "best", backend="equiformer_v2")
    first, second = (torch.load(folder / k / "best_model.pt", weights_only=True) for k in ("whole", "best"))
    assert all(torch.equal(first[name], second[name]) for name in first)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_named_and_not_run(changed, tmp_path):
    path = changed("eqv2", val_metrics=Runs(tmp_path / "ran"))
    with pytest.raises(InputError, match=r"mkdir"):
        export_checkpoint(path, tmp_path / "bundle", backend="equiformer_v2")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ({"name": "os.system", "command": "true"}, "no network is called 'os.system'"),
        ({"name": "fairchem.core.models.base.HydraModel"}, "no network is called"),
        ({"name": "gemnet_ocs"}, "Did you mean 'gemnet_oc'"),
        ({"name": "hydra", "finetune_config": {"starting_checkpoint": "/etc/passwd"}}, "another checkpoint"),
        (
            {"name": "hydra", "backbone": {"model": "equiformer_v2_backbone"}, "heads": {"x": {"module": "os.system"}}},
            "no head is called 'os.system'",
        ),
        ({"name": "equiformer_v2", "nosuch": 1}, "unknown arguments: nosuch"),
        ({"name": "gemnet_oc", "num_blocks": 1}, "lacks num_spherical"),
        ({"name": "equiformer_v2", "regress_forces": False}, "no forces"),
        ({"name": "equiformer_v2", "lmax_list": [3]}, "do not fit"),
        ({}, "names no network"),
    ],
    ids=["code", "path", "misspelt", "starting", "head", "argument", "lacking", "forces", "other", "none"],
)
def test_networks_that_are_refused(model, match, changed, tmp_path):
    backend = "gemnet_oc" if model.get("name") == "gemnet_oc" else "equiformer_v2"
    path = changed("eqv2", config=lambda config: {**config, "model": model})
    with pytest.raises(InputError, match=match) as error:
        export_checkpoint(path, tmp_path / "bundle", backend=backend)
    assert str(path) in str(error.value)
    assert not (tmp_path / "bundle").exists()


def test_files_named_by_a_network_are_not_opened(changed, tmp_path):
    path = changed("gemnet", config=lambda c: {**c, "model": {**c["model"], "scale_file": str(tmp_path / "none.pt")}})
    manifest, _ = export_checkpoint(path, tmp_path / "bundle", backend="gemnet_oc")
    assert "scale_file" not in (manifest.parent / "model.json").read_text()


def test_the_other_backend(saved, tmp_path):
    with pytest.raises(InputError, match="say backend: gemnet_oc"):
        export_checkpoint(saved("gemnet"), tmp_path / "bundle", backend="equiformer_v2")


def test_no_checkpoint_at_all(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="no FairChem checkpoint"):
        export_checkpoint(tmp_path / "x.pt", tmp_path / "bundle", backend="gemnet_oc")
    (tmp_path / "y.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        export_checkpoint(tmp_path / "y.pt", tmp_path / "bundle", backend="gemnet_oc")


@pytest.mark.parametrize("file", ["best_model.pt", "model.json"])
def test_a_changed_byte(file, bundled, tmp_path):
    shutil.copytree(bundled("eqv2").parent, tmp_path / "b")
    content = bytearray((tmp_path / "b" / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b" / file).write_bytes(content)
    with pytest.raises(InputError, match="another digest"):
        load_model(tmp_path / "b")


def test_a_bundle_of_another_name(bundled, tmp_path):
    shutil.copytree(bundled("eqv2").parent, tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"backend": "equiformer_v2"', '"backend": "gemnet_oc"'))
    with pytest.raises(InputError, match=r"model.json is of backend equiformer_v2"):
        load_model(manifest)


def test_evaluate_infer_and_export_from_a_checkpoint(saved, tmp_path, atoms):
    """``model_in`` may be FairChem's own file; it becomes a bundle once, in the run's folder."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import read, write

    energy, forces = calculated(saved("gemnet"), atoms)
    labelled = atoms.copy()
    labelled.calc = SinglePointCalculator(labelled, energy=energy, forces=forces)
    write(tmp_path / "set.xyz", [labelled] * 3, format="extxyz")
    given = {"backend": "gemnet_oc", "device": "cpu", "model_in": saved("gemnet")}
    spec = RunSpec(task="evaluate", run_dir=tmp_path / "e", data={"test": tmp_path / "set.xyz"}, **given)
    metrics = run(spec)
    assert metrics["force_mae"] < 1e-4
    assert metrics["energy_mae_per_atom"] < 1e-4
    assert run(spec) == metrics
    predicted = read(run(spec.model_copy(update={"task": "infer"})), ":")
    assert len(predicted) == 3
    assert predicted[0].get_potential_energy() == pytest.approx(energy, abs=1e-3)
    exported = run(RunSpec(task="export", run_dir=tmp_path / "x", **given))
    assert_same(exported.manifest, tmp_path / "x" / "artifacts" / "fairchem.pt", atoms)
    with pytest.raises(InputError, match="say backend: gemnet_oc"):
        run(RunSpec(task="export", run_dir=tmp_path / "y", **{**given, "backend": "equiformer_v2"}))
    with pytest.raises(InputError, match="is of backend gemnet_oc, and the run is of equiformer_v2"):
        run(spec.model_copy(update={"backend": "equiformer_v2", "model_in": exported.manifest}))
