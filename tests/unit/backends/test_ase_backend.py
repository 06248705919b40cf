"""Any ASE calculator as a model: EMT through the conformance suite, and one line for each thing that is wrong."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from rlpath_core.backends import load_model
from rlpath_core.backends.ase_calculator import CalculatorReference
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.testing.backend import BackendConformance

pytestmark = pytest.mark.slow

REFERENCE = "ase:ase.calculators.emt.EMT"
COPPER = Structure.from_ase(fcc111("Cu", (2, 2, 3), vacuum=6.0))


class TestEMT(BackendConformance):
    @pytest.fixture
    def model(self):
        return load_model(REFERENCE)

    @pytest.fixture
    def elements(self):
        return [13, 29, 47]

    @pytest.fixture
    def unknown_element(self):
        return 26


def test_the_numbers_are_the_calculators_own():
    model = load_model("ase:ase.calculators.lj.LennardJones(sigma=2.2, epsilon=0.4, rc=6.0)")
    atoms = COPPER.to_ase()
    atoms.calc = LennardJones(sigma=2.2, epsilon=0.4, rc=6.0)
    (found,) = model.predict([COPPER])
    assert found.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(found.forces, atoms.get_forces())
    assert (model.backend, model.weights_sha256, model.device) == ("ase", "", "cpu")
    assert model.implementation == "ase.calculators.lj.LennardJones, one structure at a time"


def test_forces_of_fixed_atoms_are_not_zeroed():
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    fixed = Structure(atoms.numbers, atoms.positions, atoms.cell, atoms.pbc, fixed=np.ones(len(atoms), bool))
    (found,) = load_model(REFERENCE).predict([fixed])
    atoms.calc = EMT()
    assert np.abs(found.forces).max() > 0.1
    np.testing.assert_array_equal(found.forces, atoms.get_forces())


def test_a_digest_is_of_what_decides_the_answers(tmp_path, monkeypatch):
    def digest(reference):
        return load_model(reference).digest

    lj = "ase:ase.calculators.lj.LennardJones"
    assert digest(f"{lj}(sigma=2.2, rc=6)") == digest(f"{lj}( rc = 6,sigma=2.2 )")
    assert len({digest(REFERENCE), digest(lj), digest(f"{lj}(sigma=2.2)")}) == 3

    monkeypatch.syspath_prepend(tmp_path)
    mine = tmp_path / "rlpath_test_calculator.py"
    weights = tmp_path / "weights.txt"
    source = "from ase.calculators.emt import EMT\ndef make(weights): return EMT()\n"
    found = set()
    for code, numbers in ((source, "1"), (source, "2"), (source + "# changed\n", "2")):
        mine.write_text(code)
        weights.write_text(numbers)
        found.add(CalculatorReference.parse(f"ase:rlpath_test_calculator.make(weights={str(weights)!r})").digest)
    assert len(found) == 3
    sys.modules.pop("rlpath_test_calculator", None)


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("ase:EMT", "not an import path: write ase:package.module.Class"),
        ("ase:", "not a calculator with literal keywords"),
        ("ase:a.b.C(x=open('f'))", "not a calculator with literal keywords"),
        ("ase:a.b.C(1)", "takes keywords alone"),
        ("ase:a.b.C(**{'x': 1})", "takes keywords alone"),
        ("ase:a.b().C", "not an import path"),
        ("ase:ase.calculators.emt.EMTT", "has no 'EMTT'"),
        ("ase:no_such_package.EMT", "cannot import 'no_such_package'"),
        ("ase:ase.calculators.mixing.SumCalculator(colour='red')", "TypeError.*colour"),
        ("ase:ase.atoms.Atoms", "makes a Atoms, which is no ASE calculator"),
        ("ase:odd_calculators.EnergyAlone", "the calculator implements no forces"),
    ],
)
def test_what_cannot_be_a_model_is_one_line_that_names_it(reference, what, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with pytest.raises(InputError, match=what) as error:
        load_model(reference)
    assert str(error.value).startswith(reference)
    assert "\n" not in str(error.value)


@pytest.fixture
def odd(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return lambda name: load_model(f"ase:odd_calculators.{name}")


def test_a_calculator_that_raises_names_the_structure(odd):
    iron = Structure([26, 26], [[0, 0, 0], [0, 0, 2.0]])
    with pytest.raises(InputError, match=r"structure 1, Fe2 \([0-9a-f]{12}\): .*No EMT-potential for Fe"):
        load_model(REFERENCE).predict([COPPER, iron])
    with pytest.raises(InputError, match=r"^ase:odd_calculators\.Raising: structure 0, .*ZeroDivisionError"):
        odd("Raising").predict([COPPER])
    with pytest.raises(InputError, match=r"forces"):
        odd("NoForcesAfterAll").predict([COPPER])


def test_a_calculation_that_does_not_converge_has_no_numbers_and_is_logged(odd, caplog):
    model = odd("Unconverged")
    far, near = Structure([29, 29], [[0, 0, 0], [0, 0, 9.0]]), Structure([29, 29], [[0, 0, 0], [0, 0, 2.5]])
    with caplog.at_level(logging.WARNING, "rlpath.backends"):
        bad, good = model.predict([far, near])
    assert np.isnan(bad.energy)
    assert np.isnan(bad.forces).all()
    assert np.isfinite(good.forces).all()
    assert f"structure 0, Cu2 ({far.id[:12]}) did not converge: after 250 iterations" in caplog.text
    assert model.predict([far], forces=False)[0].forces is None


def test_no_answer_depends_on_what_was_asked_before(odd):
    """The calculator starts from its last result unless it is reset, as self-consistent methods do."""
    model = odd("Remembering")
    first = model.predict([COPPER])[0].energy
    assert [p.energy for p in model.predict([COPPER.moved(COPPER.positions * 1.01), COPPER])][1] == first


@pytest.mark.parametrize(
    ("key", "value"), [("weights", "x.pt"), ("head", "default"), ("amp", True), ("dtype", "float32")]
)
def test_what_only_bundles_have_is_refused(key, value):
    with pytest.raises(InputError, match=f"{key}: an ASE calculator has none"):
        load_model(REFERENCE, **{key: value})


def test_a_manifest_can_never_name_a_calculator(tmp_path):
    """A folder from elsewhere must not decide which code runs."""
    digest = "0" * 64
    manifest = {
        "backend_version": "3.26",
        "source": {"path": None, "format": "ase", "sha256": digest},
        "weights": {"path": "weights.pt", "sha256": digest, "dtype": "float64"},
    }
    for backend, what in (("ase", "cannot be of backend ase"), ("os:system", "no backend is called 'os:system'")):
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(manifest | {"backend": backend}))
        with pytest.raises(InputError, match=what):
            load_model(path)
