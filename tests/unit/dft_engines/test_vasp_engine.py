"""VASP's inputs against pymatgen's own objects, and the whole path through a stand-in for the program."""

from __future__ import annotations

import gzip
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule, surface

from rlpath_core.dft.engines import Calculation, Engine, program_worker
from rlpath_core.dft.engines.vasp import VaspEngine, incar_text
from rlpath_core.dft.verdict import why_rejected
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.testing.engine import EngineConformance

pytest.importorskip("pymatgen.io.vasp", reason="pip install 'rlpath[vasp]'")
STAND_IN = Path(__file__).with_name("stand_in_vasp.py")

POTCAR = """\
  {functional} {symbol} 06Sep2000
   {valence:.8f}
 parameters from PSCTR are:
   VRHFIN ={element}: made up
   LEXCH  = PE
   EATOM  =  1000.0000 eV,   73.0000 Ry

   TITEL  = {functional} {symbol} 06Sep2000
   LULTRA =        F    use ultrasoft PP ?
   RPACOR =    2.000    partial core radius
   POMASS =   10.000; ZVAL   =    {valence:.3f}    mass and valenz
   RCORE  =    2.300    outmost cutoff radius
   ENMAX  =  300.000; ENMIN  =  200.000 eV
   NDATA  =      100
   END of PSCTR-controll parameters
 local part
   50.0
 End of Dataset
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """POTCARs in the layouts that libraries have."""
    root = tmp_path / "potpaw_PBE"
    for symbol in ("O", "Fe_pv", "Ni_pv", "H", "Pt", "Cu"):
        text = POTCAR.format(functional="PAW_PBE", symbol=symbol, element=symbol.split("_")[0], valence=6.0)
        (root / symbol).mkdir(parents=True)
        if symbol == "H":
            (root / "POTCAR.H.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (root / symbol / "POTCAR").write_text(text)
    return root


def oxide() -> Atoms:
    """NiO(001) in which two Ni are Fe, water on it, species in no order."""
    slab = surface(bulk("NiO", "rocksalt", a=4.2, cubic=True), (0, 0, 1), 2, vacuum=7)
    slab.pbc = True
    slab.numbers[np.flatnonzero(slab.numbers == 28)[[1, 4]]] = 26
    add_adsorbate(slab, molecule("H2O"), 2.2, (0, 0), mol_index=0)
    return slab


def platinum() -> Atoms:
    slab = fcc111("Pt", (2, 2, 3), vacuum=7)
    slab.pbc = True
    add_adsorbate(slab, "O", 1.2, "fcc")
    del slab[-1]
    return slab


def engine(library: Path, mode: str | None = None, symbols: list[str] | None = None, **settings: object) -> VaspEngine:
    command = [sys.executable, str(STAND_IN)] + ([mode] if mode else [])
    chosen = symbols or ["O", "Fe_pv", "H", "Ni_pv", "Pt", "Cu"]
    return VaspEngine({"command": command, "potcar_dir": str(library), "potcar_symbols": chosen} | settings)


def written(folder: Path, made: VaspEngine, atoms: Atoms) -> tuple:
    """Our files, read by pymatgen."""
    from pymatgen.io.vasp import Incar, Kpoints, Poscar, Potcar

    made.write_inputs(folder, "0" * 64, Structure.from_ase(atoms))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of POTCARs that it does not know
        return (
            Incar.from_file(folder / "INCAR"),
            Kpoints.from_file(folder / "KPOINTS"),
            Poscar.from_file(folder / "POSCAR", check_for_potcar=False),
            Potcar.from_file(folder / "POTCAR"),
        )


def calculated(folder: Path, made: VaspEngine, asked: Structure) -> Calculation:
    """What the job's process does, in this one."""
    made.write_inputs(folder, "0" * 64, asked)
    assert program_worker.main([str(folder)]) == 0
    return made.parse(folder, "0" * 64)


SPEC = {
    "GGA": "PE", "ISPIN": 2, "ENCUT": 500, "ISMEAR": 0, "SIGMA": 0.05, "ISYM": 0, "IBRION": -1, "NSW": 0, "ISIF": 0,
}  # fmt: skip


def preset() -> dict:
    """SPEC through pymatgen's reader, which writes strings its own way."""
    from pymatgen.io.vasp import Incar

    return dict(Incar.from_str(str(Incar(SPEC))))


def pymatgen_sets(structure: object) -> tuple:
    """The Materials Project's set, and the one for slabs, for atoms in the order of our POSCAR."""
    from pymatgen.io.vasp.sets import MPRelaxSet, MVLSlabSet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = {"sort_structure": False, "user_potcar_functional": None}
        project = MPRelaxSet(structure, **same)
        slab = MVLSlabSet(structure, auto_dipole=True, set_mix=False, sort_structure=False)
        return project.incar, slab.incar


@pytest.mark.slow
def test_an_oxide_with_two_u_species_is_what_pymatgen_writes(tmp_path: Path, library: Path) -> None:
    incar, kpoints, poscar, potcar = written(tmp_path / "job", engine(library), oxide())
    project, slab = pymatgen_sets(poscar.structure)
    assert {key: incar[key] for key in SPEC} == preset()
    for key in ("LDAU", "LDAUTYPE", "LDAUL", "LDAUU", "LDAUJ", "LMAXMIX", "LASPH", "MAGMOM", "LWAVE"):
        assert incar[key] == project[key], key
    assert incar["LDAUU"] == [0, 5.3, 0, 6.2]
    n = oxide().symbols.formula.count()
    assert incar["MAGMOM"] == [0.6] * n["O"] + [5] * n["Fe"] + [0.6] * n["H"] + [5] * n["Ni"]
    for key in ("LDIPOL", "IDIPOL"):
        assert incar[key] == slab[key], key
    np.testing.assert_allclose(incar["DIPOL"], slab["DIPOL"], atol=1e-5)
    known = {*SPEC, *project, *slab, "NELM", "EDIFF", "PREC", "LCHARG", "LREAL", "ALGO"}
    assert not set(incar) - known
    assert kpoints.style.name == "Gamma"
    reciprocal = poscar.structure.lattice.reciprocal_lattice_crystallographic.abc[:2]
    assert kpoints.kpts == [tuple(int(np.ceil(30 * length - 1e-6)) for length in reciprocal) + (1,)]
    assert [single.symbol for single in potcar] == ["O", "Fe_pv", "H", "Ni_pv"]
    assert [single.element for single in potcar] == poscar.site_symbols
    assert (tmp_path / "job" / "POTCAR.symbols").read_text().split() == ["O", "Fe_pv", "H", "Ni_pv"]
    np.testing.assert_allclose(poscar.structure.lattice.matrix, oxide().cell.array, atol=1e-12)


def test_a_metal_is_what_pymatgen_writes(tmp_path: Path, library: Path) -> None:
    """No U, whatever the preset says of oxides; in a crystal no dipole, and k-points in three directions."""
    incar, kpoints, poscar, potcar = written(tmp_path / "slab", engine(library), platinum())
    project, slab = pymatgen_sets(poscar.structure)
    assert {key: incar[key] for key in SPEC} == preset()
    assert not [key for key in incar if key.startswith("LDAU")]
    assert not [key for key in project if key.startswith("LDAU")]
    for key in ("LMAXMIX", "MAGMOM"):
        assert incar[key] == project[key], key
    np.testing.assert_allclose(incar["DIPOL"], slab["DIPOL"], atol=1e-5)
    assert kpoints.kpts == [(7, 7, 1)]  # 30 Å over 4.80 Å, the distance between the cell's faces; |a| is 5.54 Å
    assert [single.symbol for single in potcar] == ["Pt"]

    incar, kpoints, poscar, _ = written(tmp_path / "bulk", engine(library, preset="metal"), bulk("Cu", cubic=True))
    assert not {"LDIPOL", "IDIPOL", "DIPOL"} & set(incar)
    assert (incar["ISMEAR"], incar["SIGMA"]) == (1, 0.2)
    assert kpoints.kpts == [(12, 12, 12)]
    assert incar["MAGMOM"] == pymatgen_sets(poscar.structure)[0]["MAGMOM"]


def test_u_belongs_to_oxides(library: Path) -> None:
    nickel = Structure.from_ase(bulk("Ni", cubic=True))
    assert "LDAUU" not in engine(library).incar(nickel)
    assert "LDAUU" in engine(library, hubbard_anions=[]).incar(nickel)
    without = engine(library, hubbard={"Fe": None}, incar={"LASPH": None}).incar(Structure.from_ase(oxide()))
    assert without["LDAUU"] == [0, 0, 0, 6.2]
    assert "LASPH" not in without


def test_the_dipole_is_the_centre_of_the_whole_slab(library: Path) -> None:
    """A slab that the boundary cuts in two has its centre inside, not in the vacuum."""
    atoms = oxide()
    here = engine(library).incar(Structure.from_ase(atoms))["DIPOL"][2]
    atoms.positions[:, 2] -= here * atoms.cell[2, 2]
    atoms.wrap()
    there = engine(library).incar(Structure.from_ase(atoms))["DIPOL"][2]
    assert min(there, 1 - there) == pytest.approx(0, abs=1e-5)


def test_incar_values_are_written_as_vasp_reads_them() -> None:
    assert incar_text([0.5, 0.5, 0.25]) == "2*0.5 0.25"
    assert incar_text(True) == ".TRUE."
    assert "," not in incar_text([0.1, 0.2, 0.3])


@pytest.mark.slow
class TestVasp(EngineConformance):
    """The whole path, with the stand-in as the program."""

    @pytest.fixture
    def engine(self, library: Path) -> Engine:
        return engine(library)

    @pytest.fixture
    def structure(self) -> Structure:
        atoms = oxide()
        atoms.rattle(0.05, seed=1)
        atoms.positions += [30.0, -20.0, 0.0]  # far outside the cell: VASP wraps, the label does not
        return Structure.from_ase(atoms)

    def test_forces_come_back_in_the_order_of_the_structure(
        self, structure: Structure, job: tuple[str, Calculation]
    ) -> None:
        sys.path.insert(0, str(STAND_IN.parent))
        try:
            from stand_in_vasp import single_point
        finally:
            sys.path.pop(0)
        energy, forces = single_point(structure.to_ase())
        assert job[1].energy == pytest.approx(energy, abs=1e-6)
        np.testing.assert_allclose(job[1].forces, forces, atol=1e-6)
        assert job[1].evidence["electronic_steps"] == 7
        assert job[1].versions == {"vasp": "6.3.0"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "reason", "failure"),
    [
        ("unconverged", "the electronic steps ran out: 120 of NELM = 120", "scf"),
        ("crashed", "VERY BAD NEWS! internal error in subroutine IBZKPT", None),
        ("moved", "positions differ by up to 0.01", None),
        ("relaxed", "2 ionic steps", None),
        ("garbage", "vasprun.xml", None),
        ("full", "the disk is full", "disk"),
        ("killed", "killed, for want of memory", "memory"),
    ],
)
def test_what_is_no_label_says_why(tmp_path: Path, library: Path, mode: str, reason: str, failure: str | None) -> None:
    asked = Structure.from_ase(oxide())
    done = calculated(tmp_path / "job", engine(library, mode), asked)
    assert reason in (why_rejected(done, asked, 1e9) or "")
    assert done.failure == failure


def test_the_last_of_nelm_steps_may_converge(tmp_path: Path, library: Path) -> None:
    asked = Structure.from_ase(oxide())
    done = calculated(tmp_path / "job", engine(library, "last_step"), asked)
    assert why_rejected(done, asked, 1e9) is None
    assert done.evidence["electronic_steps"] == done.evidence["NELM"] == 120


def test_a_real_vasprun_is_read_as_ase_reads_it(tmp_path: Path) -> None:
    """Diamond by VASP 6.3, from ASE's test data."""
    import ase
    from ase.io import read

    from rlpath_core.dft.engines.program import Ended
    from rlpath_core.dft.engines.vasp_output import FINISHED, REACHED, read_vasprun

    real = Path(ase.__file__).parent / "test" / "testdata" / "vasp" / "vasprun_pstress.xml"
    (tmp_path / "vasprun.xml").write_bytes(real.read_bytes())
    (tmp_path / "OUTCAR").write_text(f"{REACHED}\n{FINISHED}\n")
    atoms = read(real)
    atoms.pbc = True
    done = read_vasprun(tmp_path, Structure.from_ase(atoms), np.arange(2), Ended(0, tmp_path / "vasp.out"), "free")
    assert done.converged
    assert (done.evidence["electronic_steps"], done.evidence["NELM"]) == (9, 60)
    np.testing.assert_allclose(done.forces, atoms.get_forces(), atol=1e-9)
    np.testing.assert_allclose(done.positions, atoms.positions, atol=1e-7)
    assert done.energy == pytest.approx(-20.23985977)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"potcar_dir": None}, "potcar_dir: give the folder"),
        ({"potcar_dir": "/no/such/library"}, "/no/such/library: potcar_dir: no such folder"),
        ({"potcar_symbols": ["O", "Fe_pw"]}, r"no POTCAR of 'Fe_pw'. Did you mean 'Fe_pv'"),
        ({"potcar_symbols": []}, "potcar_symbols"),
        ({"potcar_symbols": "/no/POTCAR.symbols"}, "POTCAR.symbols"),
        ({"potcar_symbols": ["O", "O_s"]}, "two POTCARs for O"),
        ({"potcar_symbols": ["Xx"]}, "begins with no element"),
        ({"command": ["no_such_vasp"]}, "engine vasp is not installed: no program 'no_such_vasp'"),
        ({"incar": {"NSW": 5}}, "single points"),
        ({"incar": {"ibrion": 2}}, "single points"),
        ({"incar": {"MAGMOM": "20*0.6"}}, "from `magmom`"),
        ({"preset": "oc23"}, "Did you mean 'oc22'"),
        ({"preset": "/no/such/preset.yaml"}, "no such file"),
    ],
)
def test_wrong_settings_are_named(library: Path, settings: dict, says: str) -> None:
    good = {"command": [sys.executable], "potcar_dir": str(library), "potcar_symbols": ["O", "Fe_pv"]}
    VaspEngine(good).require()
    with pytest.raises(InputError, match=says):
        VaspEngine(good | settings).require()


def test_potcar_symbols_may_be_a_file(tmp_path: Path, library: Path) -> None:
    (tmp_path / "POTCAR.symbols").write_text("Ni_pv\nO\nH\n")
    made = VaspEngine({"potcar_dir": str(library), "potcar_symbols": str(tmp_path / "POTCAR.symbols")})
    assert made.resolved()["potcar_symbols"] == ["Ni_pv", "O", "H"]


def test_identity_is_of_what_is_calculated_and_not_of_where(tmp_path: Path, library: Path) -> None:
    """Another place, the same; another POTCAR of the same name, another calculation."""
    made = engine(library)
    moved = library.rename(tmp_path / "elsewhere")
    there = VaspEngine({**made.resolved(), "potcar_dir": str(moved), "command": "mpirun -n 4 vasp_std"})
    before = there.identity()
    assert before == engine(moved).identity()
    (moved / "Cu" / "POTCAR").write_text("another")
    assert there.identity() != before


def test_structures_beyond_vasp_are_refused(library: Path) -> None:
    made = engine(library)
    assert "no POTCAR for Au" in (made.refuse(Structure.from_ase(bulk("Au"))) or "")
    assert made.refuse(Structure.from_ase(molecule("H2O"))) is None
    left_handed = bulk("Cu", cubic=True)
    left_handed.cell[0] *= -1
    assert "right-handed" in (made.refuse(Structure.from_ase(left_handed)) or "")


def test_the_second_try_is_safer(library: Path) -> None:
    safer = engine(library).safer()
    assert safer is not None
    assert safer["incar"]["NELM"] == 300
    again = VaspEngine(safer)
    assert again.safer() is None
    assert again.settings.incar["ENCUT"] == 500
