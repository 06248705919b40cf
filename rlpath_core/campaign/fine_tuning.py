"""The run.yaml of a round's fine-tuning, as a campaign's config and its number of labels make it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlpath_core.config.load import check, merge
from rlpath_core.training.options import RunSpec, TrainSpec

if TYPE_CHECKING:
    from rlpath_core.campaign.options import CampaignConfig


def fine_tuning(
    config: CampaignConfig,
    backend: str,
    *,
    round: int = 1,
    labels: int = 1,
    model: Path | None = None,
    data: Path | None = None,
    run_dir: Path | None = None,
    source: str | Path,
) -> RunSpec:
    """The fine-tuning of ``model`` (the starting model where None) on the LMDBs in ``data`` and on replayed structures.

    ``labels`` in ``data`` decide how many epochs make ``update_steps``. Raises InputError that names ``source`` where
    the campaign's ``train`` or ``backend_args`` are wrong.
    """
    settings = config.backends[backend]
    train = {"seed": 1000 * config.seed + round} | settings.train
    arguments = list(settings.backend_args)
    if backend != "mace" and isinstance(train.get("config_yml"), str):
        arguments += _lengths(config, backend, labels)
    given: dict[str, Any] = {"train": str(data or config.campaigns_dir)}
    if config.replay is not None and settings.replay_ratio > 0:
        given |= {"replay": str(config.replay), "replay_ratio": settings.replay_ratio}
    spec = check(
        RunSpec,
        {
            "backend": backend,
            "task": "finetune",
            "run_dir": str(run_dir or config.models_dir),
            "device": config.device,
            "model": {"manifest": str(model or settings.model)},
            "data": given,
            "train": train,
            "backend_args": arguments,
            "backend_env": settings.backend_env,
        },
        source,
    )
    if backend == "mace" and (epochs := epochs_for(config, labels)) is not None:
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": epochs})})
    return spec


def epochs_for(config: CampaignConfig, labels: int) -> int | None:
    """Epochs of mace's fine-tuning that make ``update_steps``, so that a round with few labels learns as long as one
    with many; None where the campaign gives ``train.epochs`` or no ``update_steps``."""
    settings = config.backends["mace"]
    wanted = settings.update_steps
    if wanted is None or "epochs" in settings.train:
        return None
    train = check(TrainSpec, settings.train, "train")
    return _epochs(wanted, _epoch_steps(config, "mace", labels, train.batch_size * train.accum_steps))


def _lengths(config: CampaignConfig, backend: str, labels: int) -> list[str]:
    """FairChem's own words for as many update steps; none where ``backend_args`` say a number of epochs."""
    from rlpath_core.training.fairchem.config import read_config, split_arguments

    settings = config.backends[backend]
    own = split_arguments(settings.backend_args)[0]
    optim = merge(read_config(Path(settings.train["config_yml"])), own).get("optim") or {}
    wanted, batch_size = settings.update_steps, optim.get("batch_size")
    if wanted is None or "max_epochs" in own.get("optim", {}) or not isinstance(batch_size, int) or batch_size < 1:
        return []  # a batch size that is none: the trainer says what is wrong with it
    steps = _epoch_steps(config, backend, labels, batch_size)
    out = [f"--optim.max_epochs={_epochs(wanted, steps)}"]
    if "T_max" in optim:  # a cosine that counts update steps ends where the training ends
        out.append(f"--optim.T_max={_epochs(wanted, steps) * steps}")
    return out


def _epoch_steps(config: CampaignConfig, backend: str, labels: int, batch_size: int) -> int:
    replayed = int(config.backends[backend].replay_ratio * labels + 0.5) if config.replay is not None else 0
    return math.ceil((labels + replayed) / batch_size)


def _epochs(update_steps: int, epoch_steps: int) -> int:
    return max(1, int(update_steps / epoch_steps + 0.5))
