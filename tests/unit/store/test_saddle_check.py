"""`rlpath store check` on a store with a paths run, and the SQL of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from rlpath_core.paths.catalogue import Status
from rlpath_core.paths.catalogue_rows import load_catalogue
from rlpath_core.paths.confirmation import confirm
from rlpath_core.store import Store, orm
from rlpath_core.store.check import check
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.steps import begin_run, catalogue_of, lifted, save, verdict_of, water_on_copper
from rlpath_core.testing.store import enter_labels

DOCS = Path(__file__).resolve().parents[3] / "docs" / "store.md"


@pytest.fixture
def store(tmp_path: Path):
    """One confirmed or refuted saddle, two minima, one of them merged in round 2."""
    water = water_on_copper()
    catalogue = catalogue_of(water)
    for k in range(2):
        catalogue.add_minimum(lifted(water, 0.8 * k), 0.2 * k)
    verdict = verdict_of(lifted(water, 0.4), 0.5)
    catalogue.add_saddle(verdict, "B001", "B001")
    with Store(tmp_path) as store:
        begin_run(store, "first", 1)
        save(store, "first", catalogue)
        assert verdict.sides is not None
        enter_labels(store, [verdict.structure, *verdict.sides], EMTModel(), stage="saddle")
        assert len(confirm(store)) == 1
        catalogue = load_catalogue(store, catalogue.options, catalogue.roles, water)
        catalogue.minima["B002"].status, catalogue.minima["B002"].merged_into = Status.MERGED, "B001"
        begin_run(store, "second", 2)
        save(store, "second", catalogue)
        yield store


def test_a_sound_store_has_nothing_to_tell(store: Store) -> None:
    assert check(store) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            sa.update(orm.ModelMinimumRow).where(orm.ModelMinimumRow.status == "merged").values(merged_into=None),
            "B002 of run second: merged, and merged into None",
        ),
        (
            sa.update(orm.ModelSaddleRow).where(orm.ModelSaddleRow.run_id == "second").values(to_minimum=2),
            "TS001 of run second: joins a minimum that this run's model does not have",
        ),
        (sa.update(orm.ConfirmationRow).values(minus_job=orm.ConfirmationRow.plus_job), "of another structure"),
        (sa.update(orm.ConfirmationRow).values(energy=0.0), "confirmed with another energy"),
    ],
    ids=["merged", "end", "label", "energy"],
)
def test_what_disagrees_is_told(store: Store, change: sa.Update, told: str) -> None:
    with store.session() as session:
        session.execute(change)
    lines = check(store)
    assert len(lines) == 1
    assert told in lines[0]


def test_a_changed_line_of_searches_is_told(store: Store) -> None:
    folder = store.folder / "first"
    folder.mkdir()
    (folder / "saddles.jsonl").write_text('{"n": 1, "state": "guess"}\n')
    (line,) = check(store)
    assert line.endswith("saddles.jsonl: 1 lines, in the database 0")


def test_the_sql_of_the_documentation(store: Store) -> None:
    (query,) = (q for q in re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL) if "model_saddles" in q)
    with store.engine.connect() as connection:
        rows = connection.execute(sa.text(query)).fetchall()
    assert [(row.round, row.status, row.confirmed) for row in rows] == [(1, "present", 0), (2, "present", None)]
    assert rows[0].fmax > 0.05
