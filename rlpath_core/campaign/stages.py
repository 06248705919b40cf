"""What happens inside a round: explore, label, learn. Each returns a small JSON-able mapping with its ``seconds``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from rlpath_core.errors import FatalError
from rlpath_core.spec.load import check
from rlpath_core.spec.run import RunSpec, TrainSpec
from rlpath_core.store import orm

if TYPE_CHECKING:
    from rlpath_core.campaign.campaign import Campaign
    from rlpath_core.spec.campaign import CampaignConfig

Progress = Callable[[dict[str, Any]], None]


def evaluate_start(campaign: Campaign, round: int, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the starting model on the held-out and near-equilibrium sets."""
    began = time.monotonic()
    metrics, model = _measured(campaign, round)
    return {"metrics": metrics, "model": model, "seconds": {"evaluation": time.monotonic() - began}}


def explore(campaign: Campaign, round: int, progress: Progress | None = None) -> dict[str, Any]:
    """Sample with the model of the round before, and queue what it probably gets wrong."""
    began = time.monotonic()
    from rlpath_core.backends import load_model
    from rlpath_core.sampling import sample
    from rlpath_core.structure import read_structures

    config = campaign.config
    model = load_model(campaign.manifest(round - 1), device=config.device)
    run_dir = campaign.sampling_folder(round)
    with campaign.store() as store:
        summary = sample(
            config.sampling,
            model,
            read_structures(config.structure),
            run_dir,
            store,
            seed=1000 * config.seed + round,
            run_id=f"sample/round-{round}",
            round=round,
            resume=(run_dir / "steps.jsonl").exists(),
            progress=progress,
        )
    return {
        "basins": summary.basins,
        "candidates": summary.candidates,
        "attempts": summary.attempts_total,
        "rejected": summary.attempts_rejected,
        "force_calls": summary.force_calls,
        "stop_reason": summary.stop_reason,
        "seconds": {"sampling": time.monotonic() - began},
    }


def label(campaign: Campaign, round: int, progress: Progress | None = None) -> dict[str, Any]:
    """Drop near-duplicates, choose within the budget, calculate, and store every converged label once."""
    began = time.monotonic()
    from rlpath_core.dft import label as label_round
    from rlpath_core.outbox import process_outbox

    config = campaign.config
    outbox = config.outbox.model_copy(update={"budget": config.labels_per_round})
    with campaign.store() as store:
        chosen = process_outbox(store, campaign.sampling_folder(round), outbox, round=round)
        summary = label_round(store, config.dft, round=round, lmdb=campaign.lmdb(round), progress=progress)
    if summary.wanted == 0:
        raise FatalError(
            f"round {round} found nothing worth a label: no candidate passed the triggers and the duplicate check. "
            "Lower sampling.pipeline.trigger or raise sampling.steps"
        )
    if summary.stopped is not None and summary.labelled == 0:
        raise FatalError(f"round {round} got no label: {summary.stopped}. Raise it (dft.budget), or stop here")
    if summary.failed > config.max_failed_fraction * summary.wanted:
        raise FatalError(
            f"{summary.failed} of {summary.wanted} calculations of round {round} failed "
            f"({', '.join(f'{count}x {reason}' for reason, count in summary.reasons.items())}); "
            f"their folders are kept under {campaign.folder / 'dft'}. Mend the cause, then run the loop again, or "
            "raise max_failed_fraction"
        )
    return {
        "selected": chosen.selected,
        "skipped": chosen.skipped,
        "submitted": summary.labelled + summary.failed,
        "stopped": summary.stopped,
        "failed": summary.failed,
        "labelled": summary.labelled,
        "seconds": {"labelling": time.monotonic() - began},
    }


def learn(campaign: Campaign, round: int, progress: Progress | None = None) -> dict[str, Any]:
    """Fine-tune the model of the round before on all labels so far, then measure it."""
    began = time.monotonic()
    from rlpath_core.training import train

    config = campaign.config
    run_dir = campaign.models_folder(round)
    data: dict[str, Any] = {"train": str(campaign.labels_folder)}
    if config.replay is not None and config.replay_ratio > 0:
        data |= {"replay": str(config.replay), "replay_ratio": config.replay_ratio}
    train_section = {"seed": 1000 * config.seed + round} | config.train
    if config.update_steps is not None and "epochs" not in config.train:
        with campaign.store() as store, store.session() as session:
            rows = select(func.count()).select_from(orm.LabelRow).where(orm.LabelRow.round <= round)
            train_section["epochs"] = epochs_for(config, session.scalar(rows) or 0)
    spec = check(
        RunSpec,
        {
            "backend": config.backend,
            "task": "finetune",
            "run_dir": str(run_dir),
            "device": config.device,
            "model": {"manifest": str(campaign.manifest(round - 1))},
            "data": data,
            "train": train_section,
        },
        campaign.folder / "config.yaml",
    )
    result = train(spec, progress=progress)
    trained = time.monotonic()
    metrics, model = _measured(campaign, round)
    with campaign.store() as store, store.session() as session:
        for job_id in session.scalars(select(orm.LabelRow.job_id).where(orm.LabelRow.round <= round)):
            session.merge(orm.TrainingLabelRow(model_sha256=model["sha256"], job_id=job_id))
    return {
        "metrics": metrics,
        "model": model,
        "training": result.metrics,
        "seconds": {"training": trained - began, "evaluation": time.monotonic() - trained},
    }


def epochs_for(config: CampaignConfig, labels: int) -> int:
    """Epochs that make ``update_steps``: a round with few labels then learns as long as one with many."""
    assert config.update_steps is not None
    train = check(TrainSpec, config.train, "train")
    replayed = int(config.replay_ratio * labels + 0.5) if config.replay is not None else 0
    steps_per_epoch = math.ceil((labels + replayed) / (train.batch_size * train.accum_steps))
    return max(1, int(config.update_steps / steps_per_epoch + 0.5))


def _measured(campaign: Campaign, round: int) -> tuple[dict[str, float], dict[str, str]]:
    """Errors on the held-out and near sets, and the model's row in the database."""
    from rlpath_core.backends import load_model
    from rlpath_core.data import read_labelled
    from rlpath_core.evaluation import evaluate

    config, manifest = campaign.config, campaign.manifest(round)
    model = load_model(manifest, device=config.device)
    heldout = evaluate(model, read_labelled(config.heldout))
    metrics = {key: heldout[key] for key in ("force_mae", "force_rmse", "force_mae_top20", "energy_mae_per_atom")}
    if config.near is not None:
        metrics["force_mae_near"] = evaluate(model, read_labelled(config.near))["force_mae"]
    with campaign.store() as store, store.session() as session:
        parent = None if round == 0 else load_digest(campaign, round - 1)
        store.register_model(session, manifest, model.digest, model.backend, model.weights_sha256, parent=parent)
    return metrics, {"manifest": str(manifest), "sha256": model.digest}


def load_digest(campaign: Campaign, round: int) -> str:
    """The digest of the model that an earlier round ended with."""
    result = campaign.ended("evaluate_start" if round == 0 else "learn", round)
    assert result is not None, f"round {round} has no model"
    digest: str = result["model"]["sha256"]
    return digest
