"""Real GPAW labels a small periodic system: the conformance suite, and the same input by hand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from rlpath_core.dft.engines import Calculation, Engine
from rlpath_core.dft.engines.gpaw import ANSWER, SCRIPT, GpawEngine
from rlpath_core.dft.verdict import why_rejected
from rlpath_core.structure import Structure
from rlpath_core.testing.engine import EngineConformance

pytestmark = pytest.mark.integration
PYTHON = "/usr/bin/python3"
CHEAP = {"ecut": 250, "kpoint_length": 5, "convergence": {"density": 1e-6}}


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    found = subprocess.run([PYTHON, "-c", "import gpaw"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("Debian's package gpaw is not installed: apt-get install gpaw gpaw-data")


@pytest.fixture
def structure() -> Structure:
    """H2 in a cell without vacuum, in which neighbours interact: 2 x 2 x 2 k-points."""
    return Structure.from_ase(Atoms("H2", [[0.1, 0, 0], [0, 0.2, 0.85]], cell=[3, 3, 3.4], pbc=True))


class TestGpaw(EngineConformance):
    @pytest.fixture
    def engine(self) -> Engine:
        return GpawEngine(CHEAP)

    @pytest.fixture
    def structure(self, structure: Structure) -> Structure:
        return structure

    def test_is_what_the_same_input_gives_by_hand(self, tmp_path: Path, job: tuple[str, Calculation]) -> None:
        """GPAW's own command line on the folder's input."""
        by_hand = tmp_path / "by hand"
        by_hand.mkdir()
        for name in ("gpaw.json", SCRIPT.name):
            (by_hand / name).write_bytes((tmp_path / "job" / name).read_bytes())
        subprocess.run(["gpaw", "python", SCRIPT.name], cwd=by_hand, check=True, capture_output=True)
        answer = json.loads((by_hand / ANSWER).read_text())
        assert job[1].energy == pytest.approx(answer["energy"], abs=1e-6)
        np.testing.assert_allclose(job[1].forces, answer["forces"], atol=1e-5)
        text = (by_hand / "gpaw.txt").read_text()
        assert "2 x 2 x 2 Monkhorst-Pack grid" in text


def test_an_scf_that_runs_out_of_steps_is_no_label(tmp_path: Path, structure: Structure) -> None:
    engine = GpawEngine(CHEAP | {"max_iterations": 3})
    _, done = EngineConformance().calculated(tmp_path, engine, structure)
    assert not done.converged
    assert done.failure == "scf"
    assert "converge" in (done.reason or "")


def test_a_slab_that_the_boundary_cuts_gets_a_dipole_layer(tmp_path: Path) -> None:
    """The same energy and forces wherever it lies along its normal: a layer of LiH molecules, all dipoles upwards."""
    atoms = Atoms("LiH", [[0, 0, 0], [0.1, 0, 1.6]], cell=[2.9, 2.9, 9.0], pbc=True)
    cut = atoms.copy()
    cut.positions[:, 2] -= 0.8
    cut.wrap()
    done = []
    for name, one in (("whole", atoms), ("cut", cut)):
        asked = Structure.from_ase(one)
        _, calculation = EngineConformance().calculated(tmp_path / name, GpawEngine(CHEAP), asked)
        assert calculation.positions == pytest.approx(asked.positions, abs=1e-9)
        done.append(calculation)
        assert json.loads((tmp_path / name / "gpaw.json").read_text())["pbc"] == [True, True, False]
    assert done[0].energy == pytest.approx(done[1].energy, abs=1e-4)
    np.testing.assert_allclose(done[0].forces, done[1].forces, atol=2e-3)


SPINS = {"none": [0, 0], "parallel": [1, 1], "opposed": [1, -1]}


def far_apart(spins: str, pbc: bool = True) -> Structure:
    """Two H atoms that hardly bind: the lowest state has its spins opposed, which no calculation finds by itself."""
    return Structure([1, 1], [[0, 0, 0], [0, 0, 2.8]], np.diag([3.5, 3.5, 6.5]), [pbc] * 3, magmoms=SPINS[spins])


def test_spins_are_those_of_the_atoms(tmp_path: Path) -> None:
    engine = GpawEngine({"ecut": 250, "kpoints": [1, 1, 1], "smearing": 0.02, "convergence": {"density": 1e-5}})
    energies = {}
    for spins in SPINS:
        _, done = EngineConformance().calculated(tmp_path / spins, engine, far_apart(spins))
        assert done.converged
        energies[spins] = done.energy
    assert energies["opposed"] < energies["parallel"] - 0.1 < energies["none"] - 0.2
    text = (tmp_path / "parallel" / "gpaw.txt").read_text()
    assert "Total magnetic moment: (0.000000, 0.000000, 2.000000)" in text


def test_an_open_direction_s_length_is_no_matter(tmp_path: Path) -> None:
    """A layer of LiH standing up, given with three lengths out of the plane: one label; and that of a deep vacuum."""
    upright = Atoms("LiH", [[0, 0, 0], [0.1, 0, 1.6]], cell=[2.9, 2.9, 0], pbc=(True, True, False))
    done = []
    for c in (0.0, 3.0, 12.0):
        upright.cell[2, 2] = c
        asked = Structure.from_ase(upright)
        _, calculation = EngineConformance().calculated(tmp_path / str(c), GpawEngine(CHEAP), asked)
        assert why_rejected(calculation, asked, 100.0) is None
        done.append(calculation)
    deep = GpawEngine(CHEAP | {"vacuum": 25.0})
    done.append(EngineConformance().calculated(tmp_path / "deep", deep, asked)[1])
    for other in done[1:]:
        assert other.energy == pytest.approx(done[0].energy, abs=2e-3)
        np.testing.assert_allclose(other.forces, done[0].forces, atol=0.01)
    assert done[1].energy == pytest.approx(done[0].energy, abs=1e-6)


@pytest.mark.parametrize("mode", ["fd", "lcao"])
def test_molecules_without_a_cell(tmp_path: Path, mode: str) -> None:
    asked = Structure.from_ase(Atoms("H2", [[0, 0, 0], [0, 0, 0.8]]))
    _, done = EngineConformance().calculated(tmp_path, GpawEngine({"mode": mode, "h": 0.25}), asked)
    assert why_rejected(done, asked, 100.0) is None
