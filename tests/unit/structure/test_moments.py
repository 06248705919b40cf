"""Initial magnetic moments: from a user's file through sampling, queue, database and jobs to the labels."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from rlpath_core.config import check
from rlpath_core.data import read_labelled
from rlpath_core.dft import label
from rlpath_core.dft.options import DftConfig
from rlpath_core.outbox import process_outbox, rmsd
from rlpath_core.outbox.canonicalize import canonicalize
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.sampling import sample
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.store import Store
from rlpath_core.store.npz import read_npz, write_npz
from rlpath_core.structure import Structure, read_structures
from rlpath_core.structure.io import from_mapping
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.systems import triclinic
from rlpath_core.viz.trajectory import read_shots, trajectories

RECORDERS: dict[str, dict] = {"dft_queue": {}, "viz": {"keep": "accepted"}}
MOMENTS = [1.5, -1.5, 0.0, 0.25]


def nickel_oxide() -> Atoms:
    atoms = bulk("NiO", "rocksalt", 4.17) * (1, 1, 2)
    atoms.set_initial_magnetic_moments([2.0, 0.0, -2.0, 0.0])
    return atoms


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.db", "a.json"])
def test_moments_come_back_from_files(name: str, tmp_path: Path) -> None:
    atoms = nickel_oxide()
    write(tmp_path / name, [atoms, atoms])
    assert [one.magmoms.tolist() for one in read_structures(tmp_path / name)] == [[2.0, 0.0, -2.0, 0.0]] * 2
    assert read_structures(tmp_path / name)[0].to_ase().get_initial_magnetic_moments().tolist() == [2, 0, -2, 0]


def test_moments_in_the_documented_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    one = {"numbers": [28, 28], "positions": [[0, 0, 0], [0, 0, 2]], "magmoms": [1, -1]}
    path.write_text(json.dumps(one))
    (read,) = read_structures(path)
    assert read.magmoms.tolist() == [1.0, -1.0]
    assert read.id != from_mapping({**one, "magmoms": [1, 1]}).id
    assert from_mapping({**one, "magmoms": [0, 0]}).id == from_mapping({k: one[k] for k in ("numbers", "positions")}).id


PWI = """&CONTROL
/
&SYSTEM
 ibrav=0, nat=4, ntyp=3, ecutwfc=30, nspin=2, tot_charge=1
 starting_magnetization(1)={up}, starting_magnetization(2)={down}
/
&ELECTRONS
/
ATOMIC_SPECIES
Ni1 58.7 Ni.UPF
Ni2 58.7 Ni.UPF
O 16.0 O.UPF
CELL_PARAMETERS angstrom
2.95 0 0
0 2.95 0
0 0 4.17
ATOMIC_POSITIONS angstrom
Ni1 0 0 0
O 1.475 1.475 0
Ni2 1.475 1.475 2.085
O 0 0 2.085
K_POINTS gamma
"""


def test_the_species_of_a_pw_x_input_have_moments_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ASE gives both kinds of nickel the moment of the last one: ferromagnetic."""
    caplog.set_level(logging.INFO, "rlpath")
    path = tmp_path / "nio.pwi"
    path.write_text(PWI.format(up=2.0, down=-2.0))
    assert read_structures(path)[0].magmoms.tolist() == [2.0, 0.0, -2.0, 0.0]
    assert any("tot_charge = 1 is not read" in line for line in caplog.messages)
    path.write_text(PWI.format(up=0.5, down=-0.5))
    assert not read_structures(path)[0].magmoms.any()
    assert any("share of the valence electrons" in line for line in caplog.messages)


def test_files_of_structures_without_moments_are_as_they_were(tmp_path: Path) -> None:
    plain = triclinic()
    write_npz(tmp_path / f"{plain.id}.npz", plain)
    with np.load(tmp_path / f"{plain.id}.npz") as arrays:
        assert set(arrays.files) == {"format", "numbers", "positions", "cell", "pbc", "tags", "fixed"}
        assert int(arrays["format"]) == 1
    magnetic = replace(plain, magmoms=np.linspace(-1, 1, len(plain)))
    write_npz(tmp_path / f"{magnetic.id}.npz", magnetic)
    with np.load(tmp_path / f"{magnetic.id}.npz") as arrays:
        assert int(arrays["format"]) == 2  # which an older version refuses by name
    assert (read_npz(tmp_path / f"{magnetic.id}.npz").magmoms == magnetic.magmoms).all()


def test_other_moments_are_no_duplicate() -> None:
    up = Structure.from_ase(nickel_oxide())
    same, other = replace(up, magmoms=up.magmoms * 1.0), replace(up, magmoms=np.abs(up.magmoms))
    assert rmsd(canonicalize(up), canonicalize(same)) == 0.0
    assert rmsd(canonicalize(up), canonicalize(other)) == np.inf


@pytest.mark.slow
def test_moments_travel_from_the_start_to_the_labels(tmp_path: Path) -> None:
    plain = triclinic()
    moments = np.resize(MOMENTS, len(plain))
    start = replace(plain, magmoms=moments)
    sampling = {
        "steps": 12,
        "walkers": 2,
        "quench": {"steps": 20},
        "pipeline": {"trigger": {"max_force": 0.4, "top_k_mean": 0.3}, "recorders": RECORDERS},
    }
    run_dir = tmp_path / "sampling" / "run"
    dft = DftConfig(engine="ase", settings={"calculator": "ase.calculators.emt:EMT"}, max_force=50.0, retries=0)
    with Store(tmp_path) as store:
        config = check(SamplingConfig, sampling, "test")
        sample(config, EMTModel(), start, run_dir, store, seed=1, run_id="run", round=1)
        process_outbox(store, run_dir, OutboxConfig(budget=3), round_index=1)
        label(store, dft, round_index=1, lmdb=tmp_path / "labels.lmdb")
        queued = [json.loads(line) for line in (run_dir / "dft_queue.jsonl").read_text().splitlines()]
        assert queued
        for structure in store.get(line["structure_id"] for line in queued):
            assert structure.magmoms.tolist() == moments.tolist()
    requests = [json.loads(path.read_text()) for path in tmp_path.rglob("request.json")]
    assert requests
    assert all(request["structure"]["magmoms"] == moments.tolist() for request in requests)
    labels = read_labelled(tmp_path / "labels.lmdb")
    assert labels
    assert all(one.structure.magmoms.tolist() == moments.tolist() for one in labels)
    assert all(one.sid in {line["structure_id"] for line in queued} for one in labels)
    for shot in read_shots(trajectories(run_dir)):
        assert shot.structure.magmoms.tolist() == moments.tolist()
