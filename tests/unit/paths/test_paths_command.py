"""``flows.paths`` on small files: what is bad ends with one line and exit code 2 before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from flows.paths import main
from rlpath_core.errors import InputError
from rlpath_core.kinetics.files import read_network
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.paths.command import resolve_paths
from rlpath_core.paths.given import prepared_ends
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.steps import gold_on_aluminium

EMT = "ase:ase.calculators.emt.EMT"
Ends = tuple[Atoms, Atoms]


def ends() -> Ends:
    return gold_on_aluminium().to_ase(), gold_on_aluminium(hop=1).to_ase()


@pytest.fixture
def run(tmp_path: Path, capsys, monkeypatch) -> Callable[..., tuple[int, list[str], Path]]:
    """``run(ends, *words)``: the exit code, the lines that begin with ``error:``, and the output folder."""
    monkeypatch.setattr("flows.cli.server_url", lambda: None)

    def go(atoms: Ends | None, *words: str) -> tuple[int, list[str], Path]:
        out = tmp_path / "out"
        if atoms is not None:
            for name, one in zip(("initial", "final"), atoms, strict=True):
                one.write(tmp_path / f"{name}.traj")
                words = (*words, f"--{name}", str(tmp_path / f"{name}.traj"))
        code = main(["--run_dir", str(out), *words])
        return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")], out

    return go


def other_atoms() -> Ends:
    a, b = ends()
    b.symbols[-1] = "Ag"
    return a, b


def other_cell() -> Ends:
    a, b = ends()
    b.set_cell(b.cell * 1.01)
    return a, b


def other_order() -> Ends:
    a, b = ends()
    return a, b[[*range(1, len(b)), 0]]


def other_fixed_atoms() -> Ends:
    a, b = ends()
    b.set_constraint(FixAtoms(range(3)))
    return a, b


def moved_substrate() -> Ends:
    a, b = ends()
    b.positions[5, 2] += 0.2
    return a, b


def the_same_twice() -> Ends:
    return ends()[0], ends()[0]


def one_lattice_vector_further() -> Ends:
    return gold_on_aluminium().to_ase(), gold_on_aluminium(hop=2).to_ase()


def into_one_basin() -> Ends:
    a, b = ends()[0], ends()[0]
    b.positions[-1] += [0.1, 0.05, 0.05]
    return a, b


def an_unrelaxed_end() -> Ends:
    a, b = ends()
    b.positions[-1, 2] -= 0.8
    return a, b


def nothing_moves() -> Ends:
    a, b = ends()
    for one in (a, b):
        one.set_constraint(FixAtoms(range(len(one))))
    return a, b


@pytest.mark.parametrize(
    ("atoms", "says"),
    [
        (other_atoms, ["final.traj", "other atoms", "AgAl12", "Al12Au"]),
        (other_cell, ["final.traj", "another cell", "initial.traj"]),
        (other_order, ["final.traj", "atom 11 is another element", "sort the atoms"]),
        (other_fixed_atoms, ["final.traj", "atom 3 is fixed in only one"]),
        (moved_substrate, ["final.traj", "fixed atom 5 is 0.2 Å away"]),
        (the_same_twice, ["final.traj", "same structure"]),
        (one_lattice_vector_further, ["final.traj", "same structure"]),
        (into_one_basin, ["final.traj", "same minimum"]),
        (an_unrelaxed_end, ["final.traj", "largest force", "limit 1", "max_end_force"]),
        (nothing_moves, ["initial.traj", "no atom may move"]),
    ],
)
def test_bad_ends_are_one_line(run, atoms: Callable[[], Ends], says: list[str]):
    code, errors, out = run(atoms(), "--model", EMT, "--searches", "dimer")
    assert code == 2
    assert len(errors) == 1
    for word in says:
        assert word in errors[0]
    assert not out.exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--searches", "dimmer"], ["paths.searches.dimmer", "Did you mean 'dimer'"]),
        (["--proposals", "pear"], ["paths.proposals.pear", "Did you mean 'pairs'"]),
        (["--params", "paths.searches.dimer.fmx=1"], ["paths.searches.dimer.fmx", "fmax"]),
        (["--params", "paths.verify.puhs=1"], ["paths.verify.puhs", "push"]),
        (["--params", "paths.searches.dimer.weight=0", "paths.searches.band.weight=0"], ["paths.searches", "weight"]),
    ],
)
def test_bad_keys_are_one_line(run, words: list[str], says: list[str]):
    code, errors, out = run(ends(), "--model", EMT, "--searches", "dimer", *words)
    assert code == 2, errors
    assert len(errors) == 1
    for word in says:
        assert word in errors[0]
    assert not out.exists()


def test_unknown_elements_are_one_line():
    first, second = (one.to_ase() for one in (gold_on_aluminium(), gold_on_aluminium(hop=1)))
    for one in (first, second):
        one.symbols[-1] = "Mg"
    with pytest.raises(InputError, match=r"mine\.xyz: the model does not know Mg"):
        prepared_ends(*map(Structure.from_ase, (first, second)), EMTModel(), QuenchOptions(), 1.0, ("mine.xyz", "b"))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "where the run begins"),
        ({"initial": "a.xyz"}, "needs `final`"),
        ({"final": "a.xyz"}, "needs `initial`"),
        ({"initial": "a.xyz", "final": "b.xyz", "campaign": "c"}, "campaign and initial are given"),
        ({"structure_json": "a.xyz"}, "--manifest is required"),
    ],
)
def test_a_run_begins_in_one_place(params: dict, says: str):
    with pytest.raises(InputError, match=says):
        resolve_paths({"run_dir": "out", **params})


def test_names_alone_keep_the_options_that_a_file_gives_them(tmp_path: Path):
    config = tmp_path / "mine.yaml"
    config.write_text("searches: {dimer: {fmax: 0.002}, sella: {}}\nverify: {push: 0.3}\n")
    spec = resolve_paths(
        {"run_dir": "out", "campaign": "c", "config": str(config), "searches": ["dimer", "band"], "walkers": 3}
    )
    assert spec.paths.searches == {"dimer": {"fmax": 0.002}, "band": {}}
    assert (spec.paths.verify.push, spec.paths.walkers) == (0.3, 3)


def test_two_structures_give_the_step_between_them(run, tmp_path: Path, capsys):
    words = ("--model", EMT, "--searches", "dimer", "--params", "paths.pictures=false")
    code, errors, out = run(ends(), *words)
    assert (code, errors) == (0, [])
    network = read_network(out / "network.json")
    (saddle,) = network.saddles
    assert saddle.energy - network.minimum(saddle.start).energy == pytest.approx(0.42, abs=0.05)
    assert json.loads((out / "summary.json").read_text())["stop_reason"] == "joined"
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".json", ".jsonl", ".extxyz")}
    code, errors, _ = run(ends(), *words)
    assert code == 2
    assert "resume" in errors[0]
    code, errors, _ = run(ends(), *words, "--resume")
    assert (code, errors) == (0, [])
    after = {name: (out / name).read_bytes() for name in before}
    assert after == before
    code, errors, _ = run(ends(), *words, "--resume", "--seed", "7")
    assert code == 2
    assert "seed: is 7, but the run to resume began with 0" in errors[0]


def test_a_larger_force_is_relaxed_where_that_is_asked_for(run):
    words = ("--model", EMT, "--searches", "dimer", "--params", "max_end_force=null", "paths.pictures=false")
    code, errors, out = run(an_unrelaxed_end(), *words)
    assert (code, errors) == (0, [])
    energies = [minimum.energy for minimum in read_network(out / "network.json").minima]
    assert np.ptp(energies) < 1e-3
