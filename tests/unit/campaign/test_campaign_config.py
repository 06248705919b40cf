"""A campaign's config: defaults, paths, what may change when it is continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlpath_core.campaign import load_campaign, open_campaign
from rlpath_core.campaign.options import CampaignConfig
from rlpath_core.campaign.resolve import resolve_campaign
from rlpath_core.config import parse_params, yaml_of
from rlpath_core.errors import InputError
from rlpath_core.sampling.options import SamplingConfig


def params(folder: Path, **more: object) -> dict[str, object]:
    return {
        "campaigns_dir": str(folder / "campaigns"),
        "models_dir": str(folder / "models"),
        "campaign": "mine",
        **more,
    }


def test_a_campaign_continues_with_what_it_was_started_with(tmp_path: Path) -> None:
    first = open_campaign(params(tmp_path, seed=3, labels_per_round=5))
    assert first.folder == tmp_path / "campaigns" / "mine"
    assert first.next_round() == 0
    assert first.stages(0) == ["evaluate_start"]
    assert first.stages(1) == ["explore", "find_paths", "label", "learn"]
    assert load_campaign(first.folder).config == first.config

    more = open_campaign(params(tmp_path, seed=3, labels_per_round=5, rounds=7, execution="inline"))
    assert load_campaign(first.folder).config.rounds == more.config.rounds == 7

    with pytest.raises(InputError, match=r"config.yaml: seed: .*started with 3, not 4; give the new one another name"):
        open_campaign(params(tmp_path, seed=4, labels_per_round=5))
    with pytest.raises(InputError, match=r"sampling.md.max_temp_K"):
        open_campaign(params(tmp_path, seed=3, labels_per_round=5, sampling={"md": {"max_temp_K": 1234.0}}))
    assert load_campaign(first.folder).config == more.config, "a refused change is not written"


def test_a_campaign_from_before_a_key_of_its_engine_continues_with_the_default(tmp_path: Path) -> None:
    started = open_campaign(params(tmp_path))
    saved = started.folder / "config.yaml"
    old = yaml.safe_load(saved.read_text())
    del old["dft"]["settings"]["vacuum"]
    saved.write_text(yaml.safe_dump(old))
    assert open_campaign(params(tmp_path)).config == started.config


def test_a_file_that_changed_is_another_campaign(tmp_path: Path) -> None:
    """Rounds measured on another held-out set, or begun from another structure, could not be compared."""
    original = open_campaign(params(tmp_path)).config
    files = {name: str(getattr(original, name)) for name in ("structure", "heldout", "near", "replay")}
    for key in ("structure", "heldout"):
        source = Path(str(getattr(original, key)))
        file = tmp_path / f"own-{source.name}"
        file.write_bytes(source.read_bytes())
        given = params(tmp_path, campaign=f"with-{key}", **files | {key: str(file)})
        open_campaign(given)
        file.touch()
        open_campaign(given)
        file.write_bytes(source.read_bytes().replace(b"0", b"1", 1))
        with pytest.raises(InputError, match=rf"own-.*: {key}: the file holds something else than when campaign"):
            open_campaign(given)
        file.write_bytes(source.read_bytes())
        open_campaign(given)


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"seeed": 1}, r"seeed: unknown key. Did you mean 'seed'\?"),
        ({"sampling": {"md": {"max_temp": 3}}}, r"sampling.md.max_temp: unknown key. Did you mean 'max_temp_K'\?"),
        ({"campaign": "../up"}, "a campaign's name is letters"),
        ({"rounds": 0}, "rounds: .*greater than or equal to 1, got 0"),
        ({"heldout": "nowhere.xyz"}, "heldout: no such file: .*nowhere.xyz"),
        ({"dft": {"engin": "tblite"}}, r"dft.engin: unknown key. Did you mean 'engine'\?"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, over: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_campaign(params(tmp_path, **over))
    assert not (tmp_path / "campaigns").exists()


def own_file(folder: Path, **more: object) -> Path:
    """A campaign file that gives a structure and a model, and nothing of the demonstration."""
    (folder / "my.xyz").write_text("1\n\nH 0 0 0\n")
    (folder / "my.json").write_text("{}")
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"campaign": "mine", "structure": "my.xyz", "model": "my.json", **more}))
    return file


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    params, source = parse_params([str(own_file(tmp_path))], CampaignConfig)
    config = resolve_campaign(params, source)
    assert config.structure == tmp_path / "my.xyz"
    assert (config.campaigns_dir, config.models_dir) == (tmp_path / "campaigns", tmp_path / "models")


def test_nothing_of_the_demonstration_is_in_a_campaign_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "heldout.xyz").write_text("1\n\nH 0 0 0\n")
    params, source = parse_params([str(own_file(tmp_path, heldout="heldout.xyz")), "seed=2"], CampaignConfig)
    text = yaml_of(resolve_campaign(params, source))
    assert "starter" not in text
    config = yaml.safe_load(text)
    assert (config["replay"], config["near"], config["heldout"]) == (None, None, str(tmp_path / "heldout.xyz"))
    assert config["sampling"] == SamplingConfig().model_dump(mode="json"), "numbers too are those of nobody's system"
    paths = [value for value in str(text).split() if value.startswith("/")]
    assert paths
    assert all(Path(path).is_relative_to(tmp_path) for path in paths)


def test_a_file_with_a_few_keys_is_no_campaign(tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text("seed: 2\n")
    with pytest.raises(InputError, match=r"seed.yaml: structure: is missing: a campaign file stands alone"):
        resolve_campaign(*parse_params([str(tmp_path / "seed.yaml")], CampaignConfig))
    (tmp_path / "seed.yaml").write_text("sead: 2\n")
    with pytest.raises(InputError, match=r"seed.yaml: sead: unknown key. Did you mean 'seed'"):
        resolve_campaign(*parse_params([str(tmp_path / "seed.yaml")], CampaignConfig))


@pytest.mark.parametrize(
    "dft",
    [
        {"engine": "ase", "settings": {"calculator": "ase.calculators.emt:EMT"}},
        {"settings": {"method": "IPEA1-xTB"}},
    ],
)
def test_labels_of_another_method_do_not_mix_with_those_of_the_demonstration(dft: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=r"dft.engine: heldout, near, replay of the demonstration would be used with lab"
    ):
        resolve_campaign({"dft": dft})
    with pytest.raises(InputError, match=r"dft.engine: near of the demonstration"):
        resolve_campaign({"dft": dft, "heldout": None, "replay": None})
    mine = resolve_campaign({"dft": dft, "heldout": None, "replay": None, "near": None})
    assert mine.dft.settings.items() >= dft["settings"].items()
    same = resolve_campaign({"dft": {"engine": "tblite", "workers": 1}})
    assert same.replay is not None


def test_keys_alone_lie_on_the_demonstration_but_not_another_structure(tmp_path: Path) -> None:
    assert open_campaign(params(tmp_path, seed=2)).config.replay is not None
    (tmp_path / "my.xyz").write_text("1\n\nH 0 0 0\n")
    structure = {"structure": str(tmp_path / "my.xyz")}
    with pytest.raises(InputError, match="structure: heldout, near, replay of the demonstration would be"):
        open_campaign(params(tmp_path, campaign="other", **structure))
    none = {"heldout": None, "near": None, "replay": None}
    assert open_campaign(params(tmp_path, campaign="other", **structure, **none)).config.replay is None
