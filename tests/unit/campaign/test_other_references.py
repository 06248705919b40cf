"""A round's labels beside the model that is about to be trained on them, and the heads that a campaign works with."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from rlpath_core.campaign import Campaign, open_campaign
from rlpath_core.campaign.fine_tuning import fine_tuning
from rlpath_core.campaign.stages import _say_other_references
from rlpath_core.evaluation import Predicted
from rlpath_core.structure import Structure


def campaign(folder: Path, **params: object) -> Campaign:
    return open_campaign({"campaigns_dir": str(folder / "campaigns"), "models_dir": str(folder / "models"), **params})


def predicted(residual: float) -> Predicted:
    structures = [Structure.from_ase(molecule(name)) for name in ("H2O", "CH4", "CO2", "CH3OH", "H2", "O2", "NH3")]
    n_atoms = np.array([len(s) for s in structures])
    noise = np.random.default_rng(0).normal(0, 0.01, len(structures))
    zeros = np.zeros(len(structures))
    return Predicted(structures, [""] * len(structures), zeros, None, zeros + (residual + noise) * n_atoms, None)


def test_a_rounds_labels_of_another_code_are_said_with_the_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = campaign(tmp_path)
    with caplog.at_level(logging.INFO, "rlpath.campaign"):
        _say_other_references(own, 1, predicted(0.0))
        assert not caplog.messages
        _say_other_references(own, 1, predicted(-3.0))
    (line,) = caplog.messages
    assert line.startswith("round 1: the energies of 7 labels are -2.997 eV/atom")
    assert "backends.mace.train.e0s: lstsq" in line
    assert "replay must then have those of the labels" in line


def test_a_starting_model_answers_with_the_head_that_is_given(tmp_path: Path) -> None:
    plain, given = campaign(tmp_path / "a"), campaign(tmp_path / "b", train={"head_key": "rpbe"})
    for own, head in ((plain, None), (given, "rpbe")):
        start = own.config.backends["mace"].model
        assert own.head(start) == head
        assert own.head(own.manifest(1)) is None, "what a round has trained names its own"


def test_a_head_is_added_once_in_a_campaign(tmp_path: Path) -> None:
    own = campaign(tmp_path, train={"new_head": "mine", "head_key": "pbe", "e0s": "lstsq"})
    first = fine_tuning(own.config, "mace", model=own.parent(1), source="test").train
    second = fine_tuning(own.config, "mace", model=own.parent(2), round_index=2, source="test").train
    assert (first.new_head, first.given_head) == ("mine", "pbe")
    assert (second.new_head, second.given_head, second.e0s) == (None, None, "lstsq")
