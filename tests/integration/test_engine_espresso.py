"""Real pw.x labels a small periodic system: the conformance suite, and the same input by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from rlpath_core.dft.engines import Calculation, Engine
from rlpath_core.dft.engines.espresso import EspressoEngine
from rlpath_core.dft.verdict import why_rejected
from rlpath_core.structure import Structure
from rlpath_core.testing.engine import EngineConformance

pytestmark = pytest.mark.integration
CHEAP = {
    "preset": "debian",
    "ecutwfc": 25,
    "ecutrho": 150,
    "kpoint_length": 5,
    "input": {"system": {"degauss": 0.005}, "electrons": {"conv_thr": 1e-10}},
}


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if shutil.which("pw.x") is None or not Path("/usr/share/espresso/pseudo/H.pbe-kjpaw.UPF").exists():
        pytest.skip("Debian's package quantum-espresso is not installed: apt-get install quantum-espresso")


@pytest.fixture
def structure() -> Structure:
    """H2 in a cell without vacuum, the first atom outside the cell and held: 2 x 2 x 2 k-points."""
    return Structure(
        [1, 1], [[0.1, 0, -3.4], [0, 0.2, 0.85]], np.diag([3, 3, 3.4]), [True] * 3, fixed=np.array([True, False])
    )


class TestEspresso(EngineConformance):
    @pytest.fixture
    def engine(self) -> Engine:
        return EspressoEngine(CHEAP)

    @pytest.fixture
    def structure(self, structure: Structure) -> Structure:
        return structure

    def test_is_what_the_same_input_gives_by_hand(self, tmp_path: Path, job: tuple[str, Calculation]) -> None:
        """pw.x on the folder's input, its printed answer read by ASE."""
        by_hand = tmp_path / "by hand"
        by_hand.mkdir()
        shutil.copy(tmp_path / "job" / "pw.in", by_hand)
        with open(by_hand / "pw.out", "w") as out:
            subprocess.run(["pw.x", "-in", "pw.in"], cwd=by_hand, check=True, stdout=out)
        atoms = read(by_hand / "pw.out", format="espresso-out")
        assert job[1].energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        np.testing.assert_allclose(job[1].forces, atoms.get_forces(apply_constraint=False), atol=1e-4)
        assert np.abs(job[1].forces).max() > 0.5
        assert "2 2 2  0 0 0" in (by_hand / "pw.in").read_text()
        assert not list((tmp_path / "job" / "out").glob("*.save"))


def test_job_done_is_not_convergence(tmp_path: Path, structure: Structure) -> None:
    """Also where an earlier, converged run has left its XML in the folder."""
    _, good = EngineConformance().calculated(tmp_path, EspressoEngine(CHEAP), structure)
    assert good.converged
    (tmp_path / "result.json").unlink()
    engine = EspressoEngine(CHEAP | {"input": {"electrons": {"electron_maxstep": 2, "conv_thr": 1e-12}}})
    _, done = EngineConformance().calculated(tmp_path, engine, structure)
    assert "JOB DONE" in (tmp_path / "pw.out").read_text()
    assert not done.converged
    assert done.failure == "scf"
    assert "not achieved after 2 iterations" in (done.reason or "")


def test_a_damaged_pseudopotential_is_named(tmp_path: Path, structure: Structure) -> None:
    pseudos = tmp_path / "pseudo"
    pseudos.mkdir()
    (pseudos / "H.UPF").write_text("<UPF version='2.0.1'>\n")
    engine = EspressoEngine(CHEAP | {"preset": "pbe", "pseudo_dir": str(pseudos), "pseudopotentials": {"H": "H.UPF"}})
    engine.require()
    _, done = EngineConformance().calculated(tmp_path / "job", engine, structure)
    assert not done.converged
    assert "pw.x ended with exit code" in (done.reason or "")


def test_a_slab_gets_the_dipole_correction(tmp_path: Path) -> None:
    """H2 standing in 8 Å of vacuum: the saw-tooth falls back in the middle of it."""
    slab = Structure.from_ase(Atoms("H2", [[0, 0, 1], [0, 0, 1.8]], cell=[3, 3, 9], pbc=True))
    _, done = EngineConformance().calculated(tmp_path, EspressoEngine(CHEAP), slab)
    assert done.converged
    lines = {line.split("=")[0].strip(): line.split("=")[1] for line in (tmp_path / "pw.in").open() if "=" in line}
    assert float(lines["emaxpos"]) + 0.025 == pytest.approx((1.8 + 8.2 / 2) / 9)
    assert int(lines["edir"]) == 3


def test_opposed_spins_are_asked_for_and_come_out_opposed(tmp_path: Path) -> None:
    """Two H atoms that hardly bind; without moments pw.x finds another state, 0.9 eV higher."""
    energies = {}
    for name, moments in (("none", [0, 0]), ("opposed", [1, -1])):
        apart = Structure([1, 1], [[0, 0, 0], [0, 0, 2.8]], np.diag([3.5, 3.5, 6.5]), [True] * 3, magmoms=moments)
        engine = EspressoEngine(CHEAP | {"kpoints": [1, 1, 1]})
        _, done = EngineConformance().calculated(tmp_path / name, engine, apart)
        assert why_rejected(done, apart, 100.0) is None
        energies[name] = done.energy
    assert energies["opposed"] < energies["none"] - 0.5
    printed = (tmp_path / "opposed" / "pw.out").read_text()
    total = [float(line.split("=")[1].split()[0]) for line in printed.splitlines() if "total magnetization" in line]
    absolute = [float(line.split("=")[1].split()[0]) for line in printed.splitlines() if "absolute magnetiz" in line]
    assert abs(total[-1]) < 0.05
    assert absolute[-1] > 1.5


def test_an_open_direction_gets_a_vacuum(tmp_path: Path) -> None:
    """H2 standing on nothing, c given as 2 Å and as 9 Å: one label."""
    done = []
    for c in (2.0, 9.0):
        slab = Structure.from_ase(Atoms("H2", [[0, 0, 1], [0, 0, 1.8]], cell=[3, 3, c], pbc=(True, True, False)))
        _, calculation = EngineConformance().calculated(tmp_path / str(c), EspressoEngine(CHEAP), slab)
        assert why_rejected(calculation, slab, 100.0) is None
        done.append(calculation)
    assert done[0].energy == done[1].energy
    assert "20.00000000000000\n" in (tmp_path / "2.0" / "pw.in").read_text()
