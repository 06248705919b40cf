"""A round with saddle searches, where the reference is the model itself: what is found must be confirmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import add_adsorbate, fcc100
from ase.constraints import FixAtoms
from ase.io import write

from rlpath_core.campaign import Campaign, open_campaign
from rlpath_core.store import queries, saddles

EMT = "ase:ase.calculators.emt.EMT"


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    atoms = fcc100("Al", (2, 2, 3), vacuum=7.0, periodic=True)
    add_adsorbate(atoms, "Au", 1.7, "hollow")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() > 1))
    write(tmp_path / "start.xyz", atoms)
    return open_campaign(
        {
            "campaign": "hops",
            "campaigns_dir": "campaigns",
            "models_dir": "models",
            "rounds": 1,
            "labels_per_round": 12,
            "backend": "ase",
            "model": EMT,
            "structure": "start.xyz",
            "device": "cpu",
            "sampling": {"steps": 6, "walkers": 3, "quench": {"fmax": 0.05}},
            "paths": {"max_searches": 8, "walkers": 4},
            "saddle_share": 0.75,
            "dft": {"engine": "ase", "settings": {"calculator": "ase.calculators.emt:EMT"}, "workers": 1},
        },
        tmp_path / "campaign.yaml",
    )


def test_steps_are_found_labelled_and_confirmed(campaign: Campaign) -> None:
    while (round := campaign.next_round()) is not None:
        for stage in campaign.stages(round):
            campaign.run_stage(stage, round)
        entry = campaign.finish_round(round, 0.0)
    assert entry["steps"] >= 1
    assert entry["steps_confirmed"] >= 1
    assert entry["labels_per_step"] <= 5
    assert entry["barrier_error"] < 1e-3, "the reference is the model; copies of an end differ by their last step"

    with campaign.store() as store:
        steps = saddles.confirmed_steps(store)
        labelled = [entry for entry in queries.queue(store) if entry.state == "labelled"]
        decided = {entry.state for entry in queries.queue(store)}
    assert steps[0].barrier == pytest.approx(0.374, abs=0.002)  # 0.3745 eV by ASE's own NEB, in its tutorial
    assert {entry.stage for entry in labelled} >= {"saddle", "mode", "end"}
    of_steps = [entry for entry in labelled if entry.stage in ("saddle", "mode", "end")]
    assert len(of_steps) <= 9, "a share of 0.75 of 12 labels"
    assert len(labelled) <= 12
    assert "queued" not in decided

    network = json.loads((campaign.folder / "network" / "network.json").read_text())
    assert "reference_confirmed" in {edge["state"] for edge in network["edges"]}
    page = (campaign.folder / "report.html").read_text()
    assert "Elementary steps" in page
    assert page.count("data:image/png;base64,") == 3
    assert "confirmed" in campaign.table()


def test_a_round_goes_on_where_nothing_comes_to_rest(campaign: Campaign, caplog: pytest.LogCaptureFixture) -> None:
    assert campaign.config.paths is not None
    quench = campaign.config.paths.verify.quench.model_copy(update={"fmax": 1e-9, "steps": 1})
    verify = campaign.config.paths.verify.model_copy(update={"quench": quench})
    paths = campaign.config.paths.model_copy(update={"verify": verify})
    impatient = Campaign(campaign.folder, campaign.config.model_copy(update={"paths": paths}))
    for stage in ("evaluate_start", "explore", "find_paths", "label"):
        impatient.run_stage(stage, 0 if stage == "evaluate_start" else 1)
    found = json.loads((campaign.folder / "stages" / "round-1-find_paths.json").read_text())
    assert (found["stop_reason"], found["saddles"]) == ("no_minimum", 0)
    assert "none of the given structures relaxes to a minimum" in caplog.text
    with campaign.store() as store:
        assert [entry for entry in queries.queue(store) if entry.state == "labelled"]


def test_without_searches_a_round_has_no_such_stage(campaign: Campaign) -> None:
    config = campaign.config.model_copy(update={"paths": None})
    assert Campaign(campaign.folder, config).stages_of(1) == ("explore", "label", "learn")
