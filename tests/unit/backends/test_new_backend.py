"""A backend that joins by the entry point of an installed distribution, with no change in rlpath."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import write

from rlpath_core.backends import load_model
from rlpath_core.backends.manifest import Manifest, Source, Weights, write_manifest
from rlpath_core.backends.registry import BACKENDS, backend_of
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure
from rlpath_core.testing.backend import BackendConformance
from rlpath_core.testing.distribution import write_distribution

NAME = "lennard_jones_backend"
SOURCE = Path(__file__).parents[2] / "programs" / f"{NAME}.py"
SIGMA, EPSILON, CUTOFF = 2.2, 0.3, 6.0


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that the distribution is installed in."""
    point = {"rlpath.backends": {"lennard_jones": f"{NAME}:BACKEND"}}
    return write_distribution(tmp_path_factory.mktemp("site"), NAME, SOURCE.read_text(encoding="utf-8"), point)


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop(NAME, None)


@pytest.fixture(scope="module")
def folder(site, tmp_path_factory):
    """A bundle, a structure and four labelled ones."""
    folder = tmp_path_factory.mktemp("copper")
    np.savetxt(folder / "weights.txt", [SIGMA, EPSILON, CUTOFF])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        digest = sha256_of(folder / "weights.txt")
        manifest = Manifest(
            backend="lennard_jones",
            backend_version="1.0",
            source=Source(path=None, format="text", sha256=digest),
            weights=Weights(path="weights.txt", sha256=digest, dtype="float64"),
            config={"elements": [8, 13, 29]},
        )
    write_manifest(folder / "manifest.json", manifest)
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(slab, "O", 1.6, "fcc")
    labelled = []
    for seed in range(4):
        atoms = slab.copy()
        atoms.positions += np.random.default_rng(seed).normal(0, 0.1, atoms.positions.shape)
        atoms.calc = LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
        atoms.get_forces()
        labelled.append(atoms)
    write(folder / "labelled.xyz", labelled)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() > 1))
    slab.info.clear()
    write(folder / "slab.xyz", slab)
    return folder


@pytest.mark.usefixtures("installed")
class TestLennardJones(BackendConformance):
    @pytest.fixture
    def model(self, folder):
        return load_model(folder)


def test_it_is_known_only_where_it_is_installed(folder, request):
    assert "lennard_jones" not in BACKENDS
    with pytest.raises(InputError, match=r"no backend is called 'lennard_jones'.*Known: ase, equiformer_v2, gemnet_oc"):
        load_model(folder)
    request.getfixturevalue("installed")
    assert backend_of("lennard_jones").environment.distribution == NAME
    with pytest.raises(InputError, match="Did you mean 'lennard_jones'"):
        backend_of("lenard_jones")


@pytest.mark.usefixtures("installed")
def test_the_energies_are_those_of_ase(folder):
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.calc = LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
    (found,) = load_model(folder).predict([Structure.from_ase(atoms)])
    assert found.energy == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-9)


def command(site, folder, flow, *arguments):
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "PREFECT_API_URL": ""}
    return subprocess.run(
        [sys.executable, "-m", f"flows.{flow}", *arguments],
        capture_output=True, text=True, cwd=folder, env=environment, timeout=300,
    )  # fmt: skip


def values(answer):
    assert answer.returncode == 0, answer.stderr
    return dict(line.split(": ", 1) for line in answer.stdout.splitlines() if ": " in line)


@pytest.mark.slow
def test_it_samples_and_evaluates_from_the_command_line(site, folder):
    start = ("--structure_json", "slab.xyz", "--run_dir", "run", "--steps", "10", "--seed", "1")
    found = values(command(site, folder, "sample", "--model", ".", *start))
    assert found["attempts_total"] == "10"
    assert int(found["force_calls"]) > 10
    errors = values(command(site, folder, "evaluate", "--model", ".", "--data", "labelled.xyz"))
    assert float(errors["force_mae"]) < 1e-6
    assert float(errors["energy_mae"]) < 1e-6


@pytest.mark.slow
def test_it_cannot_be_trained(site, folder):
    run = {"backend": "lennard_jones", "task": "finetune", "run_dir": "trained", "model_in": "manifest.json"}
    (folder / "run.json").write_text(json.dumps(run | {"data": {"train": "labelled.xyz"}, "device": "cpu"}))
    answer = command(site, folder, "run", "--config", "run.json")
    assert answer.returncode == 2
    assert "models of backend lennard_jones cannot be trained, only evaluated" in answer.stderr
