"""A run that another version began is refused before anything of it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.sampling.checkpoint import FORMAT
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.models import UnusedModel

CONFIG = {"walkers": 2, "quench": {"steps": 10}}


def without_format(state: dict[str, Any]) -> dict[str, Any]:
    """As the first states were."""
    return {"counters": state["state"]["counters"], "lengths": state["lengths"], "here": [], "origins": []}


def version_0_1(state: dict[str, Any]) -> dict[str, Any]:
    """Format 3, the last of version 0.1: what the run had learned and its walkers' places beside each other."""
    old = {"counters": state["state"]["counters"], "lengths": state["lengths"], "basins": state["basins"]}
    return old | {"format": 3, "checkpoints": 1, "learned": {"reach": 1.0}, "here": [], "origins": [], "under_way": []}


def later_version(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"format": FORMAT + 1, "something": "new"}


@pytest.mark.parametrize("another", [without_format, version_0_1, later_version])
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_another_version_is_refused_and_stays_as_it_is(
    run, tmp_path: Path, copper: Structure, another, finished: bool
) -> None:
    run(copper, steps=6, **CONFIG)
    with Store(tmp_path / "a") as store, store.session() as session:
        row = session.scalars(sa.select(orm.RunRow)).one()
        assert row.state["format"] == FORMAT
        row.state = another(row.state)
        if not finished:
            row.state, row.status = row.state | {"summary": None}, "running"
    before = {path: sha256_of(path) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="begun by another version of rlpath") as error:
        run(copper, steps=12, resume=True, using=UnusedModel(), **CONFIG)
    assert str(tmp_path / "a" / "run") in str(error.value)
    assert ("0.1" in str(error.value)) == (another is not later_version)
    assert {path: sha256_of(path) for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    assert len(before) > 4
