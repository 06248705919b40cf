"""The table, the curve and the report of a campaign whose rounds are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write

from rlpath_core.campaign import Campaign, open_campaign
from rlpath_core.campaign.report import markdown, text_table
from rlpath_core.files import write_json
from rlpath_core.store import orm
from rlpath_core.structure import Structure

METRICS = {
    "force_mae": 0.2,
    "force_rmse": 0.4,
    "force_mae_top20": 0.5,
    "energy_mae_per_atom": 0.01,
    "force_mae_near": 0.05,
}


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    write(tmp_path / "any.xyz", Atoms("H"))
    (tmp_path / "manifest.json").write_text("{}")
    paths = {key: str(tmp_path / "any.xyz") for key in ("structure", "heldout", "near", "replay")}
    return open_campaign(
        {"campaigns_dir": str(tmp_path), "models_dir": str(tmp_path), "model": str(tmp_path / "manifest.json")}
        | {"campaign": "report", "rounds": 1}
        | paths
    )


def record(campaign: Campaign, stage: str, round: int, seconds: dict[str, float], **result: object) -> None:
    write_json(campaign.folder / "stages" / f"round-{round}-{stage}.json", {"seconds": seconds, **result})


def test_rounds_are_finished_once_and_shown(campaign: Campaign) -> None:
    with campaign.store() as store, store.session() as session:
        store.register_model(session, campaign.manifest(0), "a" * 64, "mace", "b" * 64)
        store.register_model(session, campaign.manifest(0), "c" * 64, "mace", "d" * 64, parent="a" * 64)
        ids = store.put([Structure([1], [[0.0, 0.0, 0.0]])], session)
        job = {"id": "e" * 64, "structure_id": ids[0], "engine": "tblite", "launcher": "local", "folder": "dft/e"}
        session.add(orm.JobRow(**job))
        session.flush()
        session.add(orm.LabelRow(job_id="e" * 64, structure_id=ids[0], energy=1.0, max_force=0.1, round=1, forces="x"))

    with pytest.raises(RuntimeError, match="evaluate_start has not ended"):
        campaign.finish_round(0, 0.0)
    start = {"manifest": "models/starter/manifest.json", "sha256": "a" * 64}
    record(campaign, "evaluate_start", 0, {"evaluation": 2.0}, metrics=METRICS, model=start)
    campaign.finish_round(0, 1.0)
    assert campaign.next_round() == 1

    record(campaign, "explore", 1, {"sampling": 30.0}, basins=4, candidates=40)
    record(campaign, "find_paths", 1, {"paths": 4.0}, searches=8, saddles=0)
    record(campaign, "label", 1, {"labelling": 5.0}, submitted=2, failed=1)
    better = {key: value / 2 for key, value in METRICS.items()}
    model = {"manifest": "models/report/round-1/artifacts/manifest.json", "sha256": "c" * 64}
    record(campaign, "learn", 1, {"training": 50.0, "evaluation": 2.5}, metrics=better, model=model)
    first = campaign.finish_round(1, 7.0)
    assert campaign.finish_round(1, 99.0) == first, "a finished round keeps its entry"
    assert campaign.next_round() is None

    entries = json.loads((campaign.folder / "rounds.json").read_text())
    assert [entry["round"] for entry in entries] == [0, 1]
    assert entries[1]["force_mae"] == pytest.approx(0.1)
    assert entries[1]["labels"] == 1
    assert entries[1]["seconds"] == {
        "sampling": 30.0,
        "paths": 4.0,
        "labelling": 5.0,
        "training": 50.0,
        "evaluation": 2.5,
        "orchestration": 7.0,
        "total": 98.5,
    }
    assert "200.0" in text_table(entries)
    assert markdown(entries).count("\n|") == 3
    page = (campaign.folder / "report.html").read_text()
    assert "<td>100.0</td>" in page
    assert "models/report/round-1" in page
    assert (campaign.folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_heldout_set_the_error_on_new_labels_is_shown(campaign: Campaign) -> None:
    """A campaign that has nothing to evaluate on reports how well each model predicted labels before it saw them."""
    config = campaign.config.model_copy(update={"heldout": None, "near": None, "paths": None})
    campaign = Campaign(campaign.folder, config)
    with campaign.store() as store, store.session() as session:
        for digest in "abc":
            store.register_model(session, campaign.manifest(0), digest * 64, "mace", digest * 64)
    model = {"manifest": "m.json", "sha256": "a" * 64}
    record(campaign, "evaluate_start", 0, {"evaluation": 0.0}, metrics={}, model=model)
    first = campaign.finish_round(0, 1.0)
    assert first["error_on_new_labels"] is None
    assert not [key for key in first if key.startswith(("force_", "energy_"))]
    errors = {"force_mae": 0.3, "force_rmse": 0.4, "energy_mae_per_atom": 0.005, "n_structures": 2}
    record(campaign, "explore", 1, {"sampling": 1.0}, basins=1, candidates=2)
    record(campaign, "label", 1, {"labelling": 1.0}, submitted=2, failed=0)
    model = model | {"sha256": "b" * 64}
    record(campaign, "learn", 1, {"training": 1.0}, metrics={}, model=model, error_on_new_labels=errors)
    assert campaign.finish_round(1, 1.0)["error_on_new_labels"] == errors
    head, start, last, *_ = (line.split("  ") for line in text_table(campaign.rounds()).splitlines())
    columns = [cell.strip() for cell in head if cell.strip()]
    assert "F MAE new" in columns
    assert "F MAE" not in columns
    values = dict(zip(columns, (cell.strip() for cell in last if cell.strip()), strict=True))
    assert (values["F MAE new"], values["E MAE/atom new"]) == ("300.0", "5.00")
    assert dict(zip(columns, (cell.strip() for cell in start if cell.strip()), strict=True))["F MAE new"] == "-"
    assert (campaign.folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "300.0" in (campaign.folder / "report.html").read_text()
