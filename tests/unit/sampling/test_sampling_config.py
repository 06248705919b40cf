"""The sampling config: the shipped defaults, plug-ins by name, and one clear line for what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlpath_core.config import check, parse_params, read_mapping
from rlpath_core.errors import InputError
from rlpath_core.files import read_lines
from rlpath_core.sampling.command import SampleSpec, resolve_sample
from rlpath_core.sampling.options import SamplingConfig

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_the_shipped_config_is_the_default_and_complete():
    shipped = read_mapping(CONFIGS / "sampling.yaml")
    config = check(SamplingConfig, shipped, "sampling.yaml")
    assert config == SamplingConfig()
    assert set(shipped) == set(SamplingConfig.model_fields)


def test_the_shipped_sample_params_resolve():
    params, source = parse_params([str(CONFIGS / "sample.yaml"), "steps=7", "quench=bfgs"], SampleSpec)
    spec = resolve_sample(params, source)
    assert spec.structure_json == CONFIGS.parent / "models/starter/data/start.xyz"
    assert (spec.sampling.steps, spec.sampling.quench.method, spec.sampling.quench.fmax) == (7, "bfgs", 0.1)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"rigid_translat": {}}, "Did you mean 'rigid_translate'"),
        ({"rigid_translate": {"max_stepp": 1}}, "Did you mean 'max_step'"),
        ({"rigid_translate": {"min_step": 0.5}}, "min_step is larger than max_step"),
        ({"pipeline": {"validators": {"min_dis": {}}}}, "Did you mean 'min_dist'"),
        ({"pipeline": {"validators": {"quality": {"max_forc": 1}}}}, "Did you mean 'max_force'"),
        ({"pipeline": {"recorders": ["step_trac"]}}, "Did you mean 'step_trace'"),
        ({"pipeline": {"trigger": {"stages": ["sampl"]}}}, "stages"),
        ({"quench": "fier"}, "fire"),
        ({"walkers": 0}, "at least one walker"),
        ({"steps": "many"}, "steps"),
        ({"steps": -1}, "steps"),
        ({"patience": 0}, "patience"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"max_seconds": 0}, "max_seconds"),
        ({"max_force_calls": 0}, "max_force_calls"),
        ({"target_basin": 3}, "Did you mean 'target_basins'"),
        ({"rigid_rotate": {"min_deg": 20}}, "min_deg is larger than max_deg"),
        ({"push_pull": {"max_delta": -1}}, "push_pull.max_delta"),
        ({"dihedral_twist": {"bond_factor": 0}}, "dihedral_twist.bond_factor"),
        ({"jitter": {"sigma": "wide"}}, "jitter.sigma"),
        ({"jitter": {"weight": -1}}, "jitter.weight"),
        ({"md": {"integrator": "verlet"}}, "langevin"),
        ({"md": {"min_steps": 50}}, "min_steps is larger than max_steps"),
        ({"md": {"taut_fs": 0}}, "md.taut_fs"),
        ({"site_hop": {"min_height": 5}}, "min_height is larger than max_height"),
        ({"pipeline": {"action_plugins": {"nois": {}}}}, "Did you mean 'noise'"),
        ({"pipeline": {"action_plugins": {"noise": {"sigma": -1}}}}, "sigma"),
        ({"pipeline": {"validators": {"min_dist": 3}}}, "mapping of its options"),
        ({"pipeline": {"validators": {"slab_strain": {"max_strain": 0}}}}, "max_strain"),
        ({"pipeline": {"validators": {"quality": {"magnitude": {"jiter": [0, 1]}}}}}, "Did you mean 'jitter'"),
        ({"pipeline": {"trigger": {"mode": "some"}}}, "any"),
        ({"pipeline": {"trigger": {"stride": 0}}}, "trigger.stride"),
        ({"pipeline": {"trigger": {"spred": 0.1}}}, "Did you mean 'spread'"),
        ({"pipeline": {"validatrs": {}}}, "Did you mean 'validators'"),
        ({"quench": {"method": "fire", "fmax": 0}}, "quench.fmax"),
        ({"quench": {"stps": 3}}, "Did you mean 'steps'"),
        ({"basin": {"bin": 0}}, "basin.bin"),
        ({"walk": {"kT": 0}}, "walk.kT"),
        ({"walk": {"growth": 0.5}}, "walk.growth"),
        ({"actions": {"hop": {}}}, "module:Name"),
        ({n: {"weight": 0} for n in ("rigid_translate", "rigid_rotate", "push_pull", "dihedral_twist", "jitter", "md")}
         | {"site_hop": {"weight": 0}}, "switched off"),
    ],
)  # fmt: skip
def test_wrong_configs_are_named(value: dict, says: str):
    with pytest.raises(InputError, match=says):
        check(SamplingConfig, value, "x.yaml")


def test_a_trigger_that_nobody_knows_is_refused_before_anything_is_written(run, tmp_path: Path, copper):
    with pytest.raises(InputError, match="Known"):
        run(copper, steps=4, pipeline={"trigger": {"name": "nowhere"}})
    assert not (tmp_path / "a" / "run").exists()


@pytest.mark.parametrize("key", ["walk", "basin"])
def test_unknown_names_are_refused_before_anything_is_written(run, tmp_path: Path, copper, key: str):
    with pytest.raises(InputError, match="Known"):
        run(copper, steps=4, **{key: {"policy" if key == "walk" else "name": "nowhere"}})
    assert not (tmp_path / "a" / "run").exists()


def test_lists_and_switches_of_the_pipeline():
    config = check(
        SamplingConfig,
        {
            "pipeline": {
                "validators": ["min_dist", {"name": "bond", "max_factor": 2.0}],
                "action_plugins": {"noise": None},
            }
        },
        "x",
    )
    assert list(config.pipeline.validators) == ["min_dist", "bond"]
    assert config.pipeline.validators["bond"] == {"max_factor": 2.0}
    assert config.pipeline.action_plugins == {}


def test_a_users_own_action_is_usable_by_name(run, tmp_path: Path, copper, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_actions.py").write_text(
        "from rlpath_core.sampling.actions import Action, Move\n"
        "from rlpath_core.sampling.options import ActionOptions\n"
        "class Lift(Action):\n"
        "    class Options(ActionOptions):\n"
        "        by: float = 0.1\n"
        "    def apply(self, structure, setting):\n"
        "        positions = structure.positions.copy()\n"
        "        positions[setting.roles.adsorbate, 2] += self.options.by\n"
        "        return Move(positions, {'by': self.options.by})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    off = {name: {"weight": 0} for name in ("rigid_translate", "rigid_rotate", "push_pull", "dihedral_twist", "jitter")}
    off |= {"md": {"enabled": False}, "site_hop": {"weight": 0}}
    own = {"my_actions:Lift": {"by": 0.2}}
    run(copper, steps=2, walkers=2, quench="none", actions=own, **off)
    steps = read_lines(tmp_path / "a" / "run" / "steps.jsonl")
    assert [(s["action"], s["parameters"]) for s in steps[1:]] == [("my_actions:Lift", {"by": 0.2})] * 2
    with pytest.raises(InputError, match="Did you mean 'by'"):
        run(copper, "b", steps=2, actions={"my_actions:Lift": {"bby": 0.2}}, **off)
    with pytest.raises(InputError, match="no_such_module"):
        run(copper, "c", steps=2, actions={"no_such_module:Lift": {}}, **off)


@pytest.mark.slow
def test_a_users_own_action_is_tested_by_the_shipped_suite(tmp_path: Path):
    """The way CONTRIBUTING tells: a module on the path, and a test file that subclasses the suite. A bad one fails."""
    (tmp_path / "swaps.py").write_text(
        "from rlpath_core.sampling.actions import Action, Move\n"
        "from rlpath_core.sampling.options import ActionOptions\n"
        "class Lift(Action):\n"
        "    Options = ActionOptions\n"
        "    def apply(self, structure, setting):\n"
        "        return Move(structure.positions + 0.1 * setting.roles.movable[:, None], {})\n"
        "class LiftAll(Action):\n"
        "    Options = ActionOptions\n"
        "    def apply(self, structure, setting):\n"
        "        return Move(structure.positions + 0.1, {})\n"
    )
    (tmp_path / "test_swaps.py").write_text(
        "import pytest, swaps\n"
        "from rlpath_core.testing.action import ActionSuite\n"
        "class TestLift(ActionSuite):\n"
        "    @pytest.fixture\n"
        "    def action(self):\n"
        "        return swaps.Lift(swaps.Lift.Options())\n"
        "class TestLiftAll(ActionSuite):\n"
        "    @pytest.fixture\n"
        "    def action(self):\n"
        "        return swaps.LiftAll(swaps.LiftAll.Options())\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_swaps.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    failed = {line.split("::")[1] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert failed == {"TestLiftAll"}, done.stdout[-2000:]
    assert "test_something_moves_and_core_atoms_do_not" in done.stdout


def test_keys_of_version_0_1_are_accepted_with_a_line_in_the_log(caplog: pytest.LogCaptureFixture):
    config = check(SamplingConfig, {"walk": {"redraw": 3, "apart": 0.25}}, "x.yaml")
    assert (config.walk.max_draws, config.walk.min_distance) == (3, 0.25)
    assert {"max_draws", "min_distance"} <= set(caplog.text.replace(";", " ").split())
    with pytest.raises(InputError, match="redraw is the old name of max_draws"):
        check(SamplingConfig, {"walk": {"redraw": 3, "max_draws": 4}}, "x.yaml")
