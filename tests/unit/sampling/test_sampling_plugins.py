"""Every action plugin by its conformance suite, and what the noise looks like."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.sampling.options import PLUGIN_OPTIONS, NoiseOptions
from rlpath_core.sampling.plugins import PLUGINS, Plugin
from rlpath_core.structure import Structure
from rlpath_core.testing.plugin import PluginSuite


@pytest.mark.parametrize("plugin", list(PLUGIN_OPTIONS), indirect=True)
class TestPlugins(PluginSuite):
    @pytest.fixture
    def plugin(self, request: pytest.FixtureRequest) -> Plugin:
        return PLUGINS[request.param](PLUGIN_OPTIONS[request.param]())


class TestNoiseOnEveryAtom(PluginSuite):
    moves_core = True

    @pytest.fixture
    def plugin(self) -> Plugin:
        return PLUGINS["noise"](NoiseOptions(movable_only=False))


def test_the_registry_and_the_config_know_the_same_plugins():
    assert set(PLUGINS) == set(PLUGIN_OPTIONS)


def test_noise_has_its_width_and_its_clip(copper: Structure):
    plugin = PLUGINS["noise"](NoiseOptions(sigma=0.03, clip=0.05))
    suite, still = PluginSuite(), copper.positions
    shake = np.array([suite.applied(plugin, copper, still, seed) - still for seed in range(200)])
    moved = shake[:, ~copper.fixed]
    assert np.abs(moved).max() == pytest.approx(0.05)
    # a normal distribution of width 0.03 with all beyond 0.05 put there
    drawn = np.clip(np.random.default_rng(5).normal(0, 0.03, 200_000), -0.05, 0.05)
    assert moved.std() == pytest.approx(drawn.std(), rel=0.05)
    assert abs(moved.mean()) < 0.002
