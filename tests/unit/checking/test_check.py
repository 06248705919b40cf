"""``flows.check``: what it says of structures, data sets and models, among them the inputs that went wrong before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write

from flows.check import main

ROOT = Path(__file__).resolve().parents[3]
CASES = ROOT / "tests" / "data" / "cases"
STARTER = ROOT / "models" / "starter"
STRUCTURES = {
    "all_slab_fixed_plus_partial.extxyz": ["16 of 19", "atoms 16-18", "would refuse it: atom 16 is free along z only"],
    "ethanol_in_periodic_box.xyz": ["9 of 9 atoms move", "no surface"],
    "fixed_plane.traj": ["would refuse it: atom 12 is held along z only"],
    "ifpos.pwi": ["would refuse it: atom 2 is free along z only"],
    "slab_TTF_c12.xyz": ["periodic T T F", "H2O (atoms 16-18)"],
    "slab_TTF_c6.xyz": ["periodic T T F", "H2O (atoms 16-18)"],
    "slab_TTF_no_c.xyz": ["periodic T T F", "H2O (atoms 16-18)"],
    "start_partly_fixed.xyz": ["16 of 19", "would refuse it: atom 18 is free along z only"],
    "two_layer_builder_tags.traj": ["HO (atoms 8 9)", "along +c"],
    "vasp4_no_symbols.vasp": ["refused", "line 6", "Mg O"],
    "water_O_z_only.vasp": ["H2O (atoms 0 1 17)", "would refuse it: atom 17 is free along z only"],
    "water_below_slab.xyz": ["H2O (atoms 16-18)", "along -c"],
}
SETS = {
    "01_blank_line.xyz": ["data set of 22 structures"],
    "03_mace_keys_REF.xyz": ["energies    1, -52.0", "forces      1"],
    "05_val_two_atoms_in_one_place.xyz": ["two atoms in one place: frame 5: O0 and H1"],
    "06_energy_only.xyz": ["energies    8"],
    "model.json": ["architecture of a MACE", "H, O, Mg"],
    "val.xyz": ["data set of 6 structures"],
    "train.xyz": ["data set of 16 structures", "nothing looks wrong"],
}


def checked(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main([str(word) for word in words]) == code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_that_went_wrong(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = STRUCTURES[name]
    out = checked(capsys, CASES / "structures" / name, code=2 if "refused" in words else 0)
    assert not [word for word in words if word not in out], out


@pytest.mark.parametrize("name", SETS)
def test_data_sets_that_went_wrong(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = checked(capsys, CASES / "training" / name)
    assert not [word for word in SETS[name] if word not in out], out


def test_every_case_is_in_a_table() -> None:
    assert {path.name for path in (CASES / "structures").iterdir()} == set(STRUCTURES)
    assert {path.name for path in (CASES / "training").iterdir() if path.suffix in (".xyz", ".json")} == set(SETS)


@pytest.mark.slow
def test_models_and_what_they_do_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "cu.xyz", fcc111("Cu", (2, 2, 3), vacuum=8.0))
    out = checked(capsys, tmp_path / "cu.xyz", STARTER, "--manifest", STARTER, "--device", "cpu")
    assert "the model does not know Cu" in out
    assert "backend     mace" in out
    assert "H, C, N, O, Mg" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("energy", "force", "words"),
    [
        (units.mol / units.kcal, units.mol / units.kcal, ["forces in kcal/mol/Å", "as in kcal/mol"]),
        (1 / units.Hartree, units.Bohr / units.Hartree, ["forces in Hartree/Bohr", "as in Hartree"]),
        (1.0, -1.0, ["look like gradients"]),
        (1.0, 1.0, ["nothing looks wrong"]),
    ],
)
def test_units_beside_a_model(
    energy: float, force: float, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = read(STARTER / "data" / "heldout.xyz", index=":12")
    for atoms in images:
        e, f = atoms.get_potential_energy(apply_constraint=False), atoms.get_forces(apply_constraint=False)
        atoms.calc = SinglePointCalculator(atoms, energy=e * energy, forces=f * force)
    write(tmp_path / "set.xyz", images)
    out = checked(capsys, tmp_path / "set.xyz", "--manifest", STARTER, "--device", "cpu")
    assert not [word for word in words if word not in out], out


@pytest.mark.slow
def test_other_reference_energies_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = read(STARTER / "data" / "train.xyz", index=":")
    for atoms in images:
        e, f = atoms.get_potential_energy(apply_constraint=False), atoms.get_forces(apply_constraint=False)
        shift = 3.0 * np.count_nonzero(atoms.numbers == 8) - 1.0 * np.count_nonzero(atoms.numbers == 1)
        atoms.calc = SinglePointCalculator(atoms, energy=e + shift, forces=f)
    write(tmp_path / "set.xyz", images)
    out = checked(capsys, tmp_path / "set.xyz", "--manifest", STARTER, "--device", "cpu")
    assert "O +3" in out
    assert "H -1" in out or "H -0.99" in out
    assert "other reference energies" in out


def test_copies_contradictions_and_shared_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(atoms, "O", 1.2, "fcc")
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    other = atoms.copy()
    other.calc = SinglePointCalculator(other, energy=energy + 1.0, forces=forces)
    write(tmp_path / "a.xyz", [atoms, atoms, other])
    write(tmp_path / "b.xyz", [atoms])
    report = tmp_path / "report.json"
    out = checked(capsys, tmp_path / "a.xyz", tmp_path / "b.xyz", "--json_output", report)
    assert "copies      2: frame 1 is frame 0, frame 2 is frame 0" in out
    assert "one structure with different energies: frames 0 and 2 (+1.000 eV)" in out
    assert "a.xyz too: no set to train on and to judge by" in out
    first, second = json.loads(report.read_text())
    assert (first["kind"], first["facts"]["energies"][0]) == ("data set of 3 structures", "3")
    assert second["warnings"]


def test_labels_that_some_frames_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = read(CASES / "training" / "val.xyz", ":")
    del images[2].calc.results["forces"]
    images[4].calc.results["energy"] = np.nan
    write(tmp_path / "some.xyz", images)
    out = checked(capsys, tmp_path / "some.xyz")
    assert "1 structure of 6 cannot be used for training on energy: frame 4: the energy is not a finite number" in out
    assert "1 structure of 6 cannot be used for training on forces: frame 2: has no REF_forces or forces" in out


def test_labels_of_an_ase_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("set.json", "set.db"):
        with connect(tmp_path / name) as database:
            for atoms in read(CASES / "training" / "val.xyz", ":"):
                database.write(atoms)
        out = checked(capsys, tmp_path / name)
        assert "data set of 6 structures" in out
        assert "energies    6, " in out


def test_forces_that_a_constraint_has_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    forces = atoms.get_forces()
    forces[:4] = 0
    atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=forces)
    write(tmp_path / "cut.xyz", atoms)
    assert "do not add up to zero" in checked(capsys, tmp_path / "cut.xyz")


def test_magnetic_moments_and_short_distances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = Atoms("NiONi", [[0, 0, 0], [0, 0, 1.0], [0, 0, 4.0]], cell=[8, 8, 8], pbc=True, magmoms=[2, 0, -2])
    write(tmp_path / "ni.traj", atoms)
    out = checked(capsys, tmp_path / "ni.traj")
    assert "-2 to 2, 0 Bohr magnetons in all" in out
    assert "a distance shorter than any bond: Ni0 and O1 are 1.000 Å apart" in out


def test_refused_files_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.xyz").write_text("nothing\n")
    out = checked(capsys, tmp_path / "bad.xyz", tmp_path / "none.xyz", CASES / "training" / "train.xyz", code=2)
    assert out.count(": refused\n") == 2
    assert "no such file" in out
    assert "data set of 16 structures" in out
