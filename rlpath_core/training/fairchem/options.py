"""The section ``train`` of a run that FairChem's own trainer makes. Most settings stand in FairChem's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from rlpath_core.config import wrong
from rlpath_core.training.options import TRAINING, MaceTraining, RunSpec, Training

ELSEWHERE = {
    "input_json": "train.config_yml",
    "epochs": "optim.max_epochs",
    "batch_size": "optim.batch_size",
    "num_workers": "optim.num_workers",
    "lr": "optim.lr_initial",
    "weight_decay": "optim.optimizer_params.weight_decay",
    "optimizer": "optim.optimizer",
    "amp": "the flag --amp",
    "max_grad_norm": "optim.clip_grad_norm",
    "cycle_steps": "optim.eval_every and optim.checkpoint_every",
    "save_every": "optim.checkpoint_every, in update steps",
    "energy_weight": "the coefficients of loss_functions",
    "force_weight": "the coefficients of loss_functions",
    "energy_loss": "the fn of loss_functions",
    "force_loss": "the fn of loss_functions",
    "scheduler": "optim.scheduler and optim.scheduler_params",
    "scheduler_step_unit": "optim.scheduler and optim.scheduler_params",
    "scheduler_gamma": "optim.scheduler and optim.scheduler_params",
    "scheduler_step_size": "optim.scheduler and optim.scheduler_params",
    "lr_min": "optim.scheduler_params",
    "warmup_steps": "optim.scheduler_params",
    "ema_decay": "optim.ema_decay",
}
"""Keys of MACE's trainer, and which part of FairChem's configuration has the same meaning."""
SHARED = {*Training.model_fields, "e0s"}
MACES_OWN = {key: field for key, field in MaceTraining.model_fields.items() if key not in SHARED}


def _belongs_to_mace(key: str) -> str:
    if key not in ELSEWHERE:
        return "belongs to mace; FairChem has no such key"
    return f"belongs to mace; FairChem has {ELSEWHERE[key]}: in train.config_yml or backend_args"


class FairChemTraining(Training):
    """FairChem's own trainer, in a process of its environment."""

    hints = {key: _belongs_to_mace(key) for key in MACES_OWN}

    config_yml: Path | None = None
    """FairChem's configuration, a YAML file with or without `includes`: network, optimizer, losses. Data, logger and
    folders are filled in. The tasks train, finetune and resume require it."""
    identifier: str | None = None
    """FairChem's name of the run."""
    e0s: Literal["model", "lstsq"] | None = None
    """Task finetune only: the reference energies of the elements. model keeps those of the model that is fine-tuned;
    lstsq moves them by what the labels differ from its predictions by, fitted by least squares, for labels of another
    code or functional; elements that the data lack keep theirs. null: model. Task train takes
    `dataset.train.transforms.element_references` of `config_yml`."""

    @model_validator(mode="before")
    @classmethod
    def _without_maces_defaults(cls, value: Any) -> Any:
        """The run.yaml of rlpath 0.1 holds all keys of MACE's trainer too, with their defaults."""
        if not isinstance(value, dict):
            return value
        return {k: v for k, v in value.items() if k not in MACES_OWN or v != MACES_OWN[k].default}

    def complete(self, run: RunSpec) -> None:
        if run.task in TRAINING and self.config_yml is None:
            raise wrong("train.config_yml", f"task {run.task} needs a FairChem configuration")
        if self.e0s is not None and run.task != "finetune":
            raise wrong("train.e0s", "belongs to task finetune; a checkpoint has its own reference energies")
        for key in ("replay_head", "cache"):
            if getattr(run.data, key) is not None:
                raise wrong(f"data.{key}", "belongs to mace; FairChem has no such key")
