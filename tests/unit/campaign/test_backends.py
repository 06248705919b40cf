"""Which backend and which model each stage of a campaign uses, with one backend and with several in turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlpath_core.backends.manifest import read_manifest
from rlpath_core.campaign import Campaign, load_campaign, open_campaign
from rlpath_core.campaign.fine_tuning import fine_tuning
from rlpath_core.config import merge
from rlpath_core.errors import InputError


@pytest.fixture
def params(tmp_path: Path) -> dict[str, object]:
    """Starting models and a FairChem configuration that are only looked for, never loaded."""
    config = {"optim": {"batch_size": 4, "max_epochs": 3, "lr_initial": 0.001, "T_max": 100}}
    (tmp_path / "eqv2.yml").write_text(yaml.safe_dump(config))
    for name in ("mace", "eqv2", "gemnet"):
        (tmp_path / f"{name}.json").write_text("{}")
    return {
        "campaigns_dir": str(tmp_path / "campaigns"),
        "models_dir": str(tmp_path / "models"),
        "update_steps": 100,
        "replay_ratio": 1.0,
        "backends": {
            "mace": {"model": str(tmp_path / "mace.json")},
            "equiformer_v2": {
                "model": str(tmp_path / "eqv2.json"),
                "train": {"config_yml": str(tmp_path / "eqv2.yml")},
            },
            "gemnet_oc": {"model": str(tmp_path / "gemnet.json"), "train": {"config_yml": str(tmp_path / "eqv2.yml")}},
        },
    }


def models(campaign: Campaign) -> dict[str, str]:
    known = {campaign.manifest(round): f"round {round}" for round in range(1, 8)}
    return known | {settings.model: f"start {name}" for name, settings in campaign.config.backends.items()}


def test_backends_are_used_in_turn(params: dict[str, object]) -> None:
    campaign = open_campaign(params | {"backend": ["mace", "equiformer_v2"], "rounds": 5})
    name = models(campaign)
    rounds = range(1, 6)
    assert [campaign.config.backend_of(k) for k in range(6)] == ["mace", *["mace", "equiformer_v2"] * 2, "mace"]
    # Each round teaches the newest model of its own backend ...
    assert [name[campaign.parent(k)] for k in rounds] == [
        "start mace",
        "start equiformer_v2",
        "round 1",
        "round 2",
        "round 3",
    ]
    # ... and samples with the model of the round before, whichever it is.
    assert [name[campaign.manifest(k - 1)] for k in rounds] == ["start mace"] + [f"round {k}" for k in range(1, 5)]
    assert [campaign.stage_backend("explore", k) for k in (1, 2, 3)] == ["mace", "mace", "equiformer_v2"]
    assert [campaign.stage_backend("learn", k) for k in (1, 2, 3)] == ["mace", "equiformer_v2", "mace"]
    assert campaign.stage_backend("label", 2) is None
    assert campaign.stage_backend("evaluate_start", 0) == "mace"


def test_one_backend_teaches_the_model_of_the_round_before(params: dict[str, object]) -> None:
    campaign = open_campaign(params | {"backend": "gemnet_oc"})
    name = models(campaign)
    assert [name[campaign.parent(k)] for k in (1, 2, 3)] == ["start gemnet_oc", "round 1", "round 2"]
    assert list(campaign.config.backends) == ["gemnet_oc"], "what no round uses is not part of the campaign"
    assert load_campaign(campaign.folder).config == campaign.config


def test_update_steps_in_the_words_of_each_trainer(params: dict[str, object], tmp_path: Path) -> None:
    config = open_campaign(params | {"backend": ["mace", "equiformer_v2"], "seed": 2}).config
    mace = fine_tuning(config, "mace", round_index=3, labels=10, source="here")
    assert (mace.train.epochs, mace.train.seed) == (50, 2003), "2 batches of 10"
    fairchem = fine_tuning(config, "equiformer_v2", labels=10, model=str(tmp_path / "m.json"), source="here")
    assert fairchem.backend_args == ["--optim.max_epochs=20", "--optim.T_max=100"], "5 batches of 4"
    assert fairchem.model.manifest == str(tmp_path / "m.json")
    own = config.model_copy(
        update={
            "backends": {
                "equiformer_v2": config.backends["equiformer_v2"].model_copy(
                    update={"backend_args": ["--optim.batch_size=2"], "update_steps": 30, "replay_ratio": 2.0}
                )
            }
        }
    )
    run = fine_tuning(own, "equiformer_v2", labels=10, source="here")
    assert run.data.replay_ratio == 2.0
    assert run.backend_args == ["--optim.batch_size=2", "--optim.max_epochs=2", "--optim.T_max=30"], "15 batches of 2"


def test_model_and_train_may_stand_at_the_top(params: dict[str, object], tmp_path: Path) -> None:
    top = {"model": str(tmp_path / "gemnet.json"), "train": {"lr": 0.5}}
    config = open_campaign(params | top | {"campaign": "top"}).config
    assert config.backends["mace"].model == str(tmp_path / "gemnet.json")
    assert config.backends["mace"].train.lr == 0.5
    with pytest.raises(InputError, match=r"model belongs to one backend.*give backends.mace.model"):
        open_campaign(params | top | {"campaign": "both", "backend": ["mace", "equiformer_v2"]})


def test_a_campaign_of_before_there_were_several_backends_goes_on(tmp_path: Path) -> None:
    params = {"campaigns_dir": str(tmp_path / "campaigns"), "models_dir": str(tmp_path / "models")}
    campaign = open_campaign(params)
    old = yaml.safe_load((campaign.folder / "config.yaml").read_text())
    settings = old.pop("backends")["mace"]
    old.pop("committee")
    old |= {key: settings[key] for key in ("update_steps", "replay_ratio")}
    (campaign.folder / "config.yaml").write_text(
        yaml.safe_dump(old | {"model": settings["model"], "train": settings["train"]})
    )
    assert load_campaign(campaign.folder).config == campaign.config
    assert open_campaign(params | {"rounds": 4}).config.rounds == 4


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"backend": "equiformer"}, "backend.*equiformer"),
        ({"backend": []}, "backend: name one at least"),
        ({"backends": {"macee": {}}}, r"backends.macee: no such backend. Did you mean 'mace'\?"),
        ({"backends": {"mace": {"modle": "x"}}}, r"backends.mace.modle: unknown key. Did you mean 'model'\?"),
        ({"backends": {"mace": {"model": "nowhere.json"}}}, "backends.mace.model: no such file: .*nowhere.json"),
        ({"train": {"epohcs": 3}}, r"train.epohcs: unknown key. Did you mean 'epochs'\?"),
        (
            {"backend": "equiformer_v2", "train": {"config_yml": "nowhere.yml"}},
            "nowhere.yml: train.config_yml: no such",
        ),
        ({"backends": {"mace": {"backend_args": ["--amp"]}}}, "backend_args: belongs to the FairChem backends"),
        ({"backends": {"mace": 3}, "train": {"lr": 1}}, "backends.mace: .*dictionary"),
        ({"committee": True}, "committee: needs several backends"),
        ({"sampling": {"pipeline": {"trigger": {"spread": 0.1}}}}, "spread: needs committee: true"),
    ],
)
def test_what_is_wrong_with_the_backends_is_said_at_once(
    params: dict[str, object], tmp_path: Path, over: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        open_campaign(merge(params, over))
    assert not (tmp_path / "campaigns").exists()


def test_a_committee_holds_the_newest_of_each(params: dict[str, object]) -> None:
    campaign = open_campaign(params | {"backend": ["mace", "equiformer_v2", "gemnet_oc"], "committee": True})
    name = models(campaign)
    newest = {b: name[campaign.newest(b, 4)] for b in campaign.config.backends}
    assert newest == {"mace": "round 1", "equiformer_v2": "round 2", "gemnet_oc": "round 3"}
    assert {name[campaign.newest(b, 2)] for b in campaign.config.backends} == {
        "round 1",
        "start equiformer_v2",
        "start gemnet_oc",
    }


@pytest.mark.parametrize("backend", ["mace", "equiformer_v2", "gemnet_oc"])
def test_every_backend_begins_with_a_model_of_its_own(tmp_path: Path, backend: str) -> None:
    folders = {"campaigns_dir": str(tmp_path / "campaigns"), "models_dir": str(tmp_path / "models")}
    campaign = open_campaign(folders | {"backend": backend})
    manifest = read_manifest(campaign.manifest(0))
    assert manifest.backend == backend
    spec = fine_tuning(campaign.config, backend, labels=16, source="al_loop.yaml")
    settings = campaign.config.backends[backend]
    assert settings.update_steps is not None
    epochs = round(settings.update_steps / -(-(16 + 16 * settings.replay_ratio) // 10))  # 10 at a time
    if backend == "mace":
        assert spec.train.epochs == epochs
    else:
        assert spec.backend_args == [f"--optim.max_epochs={epochs}"]
    assert sum(file.stat().st_size for file in Path(campaign.manifest(0)).parent.glob("*.*")) < 3e6
