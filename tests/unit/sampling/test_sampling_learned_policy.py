"""The example of a learned policy: by the conformance suite, on made-up rewards, and in runs that are killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlpath_core.errors import InputError
from rlpath_core.files import read_lines
from rlpath_core.registry import import_name
from rlpath_core.sampling.attempt import WalkState
from rlpath_core.sampling.known_basins import KnownBasin
from rlpath_core.sampling.options import WalkOptions
from rlpath_core.sampling.policy import PlanContext, Policy
from rlpath_core.structure import Structure
from rlpath_core.testing.models import DyingModel, EmbeddingModel, Interrupted
from rlpath_core.testing.policy import ACTIONS, PolicySuite, finished, setup_of
from rlpath_core.testing.sampled import rows_of

ROOT = Path(__file__).resolve().parents[3]
NAME = "examples.learned_policy:LinearBandit"
FILES = ("steps.jsonl", "basins.jsonl", "dft_queue.jsonl")


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def kind() -> type[Policy]:
    return import_name(NAME)


class TestLinearBandit(PolicySuite):
    @pytest.fixture
    def kind(self, on_path: None) -> type[Policy]:
        return import_name(NAME)


def test_it_is_one_class_of_less_than_a_hundred_lines() -> None:
    text = (ROOT / "examples" / "learned_policy.py").read_text()
    assert text.count("\nclass ") == 1
    assert len(text[text.index("class LinearBandit") :].splitlines()) < 100


def test_it_learns_which_action_finds_basins_from_which_basin(kind: type[Policy], copper: Structure):
    """From a low basin only ``rotate`` at scale 4 finds new ones, from a high one only ``translate`` at scale 1."""
    low, high = (WalkState(copper.moved(copper.positions + 0.1 * k), 0, float(k), k) for k in (0, 1))
    policy = kind(WalkOptions(options={"scales": (1.0, 4.0)}), setup_of(copper, 1))
    policy.begin([low], [low])
    basins = [KnownBasin(low, 0.0, 0), KnownBasin(high, 1.0, 1)]
    best = {0: (1, 4.0), 1: (0, 1.0)}
    chosen: dict[int, list[bool]] = {0: [], 1: []}
    for n in range(1, 401):
        plan = policy.plan(n, 0, PlanContext(basins, np.random.default_rng(n)))
        basins[plan.start.basin].departures += 1  # the less tried one is next
        action = int(np.argmax(plan.probabilities))
        is_best = (action, plan.step_scales[action]) == best[plan.start.basin]
        chosen[plan.start.basin].append(is_best)
        end = WalkState(copper, 0, 0.5, 2) if is_best else low
        policy.observe(finished(plan, ACTIONS[action], copper, end, new=is_best), np.random.default_rng(n))
    for choices in chosen.values():
        assert np.mean(choices[-100:]) > 0.8, "a sixth by chance"


@pytest.mark.slow
def test_a_run_by_name_is_resumed_exactly(run, tmp_path: Path, copper: Structure):
    config = {"walkers": 3, "steps": 24, "quench": {"steps": 20, "fmax": 0.2}, "basin": {"refine_fmax": 0.1}}
    config["walk"] = {"policy": NAME, "options": {"scales": [1.0, 3.0]}, "relax_share": 1.0}
    whole = EmbeddingModel()
    summary = run(copper, "whole", using=whole, **config)
    assert summary.basins > 1
    steps = read_lines(tmp_path / "whole" / "run" / "steps.jsonl")[1:]
    assert {step["scale"] for step in steps} >= {1.0, 3.0}
    for at in (len(whole.batches) // 2, len(whole.batches) - 2):
        name = f"killed{at}"
        with pytest.raises(Interrupted):
            run(copper, name, using=DyingModel(at), **config)
        run(copper, name, using=EmbeddingModel(), resume=True, **config)
        for file in FILES:
            assert (tmp_path / name / "run" / file).read_bytes() == (tmp_path / "whole" / "run" / file).read_bytes()
        assert rows_of(tmp_path / name) == rows_of(tmp_path / "whole")


def test_its_options_are_checked_before_a_folder_is_made(run, tmp_path: Path, copper: Structure):
    with pytest.raises(InputError, match=r"walk\.options\.scale.*Did you mean 'scales'"):
        run(copper, steps=4, walk={"policy": NAME, "options": {"scale": [1.0]}})
    with pytest.raises(InputError, match=r"walk\.options"):
        run(copper, "b", steps=4, walk={"policy": "frontier", "options": {"scales": [1.0]}})
    assert not list(tmp_path.glob("*/run"))
