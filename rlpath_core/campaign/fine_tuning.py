"""The run.yaml of a round's fine-tuning, made from a campaign's config and the number of its labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rlpath_core.campaign.options import CampaignConfig
from rlpath_core.config import check, merge
from rlpath_core.training.fairchem.config import read_config, split_arguments
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.options import MaceTraining, RunSpec


def fine_tuning(
    config: CampaignConfig,
    backend: str,
    *,
    round_index: int = 1,
    labels: int = 1,
    model: str | None = None,
    data: Path | None = None,
    run_dir: Path | None = None,
    source: str | Path,
) -> RunSpec:
    """The run of a round's fine-tuning.

    Parameters
    ----------
    config
        The campaign.
    backend
        The kind of model that is fine-tuned.
    round_index
        Its number decides the seed, unless the campaign gives one.
    labels
        Their number decides how many epochs make ``update_steps``.
    model
        The model to start from; the campaign's starting model if not given.
    data
        The folder of the labels' LMDBs.
    run_dir
        The folder of the run.
    source
        Is named in errors.

    Raises
    ------
    InputError
        If ``train`` or ``backend_args`` of the campaign do not make a run.
    """
    settings = config.backends[backend]
    train, arguments = settings.train, list(settings.backend_args)
    if isinstance(train, MaceTraining) and train.new_head is not None and model not in (None, settings.model):
        # An earlier round has added the head; since then it is the model's own.
        rest = train.model_dump(exclude_unset=True, exclude={"new_head", "head_key"})
        train = type(train).model_validate(rest)
    if "seed" not in train.model_fields_set:
        train = train.model_copy(update={"seed": 1000 * config.seed + round_index})
    if isinstance(train, MaceTraining):
        if (epochs := epochs_for(config, labels)) is not None:
            train = train.model_copy(update={"epochs": epochs})
    elif isinstance(train, FairChemTraining) and train.config_yml is not None:
        arguments += _lengths(config, backend, train.config_yml, labels)
    given: dict[str, Any] = {"train": str(data or config.campaigns_dir)}
    if config.replay is not None and settings.replay_ratio > 0:
        given |= {"replay": str(config.replay), "replay_ratio": settings.replay_ratio}
    return check(
        RunSpec,
        {
            "backend": backend,
            "task": "finetune",
            "run_dir": run_dir or config.models_dir,
            "device": config.device,
            "model": {"manifest": model or settings.model},
            "data": given,
            "train": train,
            "backend_args": arguments,
            "backend_env": settings.backend_env,
        },
        source,
    )


def epochs_for(config: CampaignConfig, labels: int) -> int | None:
    """Epochs of mace's fine-tuning that make ``update_steps``, so that a round with few labels learns as long as one
    with many; None if the campaign gives ``train.epochs`` or no ``update_steps``."""
    settings = config.backends["mace"]
    train = settings.train
    if settings.update_steps is None or "epochs" in train.model_fields_set or not isinstance(train, MaceTraining):
        return None
    steps = _epoch_steps(config, "mace", labels, train.batch_size * train.accum_steps)
    return _epochs(settings.update_steps, steps)


def _lengths(config: CampaignConfig, backend: str, config_yml: Path, labels: int) -> list[str]:
    """Arguments of FairChem for as many update steps; none if ``backend_args`` give a number of epochs."""
    settings = config.backends[backend]
    own = split_arguments(settings.backend_args)[0]
    optim = merge(read_config(config_yml), own).get("optim") or {}
    wanted, batch_size = settings.update_steps, optim.get("batch_size")
    if wanted is None or "max_epochs" in own.get("optim", {}) or not isinstance(batch_size, int) or batch_size < 1:
        return []  # the trainer reports a batch size that is none
    steps = _epoch_steps(config, backend, labels, batch_size)
    out = [f"--optim.max_epochs={_epochs(wanted, steps)}"]
    if "T_max" in optim:  # a cosine that counts update steps ends with the training
        out.append(f"--optim.T_max={_epochs(wanted, steps) * steps}")
    return out


def _epoch_steps(config: CampaignConfig, backend: str, labels: int, batch_size: int) -> int:
    replayed = int(config.backends[backend].replay_ratio * labels + 0.5) if config.replay is not None else 0
    return math.ceil((labels + replayed) / batch_size)


def _epochs(update_steps: int, epoch_steps: int) -> int:
    return max(1, int(update_steps / epoch_steps + 0.5))
