"""What happens inside a round: explore, label, learn. Each returns a small JSON-able mapping with its ``seconds``."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpath_core.campaign import saddles
from rlpath_core.campaign.fine_tuning import fine_tuning
from rlpath_core.errors import FatalError
from rlpath_core.files import sha256_of
from rlpath_core.progress import Progress
from rlpath_core.store import insert_new, orm, queries

if TYPE_CHECKING:
    from rlpath_core.campaign.layout import Layout
    from rlpath_core.dft import LabelSummary
    from rlpath_core.evaluation import Predicted

log = logging.getLogger("rlpath.campaign")


def evaluate_start(campaign: Layout, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the starting model of every backend on the held-out and near-equilibrium sets; the first is round 0."""
    from rlpath_core.sampling.preflight import check_starts
    from rlpath_core.structure import read_structures

    began = time.monotonic()
    config = campaign.config
    check_starts(read_structures(config.structure), config.structure, config.sampling)  # before anything costs time
    measured = {}
    for backend, settings in campaign.config.backends.items():
        metrics, model = _measured(campaign, settings.model)
        measured[backend] = {"metrics": metrics, "model": model}
    return {
        **measured.pop(campaign.config.backend_of(0)),
        "others": measured,
        "seconds": {"evaluation": time.monotonic() - began},
    }


def explore(campaign: Layout, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
    """Sample with the model of the round before, and queue what it probably gets wrong."""
    began = time.monotonic()
    from rlpath_core.backends.committee import Committee
    from rlpath_core.sampling import sample
    from rlpath_core.structure import read_structures

    config = campaign.config
    model = campaign.load(campaign.manifest(round_index - 1))
    if config.committee:
        leader = config.backend_of(round_index - 1)
        others = [campaign.newest(backend, round_index) for backend in config.backends if backend != leader]
        model = Committee(model, [campaign.load(path) for path in others])
    run_dir = campaign.sampling_folder(round_index)
    with campaign.store() as store:
        summary = sample(
            config.sampling,
            model,
            read_structures(config.structure),
            run_dir,
            store,
            seed=1000 * config.seed + round_index,
            run_id=f"sample/round-{round_index}",
            round=round_index,
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


def label(campaign: Layout, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
    """Drop near-duplicates, choose within the budget, calculate, and store every converged label once."""
    began = time.monotonic()
    from rlpath_core.dft import label as label_round
    from rlpath_core.outbox import process_outbox

    config = campaign.config
    outbox = config.outbox.model_copy(update={"budget": config.labels_per_round})
    with campaign.store() as store:

        def calculate() -> LabelSummary:
            lmdb = campaign.lmdb(round_index)
            return label_round(store, config.dft, round_index=round_index, lmdb=lmdb, progress=progress)

        chosen_saddles = 0
        if config.paths is not None:
            chosen_saddles = saddles.label_steps(campaign, store, round_index, calculate)
        chosen = process_outbox(store, campaign.sampling_folder(round_index), outbox, round_index=round_index)
        summary = calculate()
    if summary.wanted == 0:
        raise FatalError(
            f"round {round_index} found nothing worth a label: no candidate passed the triggers and the duplicate "
            "check. Lower sampling.pipeline.trigger or raise sampling.steps"
        )
    if summary.stopped is not None and summary.labelled == 0:
        raise FatalError(f"round {round_index} got no label: {summary.stopped}. Raise it (dft.budget), or stop here")
    if summary.failed > config.max_failed_fraction * summary.wanted:
        raise FatalError(
            f"{summary.failed} of {summary.wanted} calculations of round {round_index} failed "
            f"({', '.join(f'{count}x {reason}' for reason, count in summary.reasons.items())}); "
            f"their folders are kept under {campaign.folder / 'dft'}. Mend the cause, then run the loop again, or "
            "raise max_failed_fraction"
        )
    return {
        "selected": chosen.selected,
        "saddles": chosen_saddles,
        "skipped": chosen.skipped,
        "submitted": summary.labelled + summary.failed,
        "stopped": summary.stopped,
        "failed": summary.failed,
        "labelled": summary.labelled,
        "seconds": {"labelling": time.monotonic() - began},
    }


def learn(campaign: Layout, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
    """Fine-tune the newest model of the round's backend on all labels so far, then measure it.

    A model that cannot be trained is only measured.
    """
    began = time.monotonic()
    from rlpath_core.training import train

    config = campaign.config
    if not campaign.trains(round_index):
        unseen = _error_on_new_labels(campaign, round_index)
        metrics, model = _measured(campaign, campaign.manifest(round_index))
        seconds = {"evaluation": time.monotonic() - began}
        return {"metrics": metrics, "model": model, "error_on_new_labels": unseen, "training": {}, "seconds": seconds}
    with campaign.store() as store:
        labels = queries.labels(store, up_to=round_index)
    spec = fine_tuning(
        config,
        config.backend_of(round_index),
        round_index=round_index,
        labels=len(labels),
        model=campaign.parent(round_index),
        data=campaign.labels_folder,
        run_dir=campaign.models_folder(round_index),
        source=campaign.folder / "config.yaml",
    )
    unseen = _error_on_new_labels(campaign, round_index)
    measured = time.monotonic()
    result = train(spec, progress=progress)
    trained = time.monotonic()
    metrics, model = _measured(campaign, campaign.manifest(round_index), campaign.parent(round_index))
    with campaign.store() as store, store.session() as session:
        used = [{"model_sha256": model["sha256"], "job_id": label.job_id} for label in labels]
        insert_new(session, orm.TrainingLabelRow, used)
    return {
        "metrics": metrics,
        "model": model,
        "error_on_new_labels": unseen,
        "training": result.metrics,
        "seconds": {"training": trained - measured, "evaluation": measured - began + time.monotonic() - trained},
    }


def _error_on_new_labels(campaign: Layout, round_index: int) -> dict[str, float] | None:
    """How well the model that is about to be fine-tuned predicts the round's labels, none of which it has seen.

    Returns force_mae, force_rmse (eV/Å), energy_mae_per_atom (eV/atom) and n_structures; None without new labels.
    """
    from rlpath_core.data import read_labelled
    from rlpath_core.evaluation import metrics_of, predict

    if not campaign.lmdb(round_index).exists():
        return None
    predicted = predict(campaign.load(campaign.parent(round_index)), read_labelled(campaign.lmdb(round_index)))
    _say_other_references(campaign, round_index, predicted)
    errors = metrics_of(predicted)
    return {key: errors[key] for key in ("force_mae", "force_rmse", "energy_mae_per_atom", "n_structures")}


def _say_other_references(campaign: Layout, round_index: int, predicted: Predicted) -> None:
    """One line where a round's labels have other reference energies than the model that is about to be trained on them:
    another code or functional than its data, the replayed ones too."""
    from rlpath_core.training.reference_energies import compositions_of, reference_shift

    if predicted.reference_energies is None:
        return
    elements = np.unique(predicted.numbers).tolist()
    counts = compositions_of([s.numbers for s in predicted.structures], elements)
    shift = reference_shift(counts, predicted.reference_energies - predicted.energies, elements)
    if shift.verdict == "same":
        return
    config = campaign.config
    key = f"backends.{config.backend_of(round_index)}.train"
    fixable = shift.verdict == "other" and campaign.trains(round_index)
    fix = "" if not fixable else f". {key}.e0s: lstsq moves the model's reference energies there"
    if fix and config.replay is not None:
        fix += "; replay must then have those of the labels, or be null"
    log.warning("round %d: %s%s", round_index, shift.describe(), fix)


def _measured(campaign: Layout, manifest: str, parent: str | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """Errors on the held-out and near sets, if the campaign has them, and the model's row in the database."""
    from rlpath_core.backends.manifest import manifest_path
    from rlpath_core.data import read_labelled
    from rlpath_core.evaluation import evaluate

    config = campaign.config
    model = campaign.load(manifest)
    metrics = {}
    if config.heldout is not None:
        heldout = evaluate(model, read_labelled(config.heldout))
        metrics = {key: heldout[key] for key in ("force_mae", "force_rmse", "force_mae_top20", "energy_mae_per_atom")}
    if config.near is not None:
        metrics["force_mae_near"] = evaluate(model, read_labelled(config.near))["force_mae"]
    with campaign.store() as store, store.session() as session:
        digest = None if parent is None else sha256_of(manifest_path(parent))
        store.register_model(session, manifest, model.digest, model.backend, model.weights_sha256, parent=digest)
    return metrics, {"manifest": manifest, "sha256": model.digest}
