"""A run that another version began is refused before anything of it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.sampling.ledger import FORMAT
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel

CONFIG = {"walkers": 2, "quench": {"steps": 10}}


class Silent(EMTModel):
    def predict(self, structures, *, forces=True, embeddings=False):
        raise AssertionError("the model was asked for a run that cannot go on")


def first_version(state: dict[str, Any]) -> dict[str, Any]:
    """As it was before attempts could be on their way and before anything was learned: no format, other lengths."""
    new = ("format", "learned", "checkpoints", "under_way")
    return {key: value for key, value in state.items() if key not in new} | {
        "basins": [[departures, 1.0, origin] for departures, origin in state["basins"]],
        "here": [entry[:4] for entry in state["here"]],
    }


def without_learning(state: dict[str, Any]) -> dict[str, Any]:
    old = {key: value for key, value in state.items() if key not in ("format", "learned")}
    return old | {"basins": [[departures, 1.0, origin] for departures, origin in state["basins"]]}


def later_version(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"format": FORMAT + 1, "something": "new"}


@pytest.mark.parametrize("another", [first_version, without_learning, later_version])
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
        run(copper, steps=12, resume=True, using=Silent(), **CONFIG)
    assert str(tmp_path / "a" / "run") in str(error.value)
    assert {path: sha256_of(path) for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    assert len(before) > 4
