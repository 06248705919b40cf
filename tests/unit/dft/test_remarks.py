"""What the hook says, once a call: questionable structures, and labels of other settings beside new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlpath_core.dft import label
from rlpath_core.dft.options import DftConfig
from rlpath_core.store import Store
from rlpath_core.structure import Structure
from rlpath_core.testing.store import select

EMT = {"calculator": "ase.calculators.emt:EMT"}


def dimers(count: int, pbc: tuple[bool, bool, bool], start: float = 2.2) -> list[Structure]:
    return [Structure([29, 29], [[0, 0, 0], [0, 0, start + 0.05 * k]], np.eye(3) * 9, pbc) for k in range(count)]


@pytest.mark.slow
def test_a_remark_is_made_once_with_the_number_of_structures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rlpath.dft")
    with Store(tmp_path) as store:
        select(store, [*dimers(3, (True, True, False)), *dimers(1, (False, False, False))])
        label(store, DftConfig(engine="ase", settings=EMT, workers=1), round_index=1, lmdb=tmp_path / "l.lmdb")
    (said,) = [record.getMessage() for record in caplog.records if "not periodic" in record.getMessage()]
    assert said.startswith("Cu2 (job ")
    assert said.endswith("; 2 more like it")


@pytest.mark.slow
def test_labels_of_other_settings_are_kept_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key that the older job did not know counts as well."""
    caplog.set_level("INFO", "rlpath.dft")
    molecule = (False, False, False)
    with Store(tmp_path) as store:
        select(store, dimers(2, molecule))
        first = DftConfig(engine="ase", settings=EMT, workers=1)
        label(store, first, round_index=1, lmdb=tmp_path / "l.lmdb")
        label(store, first, round_index=1, lmdb=tmp_path / "l.lmdb")
        assert not [record for record in caplog.records if "another calculation" in record.getMessage()]
        select(store, dimers(1, molecule, start=3.0))
        other = DftConfig(engine="ase", settings=EMT | {"force_consistent": True}, workers=1)
        done = label(store, other, round_index=1, lmdb=tmp_path / "l.lmdb")
    assert (done.wanted, done.labelled) == (3, 3)
    (said,) = [record.getMessage() for record in caplog.records if "another calculation" in record.getMessage()]
    assert said.startswith("2 labels here were made by another calculation")
    assert said.endswith("what differs: force_consistent")
