"""Which implementation of a MACE network runs, that it can be switched off, and that it is logged."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlpath_core.backends import load_model
from rlpath_core.backends.batching import BatchedModel
from rlpath_core.backends.mace.acceleration import SETTING, accelerate
from rlpath_core.backends.mace.build import build
from rlpath_core.errors import InputError
from rlpath_core.structure import read_structures
from rlpath_core.testing.networks import small_mace

STARTER = Path(__file__).resolve().parents[3] / "models" / "starter" / "manifest.json"
STRUCTURE = read_structures(STARTER.parent / "data" / "near.xyz")[0]


@pytest.mark.slow
def test_every_implementation_has_a_name_and_gives_the_same_forces(monkeypatch):
    monkeypatch.delenv(SETTING, raising=False)
    models = {"compiled for CPUs": load_model(STARTER), "fused convolution": load_model(STARTER, dtype="float64")}
    monkeypatch.setenv(SETTING, "off")
    models["e3nn"] = load_model(STARTER, dtype="float64")
    exact = models["e3nn"].predict([STRUCTURE])[0]
    assert np.abs(exact.forces).max() > 0.1
    for name, model in models.items():
        assert model.implementation == name
        (found,) = model.predict([STRUCTURE])
        atol = 1e-5 if name.startswith("compiled") else 1e-9
        np.testing.assert_allclose(found.forces, exact.forces, atol=atol)
        assert abs(found.energy - exact.energy) < 100 * atol


def test_off_leaves_the_network_alone_in_training_too(monkeypatch):
    net = build(small_mace(), torch.float32)
    before = [type(module) for module in net.modules()]
    monkeypatch.setenv(SETTING, "off")
    for training in (False, True):
        assert accelerate(net, "cpu", torch.float32, training=training) == (net, "e3nn")
        assert [type(module) for module in net.modules()] == before
    monkeypatch.setenv(SETTING, "on")
    assert accelerate(net, "cpu", torch.float32, training=True)[1] == "fused convolution"


def test_a_setting_that_means_nothing(monkeypatch):
    monkeypatch.setenv(SETTING, "fast")
    with pytest.raises(InputError, match=rf"\${SETTING}: choose on or off, got 'fast'"):
        load_model(STARTER)


def test_without_numba_it_is_the_fused_convolution(monkeypatch):
    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in [m for m in sys.modules if m.startswith("rlpath_core.backends.mace.acceleration.")]:
        monkeypatch.delitem(sys.modules, name)
    assert load_model(STARTER).implementation == "fused convolution"


def test_the_implementation_is_logged_once_at_load(caplog):
    with caplog.at_level(logging.INFO, "rlpath.backends"):
        model = load_model(STARTER)
        model.predict([STRUCTURE])
    (line,) = (r.getMessage() for r in caplog.records if r.name == "rlpath.backends")
    assert line == f"{STARTER}: mace on cpu, {model.implementation}"


def test_a_halved_batch_is_logged(caplog):
    model = load_model(STARTER)
    whole, forward = model.predict([STRUCTURE] * 4), model._forward

    def out_of_memory(graphs, *args):
        if len(graphs) > 2:
            raise MemoryError
        return forward(graphs, *args)

    assert isinstance(model, BatchedModel)
    model._forward = out_of_memory
    model.cached_edges = model.split_from = 10**9
    with caplog.at_level(logging.WARNING, "rlpath.backends"):
        found = model.predict([STRUCTURE] * 4)
    np.testing.assert_allclose(found[3].forces, whole[3].forces, atol=1e-5)
    (line,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert line.startswith("out of memory with 4 structures (")
