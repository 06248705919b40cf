"""Initial magnetic moments of the atoms reach every program, or are refused by the key that is at odds with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read, write
from ase.io.espresso import read_fortran_namelist

from rlpath_core.dft.engines.ase_calculator import AseEngine
from rlpath_core.dft.engines.base import REQUEST
from rlpath_core.dft.engines.espresso import EspressoEngine, valence_of
from rlpath_core.dft.engines.gpaw import GpawEngine
from rlpath_core.dft.engines.tblite import TbliteEngine
from rlpath_core.dft.engines.vasp import VaspEngine
from rlpath_core.dft.identity import job_id
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure, read_structure
from rlpath_core.structure.io import from_mapping

KEY = "0" * 64
UPF = '<UPF version="2.0.1">\n<PP_HEADER element="{element}" z_valence="  {valence:.3E}" />\n'


def nickel_oxide() -> Atoms:
    """NiO with the spins of its (001) planes up and down in turn, its species in no order."""
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    plane = np.round(atoms.positions[:, 2] / (4.17 / 2)).astype(int)
    atoms.set_initial_magnetic_moments(np.where(atoms.numbers == 28, np.where(plane % 2 == 0, 1.7, -1.7), 0.0))
    atoms = atoms[[0, 1, 2, 3, 5, 4, 7, 6]]
    assert sorted(atoms.get_initial_magnetic_moments().tolist()) == [-1.7] * 2 + [0] * 4 + [1.7] * 2
    return atoms


@pytest.fixture
def oxide(tmp_path: Path) -> Structure:
    """From a file, as a user's would come."""
    write(tmp_path / "NiO.xyz", nickel_oxide())
    return read_structure(tmp_path / "NiO.xyz")


@pytest.fixture
def pseudos(tmp_path: Path) -> Path:
    folder = tmp_path / "pseudo"
    folder.mkdir()
    (folder / "Ni.UPF").write_text(UPF.format(element="Ni", valence=10.0))
    (folder / "O.UPF").write_text("<PP_HEADER>\n   0   Version Number\n   6.00000000000      Z valence\n")
    return folder


def espresso(pseudos: Path, **given: object) -> EspressoEngine:
    files = {"Ni": "Ni.UPF", "O": "O.UPF"}
    return EspressoEngine({"pseudo_dir": str(pseudos), "pseudopotentials": files} | given)


def vasp(tmp_path: Path, symbols: list[str], **given: object) -> VaspEngine:
    library = tmp_path / "potcars"
    for symbol in symbols:
        (library / symbol).mkdir(parents=True, exist_ok=True)
        (library / symbol / "POTCAR").write_text(symbol)
    return VaspEngine({"potcar_dir": str(library), "potcar_symbols": symbols} | given)


def moments_by_place(positions: np.ndarray, moments: np.ndarray) -> dict[tuple[float, ...], float]:
    """Moments by position: however a program sorts the atoms, each keeps its own."""
    places = [tuple((np.round(place, 4) + 0.0).tolist()) for place in positions]
    return dict(zip(places, np.round(moments, 6).tolist(), strict=True))


# VASP


@pytest.mark.parametrize("symbols", [["Ni_pv", "O"], ["O", "Ni_pv"]])
def test_vasp_s_magmom_is_in_the_order_of_the_poscar(tmp_path: Path, oxide: Structure, symbols: list[str]) -> None:
    """POSCAR and INCAR read by pymatgen."""
    vasp_io = pytest.importorskip("pymatgen.io.vasp", reason="pip install 'rlpath[vasp]'")
    made = vasp(tmp_path, symbols)
    assert made.refuse(oxide) is None
    made.write_inputs(tmp_path / "job", KEY, oxide)
    incar = vasp_io.Incar.from_file(tmp_path / "job" / "INCAR")
    written = vasp_io.Poscar.from_file(tmp_path / "job" / "POSCAR", check_for_potcar=False).structure
    assert incar["ISPIN"] == 2
    got = moments_by_place(written.cart_coords, np.array(incar["MAGMOM"]))
    assert got == moments_by_place(oxide.positions, oxide.magmoms)
    assert next(site.specie.symbol for site in written) == symbols[0].split("_")[0]


def test_moments_make_vasp_spin_polarised_and_a_preset_s_moments_are_for_atoms_without(
    tmp_path: Path, oxide: Structure
) -> None:
    made = vasp(tmp_path, ["Ni_pv", "O"], incar={"ISPIN": None})
    assert made.incar(oxide)["ISPIN"] == 2
    bare = replace(oxide, magmoms=np.zeros(8))
    assert "MAGMOM" not in made.incar(bare)
    assert vasp(tmp_path, ["Ni_pv", "O"]).incar(bare)["MAGMOM"] == [5] * 4 + [0.6] * 4


# pw.x


def test_pw_x_gets_a_species_for_each_moment_and_the_element_s_pseudopotential(
    tmp_path: Path, oxide: Structure, pseudos: Path
) -> None:
    """The input read by ASE: starting_magnetization is a fraction of the valence electrons."""
    made = espresso(pseudos, hubbard_u={"Ni": 6.0})
    assert made.refuse(oxide) is None
    made.write_inputs(tmp_path / "job", KEY, oxide)
    with open(tmp_path / "job" / "pw.in") as stream:
        namelists, cards = read_fortran_namelist(stream)
    system = namelists["system"]
    assert (system["nspin"], system["ntyp"]) == (2, 3)
    start = cards.index("ATOMIC_SPECIES") + 1
    species = [line.split() for line in cards[start : start + 3]]
    assert {name[:2].rstrip("12"): file for name, _, file in species} == {"Ni": "Ni.UPF", "O": "O.UPF"}
    moment = {
        name: system[f"starting_magnetization({k})"] * {"Ni": 10.0, "O": 6.0}[file.removesuffix(".UPF")]
        for k, (name, _, file) in enumerate(species, start=1)
    }
    assert sorted(moment.values()) == pytest.approx([-1.7, 0, 1.7])
    assert [system[f"hubbard_u({k})"] for k in (1, 2, 3)] == [0.0 if file == "O.UPF" else 6.0 for _, _, file in species]
    start = next(k for k, line in enumerate(cards) if line.startswith("ATOMIC_POSITIONS")) + 1
    atoms = [line.split() for line in cards[start : start + 8]]
    got = moments_by_place(
        np.array([line[1:4] for line in atoms], float), np.array([moment[line[0]] for line in atoms])
    )
    assert got == moments_by_place(oxide.positions, oxide.magmoms)
    assert read(tmp_path / "job" / "pw.in", format="espresso-in").get_chemical_symbols() == [
        "Ni" if z == 28 else "O" for z in oxide.numbers
    ]


def test_what_pw_x_cannot_start_from_is_refused(oxide: Structure, pseudos: Path) -> None:
    many = replace(oxide, magmoms=np.linspace(0.1, 1.2, 8))
    assert espresso(pseudos).refuse(many) is None
    crowd = Structure.from_ase(bulk("NiO", "rocksalt", a=4.17, cubic=True) * (2, 1, 1))
    crowd = replace(crowd, magmoms=np.linspace(0.1, 1.2, 16))
    assert "16 species" in (espresso(pseudos).refuse(crowd) or "")
    assert "10 valence electrons" in (espresso(pseudos).refuse(replace(oxide, magmoms=oxide.magmoms * 10)) or "")
    (pseudos / "Ni.UPF").write_text("nothing")
    assert "z_valence" in (espresso(pseudos).refuse(oxide) or "")
    with pytest.raises(InputError, match=r"Ni\.UPF"):
        valence_of(pseudos / "Ni.UPF")


def test_valences_of_real_pseudopotentials() -> None:
    folder = Path("/usr/share/espresso/pseudo")
    known = {
        "Ni.pbe-spn-kjpaw_psl.1.0.0.UPF": 18,
        "O.pbe-kjpaw.UPF": 6,
        "H.pbe-kjpaw.UPF": 1,
        "Ni.pz-nd-rrkjus.UPF": 10,
    }
    if not (folder / "O.pbe-kjpaw.UPF").is_file():
        pytest.skip("Debian's package quantum-espresso-data is not installed")
    assert {name: valence_of(folder / name) for name in known} == known


# GPAW, tblite, ASE


def test_gpaw_gets_every_atom_s_moment(tmp_path: Path, oxide: Structure) -> None:
    made = GpawEngine({"magmom": {"Ni": 2.0}})
    made.write_inputs(tmp_path, KEY, oxide)
    assert json.loads((tmp_path / "gpaw.json").read_text())["magmoms"] == oxide.magmoms.tolist()
    made.write_inputs(tmp_path, KEY, replace(oxide, magmoms=np.zeros(8)))
    assert json.loads((tmp_path / "gpaw.json").read_text())["magmoms"] == [
        2.0 if z == 28 else 0.0 for z in oxide.numbers
    ]


def test_tblite_takes_no_moments_per_atom() -> None:
    """Nor their sum in secret, which its ASE calculator would take for the number of unpaired electrons."""
    oxygen = Structure([8, 8], [[0, 0, 0], [0, 0, 1.21]], magmoms=[1.0, 1.0])
    assert "multiplicity" in (TbliteEngine().refuse(oxygen) or "")
    triplet = TbliteEngine({"multiplicity": 3})
    assert triplet.refuse(oxygen) is None
    bare = replace(oxygen, magmoms=np.zeros(2))
    (given,), (plain,) = triplet.calculate([oxygen]), triplet.calculate([bare])
    assert given.energy == plain.energy
    (ignored,), (default,) = TbliteEngine().calculate([oxygen]), TbliteEngine().calculate([bare])
    assert ignored.energy == default.energy != given.energy


class SumOfMoments(Calculator):
    """Its energy tells which moments it was given."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        weights = np.arange(1, len(atoms) + 1)
        energy = float(weights @ atoms.get_initial_magnetic_moments())
        self.results = {"energy": energy, "forces": np.zeros((len(atoms), 3))}


def test_ase_calculators_get_them_with_the_atoms(oxide: Structure, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "calculators_with_spins", sys.modules[__name__])
    (done,) = AseEngine({"calculator": "calculators_with_spins:SumOfMoments"}).calculate([oxide])
    assert done.energy == pytest.approx(np.arange(1, 9) @ oxide.magmoms)


# All


def test_moments_are_part_of_what_is_calculated(tmp_path: Path, oxide: Structure) -> None:
    """Another spin state is another job, and the job's own file carries it."""
    made = GpawEngine()
    flipped = replace(oxide, magmoms=-oxide.magmoms)
    bare = replace(oxide, magmoms=np.zeros(8))
    keys = {job_id(one.id, made.key, made.identity()) for one in (oxide, flipped, bare)}
    assert len(keys) == 3
    made.write_inputs(tmp_path, KEY, oxide)
    again = from_mapping(json.loads((tmp_path / REQUEST).read_text())["structure"])
    np.testing.assert_array_equal(again.magmoms, oxide.magmoms)
    assert again == oxide


@pytest.mark.parametrize(
    ("name", "given", "key"),
    [
        ("vasp", {"incar": {"ISPIN": 1}}, "ISPIN: 1"),
        ("vasp", {"incar": {"lsorbit": True}}, "LSORBIT"),
        ("espresso", {"input": {"system": {"nspin": 1}}}, "nspin: 1"),
        ("espresso", {"input": {"SYSTEM": {"noncolin": True}}}, "noncolin: True"),
        ("espresso", {"input": {"system": {"starting_magnetization(1)": 0.5}}}, "starting_magnetization(1)"),
        ("gpaw", {"parameters": {"spinpol": False}}, "spinpol: false"),
        ("gpaw", {"parameters": {"hund": True}}, "hund: true"),
        ("tblite", {}, "multiplicity"),
    ],
)
def test_settings_at_odds_with_moments_are_refused_by_name(
    tmp_path: Path, oxide: Structure, pseudos: Path, name: str, given: dict, key: str
) -> None:
    made = {
        "vasp": lambda: vasp(tmp_path, ["Ni_pv", "O"], **given),
        "espresso": lambda: espresso(pseudos, **given),
        "gpaw": lambda: GpawEngine(given),
        "tblite": lambda: TbliteEngine(given | {"allow_metals": True}),
    }[name]()
    assert key in (made.refuse(oxide) or "")
    assert made.refuse(replace(oxide, magmoms=np.zeros(8))) is None
