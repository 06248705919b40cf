"""Rates of a FairChem run that is resumed with other settings, against schedulers of torch that ran from the start."""

import copy
import math

import pytest
import torch
from torch.optim import lr_scheduler

from rlpath_core.errors import InputError
from rlpath_core.training.fairchem.rates import Rates

N = 7


class Cosine:
    """As FairChem's CosineLRLambda: its attributes are a part of the scheduler's state."""

    def __init__(self, epochs):
        self.epochs = epochs

    def __call__(self, step):
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(step / self.epochs, 1))) / 2


SCHEDULERS = {
    "LambdaLR": (lambda o, c: lr_scheduler.LambdaLR(o, Cosine(c["epochs"])), {"epochs": 10}, {"epochs": 30}),
    "StepLR": (lambda o, c: lr_scheduler.StepLR(o, c["step_size"], 0.5), {"step_size": 2}, {"step_size": 3}),
    "ExponentialLR": (lambda o, c: lr_scheduler.ExponentialLR(o, c["gamma"]), {"gamma": 0.9}, {"gamma": 0.8}),
    "MultiStepLR": (
        lambda o, c: lr_scheduler.MultiStepLR(o, c["at"]),
        {"at": [3]},
        {"at": [5]},
    ),
    "CosineAnnealingLR": (lambda o, c: lr_scheduler.CosineAnnealingLR(o, c["T_max"]), {"T_max": 9}, {"T_max": 20}),
    "Null": (lambda o, c: None, {}, {}),
}


def made(make, optim):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=optim["lr_initial"], **optim["params"])
    return optimizer, make(optimizer, optim)


def stepped(optimizer, scheduler, n):
    for _ in range(n):
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_rates_go_on_as_if_the_settings_had_always_been_these(name):
    make, before, after = SCHEDULERS[name]
    old = {"scheduler": name, "lr_initial": 0.1, "params": {"weight_decay": 0.0, "eps": 1e-8}, **before}
    new = {"scheduler": name, "lr_initial": 0.04, "params": {"weight_decay": 0.3, "eps": 1e-5}, **after}
    optimizer, scheduler = made(make, old)
    stepped(optimizer, scheduler, N)
    state = {
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "scheduler": None if scheduler is None else copy.deepcopy(scheduler.state_dict()),
        "step": N,
        "config": {"optim": old},
    }
    optimizer, scheduler = made(make, new)
    rates = Rates.of(new, optimizer, scheduler)
    assert not rates.same_as(old)
    assert Rates.of(old, optimizer, scheduler).same_as(old | {"max_epochs": 99})
    state = rates.resumed(state, "checkpoint.pt")
    optimizer.load_state_dict(state["optimizer"])  # what FairChem does
    if scheduler is not None:
        scheduler.load_state_dict(state["scheduler"])
    rate = rates.apply(optimizer, scheduler, old)
    reference, its_scheduler = made(make, new)
    stepped(reference, its_scheduler, N)
    for _ in range(5):
        assert rate == pytest.approx(reference.param_groups[0]["lr"], rel=1e-9)
        stepped(reference, its_scheduler, 1)
        stepped(optimizer, scheduler, 1)
        rate = optimizer.param_groups[0]["lr"]
    group = optimizer.param_groups[0]
    assert (group["weight_decay"], group["eps"]) == (0.3, 1e-5)


def test_plateau_keeps_its_drops():
    def make(optimizer, optim):
        return lr_scheduler.ReduceLROnPlateau(optimizer, patience=optim["patience"])

    old = {"scheduler": "ReduceLROnPlateau", "lr_initial": 0.1, "params": {}, "patience": 0}
    optimizer, scheduler = made(make, old)
    for loss in (1.0, 2.0, 2.0):
        scheduler.step(loss)
    state = {
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "config": {"optim": old},
    }
    new = old | {"lr_initial": 0.2, "patience": 4}
    dropped = optimizer.param_groups[0]["lr"]
    assert dropped == pytest.approx(0.001)
    optimizer, scheduler = made(make, new)
    rates = Rates.of(new, optimizer, scheduler)
    state = rates.resumed(state, "checkpoint.pt")
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    assert rates.apply(optimizer, scheduler, old) == pytest.approx(2 * dropped)
    assert (scheduler.best, scheduler.patience) == (1.0, 4)


def test_what_cannot_be_told_is_refused():
    def make(optimizer, optim):
        return lr_scheduler.CyclicLR(optimizer, 0.01, optim["lr_initial"], cycle_momentum=False)

    old = {"scheduler": "CyclicLR", "lr_initial": 0.1, "params": {}}
    optimizer, scheduler = made(make, old | {"lr_initial": 0.2})
    with pytest.raises(InputError, match=r"optim\.scheduler: .*CyclicLR"):
        Rates.of(old | {"lr_initial": 0.2}, optimizer, scheduler).apply(optimizer, scheduler, old)
