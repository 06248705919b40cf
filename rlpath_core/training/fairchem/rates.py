"""Learning rates of a run that is resumed with other settings: FairChem restores the old ones with its checkpoint.

Its optimizer's and scheduler's states hold the rate, its schedule and the weight decay that a run began with, so that
epochs that are added would be trained at the last, smallest rate, and a new ``lr_initial`` be ignored.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlpath_core.errors import InputError

OTHERS = (
    "batch_size", "eval_batch_size", "num_workers", "eval_every", "checkpoint_every", "clip_grad_norm", "ema_decay",
    "max_epochs", "load_balancing", "load_balancing_on_error",
)  # fmt: skip
"""Keys of ``optim`` that decide no rate by themselves."""
PROGRESS = ("last_epoch", "_step_count", "best", "num_bad_epochs", "cooldown_counter")
"""What a scheduler's state says of how far it is; all else is settings."""


@dataclass
class Rates:
    """Optimizer groups and scheduler as the present configuration makes them."""

    optim: Mapping[str, Any]
    groups: list[dict[str, Any]]
    schedule: dict[str, Any] | None

    @classmethod
    def of(cls, optim: Mapping[str, Any], optimizer: torch.optim.Optimizer, scheduler: Any) -> Rates:
        """``scheduler`` is torch's own, or None."""
        groups = [{k: copy.copy(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return cls(optim, groups, None if scheduler is None else copy.deepcopy(scheduler.state_dict()))

    def same_as(self, before: Mapping[str, Any]) -> bool:
        """Whether the section ``optim`` of the run's beginning gives the same rates."""

        def deciding(optim: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in optim.items() if k not in OTHERS}

        return deciding(self.optim) == deciding(before)

    def resumed(self, state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
        """A checkpoint whose scheduler has the present settings and its own progress. Raises InputError."""
        before = state["config"]["optim"]
        if len(state["optimizer"]["param_groups"]) != len(self.groups):
            raise InputError(
                "weight decay cannot be switched on or off in a run that is resumed: fine-tune its model instead",
                path,
                "optim.optimizer_params.weight_decay",
            )
        if self.schedule is None:
            return {**state, "scheduler": None}
        kept = state.get("scheduler") or {}
        if self.optim.get("scheduler") != before.get("scheduler"):
            kept = {"last_epoch": state["step"], "_step_count": state["step"] + 1}
            if self.optim.get("scheduler") == "ReduceLROnPlateau":
                kept = {}
        return {**state, "scheduler": self.schedule | {k: kept[k] for k in PROGRESS if k in kept}}

    def apply(self, optimizer: torch.optim.Optimizer, scheduler: Any, before: Mapping[str, Any]) -> float:
        """Set rates and the groups' other settings once a checkpoint is loaded; returns the rate that training goes on
        with. Raises InputError for a scheduler whose rate at a step cannot be told."""
        for group, now in zip(optimizer.param_groups, self.groups, strict=True):
            group.update({k: v for k, v in now.items() if k != "lr"})
        ratio = self.optim["lr_initial"] / before["lr_initial"]
        kind = torch.optim.lr_scheduler
        if scheduler is None:
            rates = [group["lr"] for group in self.groups]
        elif isinstance(scheduler, kind.LambdaLR):
            at = scheduler.last_epoch
            rates = [base * scale(at) for base, scale in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        elif isinstance(scheduler, kind.ReduceLROnPlateau):
            rates = [
                max(float(group["lr"]) * ratio, float(least))
                for group, least in zip(optimizer.param_groups, scheduler.min_lrs, strict=True)
            ]
        elif hasattr(scheduler, "_get_closed_form_lr"):
            rates = [float(rate) for rate in scheduler._get_closed_form_lr()]
        else:
            raise InputError(
                f"a run with {type(scheduler).__name__} is resumed with the rates it began with only: leave lr_initial "
                "and the scheduler as they were, or fine-tune its model",
                key="optim.scheduler",
            )
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if scheduler is not None:
            scheduler._last_lr = list(rates)
        return float(rates[0])
