"""The rounds table and ``rounds.json``: one entry per round, the starting model first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlpath_core.store import Store, orm, queries
from rlpath_core.store.saddles import step_figures

if TYPE_CHECKING:
    from rlpath_core.campaign.layout import Layout

SECONDS = ("sampling", "paths", "labelling", "training", "evaluation", "orchestration")


def finished(store: Store) -> set[int]:
    return {entry.round for entry in queries.rounds(store)}


def entries(store: Store) -> list[dict[str, Any]]:
    return [entry.metrics for entry in queries.rounds(store)]


def finish(
    campaign: Layout, store: Store, round_index: int, results: dict[str, dict[str, Any]], orchestration_seconds: float
) -> dict[str, Any]:
    """Write a round's entry; a round that was finished before keeps its first entry."""
    last = results["evaluate_start" if round_index == 0 else "learn"]
    seconds = dict.fromkeys(SECONDS, 0.0) | {"orchestration": max(0.0, orchestration_seconds)}
    for result in results.values():
        seconds |= {key: seconds[key] + spent for key, spent in result["seconds"].items()}
    seconds["total"] = sum(seconds.values())
    labels = len(queries.labels(store))
    with store.session() as session:
        known = session.get(orm.RoundRow, round_index)
        if known is not None:
            return known.metrics
        entry: dict[str, Any] = {
            "round": round_index,
            "labels": labels,
            **last["metrics"],
            "error_on_new_labels": last.get("error_on_new_labels"),
            "basins": results.get("explore", {}).get("basins", 0),
            "candidates": results.get("explore", {}).get("candidates", 0),
            **(steps_entry(store, round_index) if "find_paths" in results else {}),
            "submitted": results.get("label", {}).get("submitted", 0),
            "failed": results.get("label", {}).get("failed", 0),
            "seconds": {key: float(f"{spent:.2f}") for key, spent in seconds.items()},
            "backend": campaign.config.backend_of(round_index),
            "model": last["model"],
        }
        if last.get("others"):
            entry["other_starts"] = {
                backend: {**found["metrics"], "model": found["model"]} for backend, found in last["others"].items()
            }
        session.add(orm.RoundRow(round=round_index, model_sha256=last["model"]["sha256"], metrics=entry))
    return entry


def steps_entry(store: Store, round_index: int) -> dict[str, Any]:
    """Elementary steps by the end of a round: those that its model knows, those that the reference confirms, labels of
    saddles, modes and ends per confirmed step, mean and largest errors of barriers of this round's model, eV."""
    figures = step_figures(store, round_index)
    return {
        "steps": figures.known,
        "steps_confirmed": figures.confirmed,
        "labels_per_step": figures.labels_per_step,
        "barrier_mae": figures.barrier_mae,
        "barrier_error": figures.barrier_error,
    }
