"""A whole round through the hook with VASP's engine: good labels are unharmed by what goes wrong beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from rlpath_core.data import S2EFReader
from rlpath_core.dft import label
from rlpath_core.dft.options import DftConfig
from rlpath_core.errors import InputError
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.store import select

pytest.importorskip("pymatgen.io.vasp", reason="pip install 'rlpath[vasp]'")
STAND_IN = Path(__file__).with_name("stand_in_vasp.py")


def oxygens_with(hydrogens: int) -> Structure:
    positions = np.array([[1, 1, 1], [3, 3, 1], [1, 3, 1], [3, 1, 1], [2, 2, 2], [2, 2, 4]], float)
    numbers = [1] * hydrogens + [8] * (len(positions) - hydrogens)
    return Structure(numbers, positions, np.diag([4.0, 4.0, 12.0]), [True] * 3)


def config(library: Path, **settings: object) -> DftConfig:
    vasp = {
        "command": [sys.executable, str(STAND_IN), "mixed"],
        "potcar_dir": str(library),
        "potcar_symbols": ["O", "H"],
    }
    return DftConfig(engine="vasp", settings=vasp | settings, workers=2, retries=0)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for symbol in ("O", "H"):
        path = tmp_path / "potcars" / symbol / "POTCAR"
        path.parent.mkdir(parents=True)
        path.write_text(f"  PAW_PBE {symbol}\n   TITEL  = PAW_PBE {symbol} 06Sep2000\n End of Dataset\n")
    return tmp_path / "potcars"


@pytest.mark.slow
def test_what_fails_is_failed_with_its_reason_and_the_rest_is_labelled(tmp_path: Path, library: Path) -> None:
    structures = [oxygens_with(n) for n in range(5)]
    with Store(tmp_path / "store") as store:
        select(store, structures)
        done = label(store, config(library), round_index=1, lmdb=tmp_path / "labels.lmdb")
        assert (done.wanted, done.labelled, done.failed) == (5, 1, 4)
        with store.reading() as session:
            rows = session.scalars(sa.select(orm.QueueRow)).all()
            reasons = {row.structure_id: (row.state, row.reason or "") for row in rows}
            jobs = session.scalars(sa.select(orm.JobRow)).all()
    got = [reasons[structure.id] for structure in structures]
    assert got[0][0] == "labelled"
    assert all(state == "failed" for state, _ in got[1:])
    for (_, reason), says in zip(
        got[1:], ("electronic steps ran out: 300 of NELM = 300", "VERY BAD NEWS", "positions differ", "vasprun.xml"),
        strict=True,
    ):  # fmt: skip
        assert says in reason
    # The broken SCF was tried once more with the preset's safer settings, the others were not.
    assert len([job for job in jobs if job.structure_id == structures[1].id]) == 2
    assert len(jobs) == 6
    with S2EFReader(tmp_path / "labels.lmdb") as reader:
        (entry,) = list(reader)
    np.testing.assert_allclose(entry.structure.positions, structures[0].positions, atol=1e-6)


@pytest.mark.slow
def test_a_wrong_library_stops_before_anything_is_launched(tmp_path: Path, library: Path) -> None:
    with Store(tmp_path / "store") as store:
        select(store, [oxygens_with(0)])
        for settings, says in (
            ({"potcar_dir": str(library / "no")}, "no such folder; it is your POTCAR library"),
            ({"command": "no_such_vasp"}, "engine vasp is not installed"),
        ):
            with pytest.raises(InputError, match=says):
                label(store, config(library, **settings), round_index=1, lmdb=tmp_path / "labels.lmdb")
        with store.reading() as session:
            assert [row.state for row in session.scalars(sa.select(orm.QueueRow))] == ["selected"]
        assert label(store, config(library), round_index=1, lmdb=tmp_path / "labels.lmdb").labelled == 1


def test_a_program_that_the_nodes_lack_fails_its_jobs(tmp_path: Path, library: Path) -> None:
    with Store(tmp_path / "store") as store:
        select(store, [oxygens_with(0)])
        missing = config(library, command="no_such_vasp", check_installed=False)
        done = label(store, missing, round_index=1, lmdb=tmp_path / "labels.lmdb")
    assert done.failed == 1
    assert "engine vasp is not installed: no program 'no_such_vasp'" in next(iter(done.reasons))
