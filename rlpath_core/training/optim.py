"""Optimizers, learning-rate schedules, the moving average of weights, and what is frozen."""

from __future__ import annotations

import math
from typing import Any

import torch

from rlpath_core.errors import InputError
from rlpath_core.training.options import MaceTraining


def choose_parameters(net: torch.nn.Module, freeze: str) -> list[tuple[str, torch.nn.Parameter]]:
    """Names and parameters to train; everything else stops asking for gradients.

    ``head_only`` trains the readouts, which are what a head of MACE consists of.
    """
    chosen = []
    for name, parameter in net.named_parameters():
        wanted = parameter.numel() > 0 and (freeze == "none" or name.startswith("readouts."))
        parameter.requires_grad_(wanted)
        if wanted:
            chosen.append((name, parameter))
    if not chosen:
        raise InputError("leaves nothing to train", key="train.freeze")
    return chosen


def _decays(name: str) -> bool:
    """Weight decay acts on products and on the linear parts of interactions only, as in mace's own trainer."""
    return name.startswith("products.") or (
        name.startswith("interactions.") and ("linear" in name or "skip_tp" in name) and name.endswith("weight")
    )


def make_optimizer(named: list[tuple[str, torch.nn.Parameter]], spec: MaceTraining) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for name, p in named if _decays(name)], "weight_decay": spec.weight_decay},
        {"params": [p for name, p in named if not _decays(name)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match spec.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, lr=spec.lr, momentum=0.9, foreach=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=spec.lr, foreach=True)
        case name:
            return torch.optim.Adam(groups, lr=spec.lr, amsgrad=name == "amsgrad", foreach=True)


class Schedule:
    """Sets the rate of an optimizer: a warm-up over update steps times a schedule over epochs or cycles.

    Its whole state is a few numbers, so that a resumed run has the same rates to the last bit.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, spec: MaceTraining, n_units: int) -> None:
        self._optimizer, self._spec, self._n_units = optimizer, spec, max(n_units, 1)
        self.state: dict[str, Any] = {"unit": 0, "drops": 0, "best": None, "bad": 0}

    def before_step(self, global_step: int) -> None:
        """``global_step`` counts the update steps that are done."""
        spec = self._spec
        warm = min(1.0, (global_step + 1) / spec.warmup_steps) if spec.warmup_steps else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate() * warm

    def rate(self) -> float:
        spec, unit = self._spec, self.state["unit"]
        match spec.scheduler:
            case "cosine":
                part = min(unit / self._n_units, 1.0)
                return spec.lr_min + 0.5 * (spec.lr - spec.lr_min) * (1 + math.cos(math.pi * part))
            case "step":
                return max(spec.lr * spec.scheduler_gamma ** (unit // spec.scheduler_step_size), spec.lr_min)
            case "exponential":
                return max(spec.lr * spec.scheduler_gamma**unit, spec.lr_min)
            case "plateau":
                return max(spec.lr * spec.scheduler_gamma ** self.state["drops"], spec.lr_min)
        return spec.lr

    def end_unit(self, unit: str) -> None:
        """An epoch or a cycle is over."""
        if unit == self._spec.scheduler_step_unit:
            self.state["unit"] += 1

    def after_evaluation(self, loss: float) -> None:
        """Plateau: drop the rate after ``scheduler_step_size`` evaluations without a better loss."""
        state = self.state
        if state["best"] is None or loss < state["best"] * (1 - 1e-4):
            state["best"], state["bad"] = loss, 0
            return
        state["bad"] += 1
        if state["bad"] > self._spec.scheduler_step_size:
            state["drops"], state["bad"] = state["drops"] + 1, 0


class MovingAverage:
    """Exponential moving average of parameters; the first steps weigh less, so that the random start is forgotten."""

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.average = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, global_step: int) -> None:
        decay = min(self._decay, (1 + global_step) / (10 + global_step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self._parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange average and parameters; a second call undoes the first."""
        for parameter, average in zip(self._parameters, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
