"""tblite, ASE calculators and models as engines: the conformance suite, and what each says of its limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import fcc111, molecule
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.emt import EMT
from tblite.ase import TBLite

from rlpath_core.config import check
from rlpath_core.dft.engines import ENGINES, Engine
from rlpath_core.dft.engines.ase_calculator import AseEngine
from rlpath_core.dft.engines.base import REQUEST, RESULT, read_result
from rlpath_core.dft.engines.tblite import TbliteEngine
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.resolve import resolve_dft
from rlpath_core.dft.verdict import why_rejected
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.testing.engine import EngineConformance


def copper() -> Structure:
    slab = fcc111("Cu", (2, 2, 2), vacuum=6)
    slab.rattle(0.05, seed=0)
    return Structure.from_ase(slab)


@pytest.mark.slow
class TestTblite(EngineConformance):
    @pytest.fixture
    def engine(self) -> Engine:
        return TbliteEngine()


class TestAse(EngineConformance):
    @pytest.fixture
    def engine(self) -> Engine:
        return AseEngine({"calculator": "ase.calculators.emt:EMT"})

    @pytest.fixture
    def structure(self) -> Structure:
        return copper()


def test_tblite_equals_its_own_ase_calculator() -> None:
    atoms = molecule("CH3OH", vacuum=3.0, pbc=True)
    atoms.rattle(0.05, seed=2)
    (done,) = TbliteEngine().calculate([Structure.from_ase(atoms)])
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    assert done.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(done.forces, atoms.get_forces(), atol=1e-8)


def test_fixed_atoms_keep_their_forces() -> None:
    slab = copper()
    held = Structure(slab.numbers, slab.positions, slab.cell, slab.pbc, fixed=np.ones(len(slab)))
    (done,) = AseEngine({"calculator": "ase.calculators.emt:EMT"}).calculate([held])
    atoms = slab.to_ase()
    atoms.calc = EMT()
    np.testing.assert_allclose(done.forces, atoms.get_forces(), atol=1e-10)


def test_an_scf_that_does_not_converge_is_no_label() -> None:
    water = Structure.from_ase(molecule("H2O"))
    (done,) = TbliteEngine({"max_iterations": 2}).calculate([water])
    assert not done.converged
    assert "SCF not converged" in (done.reason or "")
    assert "SCF not converged" in (why_rejected(done, water, 100.0) or "")


def test_tblite_says_that_metal_slabs_are_beyond_it() -> None:
    assert "metal slabs" in (TbliteEngine().refuse(copper()) or "")
    assert TbliteEngine({"allow_metals": True}).refuse(copper()) is None


def test_gfn2_says_what_to_do_in_periodic_cells() -> None:
    water = Structure.from_ase(molecule("H2O", vacuum=3.0, pbc=True))
    (done,) = TbliteEngine({"method": "GFN2-xTB", "max_iterations": 2}).calculate([water])
    assert "GFN1-xTB" in (done.reason or "")


def test_tblite_refuses_elements_it_does_not_know() -> None:
    assert "86" in (TbliteEngine().refuse(Structure([92], [[0, 0, 0]])) or "")


class Broken(Calculator):
    """Raises, as real programs do."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        raise CalculationFailed("out of cycles")


class Undecided(EMT):
    """Gives numbers and says that they are not converged."""

    converged = False


@pytest.mark.parametrize(("calculator", "reason"), [(Broken, "out of cycles"), (Undecided, "did not converge")])
def test_ase_calculators_that_fail(calculator: type, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calculators_of_this_test", sys.modules[__name__])
    engine = AseEngine({"calculator": f"calculators_of_this_test:{calculator.__name__}"})
    (done,) = engine.calculate([copper()])
    assert not done.converged
    assert reason in (done.reason or "")


def test_energies_that_are_not_numbers_become_a_reason(tmp_path: Path) -> None:
    """EMT on two atoms in one place divides by zero; result.json stays valid JSON."""
    twice = Structure([29, 29], np.zeros((2, 3)))
    engine = AseEngine({"calculator": "ase.calculators.emt:EMT"})
    engine.write_inputs(tmp_path, "0" * 64, twice)
    subprocess.run(engine.command(tmp_path), check=True, capture_output=True)
    json.loads((tmp_path / RESULT).read_text(), parse_constant=lambda name: pytest.fail(name))
    assert why_rejected(read_result(tmp_path, "0" * 64), twice, 100.0)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"engine": "tblight"}, "tblite"),
        ({"engine": "tblite", "settings": {"acuracy": 1}}, "accuracy"),
        ({"engine": "tblite", "settings": {"method": "GFN3-xTB"}}, "GFN1-xTB"),
        ({"engine": "ase"}, "calculator"),
        ({"launcher": "lokal"}, "local"),
        ({"workerz": 2}, "workers"),
        ({"engine": "no_such_module:Engine"}, "no_such_module"),
    ],
)
def test_wrong_configs_say_what_is_meant(value: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        resolve_dft(check(DftConfig, value, "dft.yaml"), "dft.yaml")
    assert "dft.yaml" in str(caught.value)


def test_paths_in_settings_belong_to_their_file(tmp_path: Path) -> None:
    config = check(DftConfig, {"engine": "model", "settings": {"manifest": "models/m.json"}}, "dft.yaml")
    assert resolve_dft(config, "dft.yaml", folder=tmp_path).settings["manifest"] == str(tmp_path / "models" / "m.json")


def test_settings_are_resolved_in_the_config() -> None:
    config = resolve_dft(check(DftConfig, {"settings": {"max_iterations": 99}}, "dft.yaml"), "dft.yaml")
    assert config.settings["method"] == "GFN1-xTB"
    assert config.settings["max_iterations"] == 99


def test_a_calculator_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no_such_package"):
        AseEngine({"calculator": "no_such_package:EMT"}).require()
    with pytest.raises(InputError, match="no such file"):
        ENGINES["model"]({"manifest": "/no/manifest.json"}).require()


def test_requests_keep_every_digit(tmp_path: Path) -> None:
    slab = copper()
    TbliteEngine().write_inputs(tmp_path, "0" * 64, slab)
    request = json.loads((tmp_path / REQUEST).read_text())
    np.testing.assert_array_equal(np.array(request["structure"]["positions"]), slab.positions)
