"""A campaign's config: defaults, paths, what may change when it is continued."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlpath_core.campaign import load_campaign, open_campaign
from rlpath_core.errors import InputError


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
    assert first.stages(1) == ["explore", "label", "learn"]
    assert load_campaign(first.folder).config == first.config

    more = open_campaign(params(tmp_path, seed=3, labels_per_round=5, rounds=7, execution="inline"))
    assert load_campaign(first.folder).config.rounds == more.config.rounds == 7

    with pytest.raises(InputError, match=r"config.yaml: seed: .*started with 3, not 4; give the new one another name"):
        open_campaign(params(tmp_path, seed=4, labels_per_round=5))
    with pytest.raises(InputError, match=r"sampling.md.max_temp_K"):
        open_campaign(params(tmp_path, seed=3, labels_per_round=5, sampling={"md": {"max_temp_K": 1234.0}}))
    assert load_campaign(first.folder).config == more.config, "a refused change is not written"


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


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "my.xyz").write_text("1\n\nH 0 0 0\n")
    campaign = open_campaign(params(tmp_path, structure="my.xyz"), tmp_path / "params.yaml")
    assert campaign.config.structure == tmp_path / "my.xyz"
