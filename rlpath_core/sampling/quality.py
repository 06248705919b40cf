"""Action quality: acceptance, reasons of rejection, magnitudes and new basins of every action."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, read_lines, write_json

PERCENTILES = (5, 25, 50, 75, 95)


def action_quality(run_dir: str | Path) -> dict[str, Any]:
    """Statistics of a run's steps.jsonl: one entry for ``all`` attempts and one per action.

    attempts, accepted, acceptance  counts and their ratio
    reasons                         rejections by validator and limit
    magnitude, max_force            percentiles 5, 25, 50, 75, 95 (Å; eV/Å, of the structures that the model saw)
    converged, new_basins, candidates, force_calls, new_basins_per_1000_calls

    Raises InputError for a file that is missing or does not parse.
    """
    path = Path(run_dir) / "steps.jsonl"
    try:
        steps = [step for step in read_lines(path) if step["n"] > 0]
        groups: dict[str, list[dict[str, Any]]] = {"all": steps}
        for step in steps:
            groups.setdefault(step["action"], []).append(step)
        return {name: _statistics(group) for name, group in groups.items()}
    except KeyError as error:
        raise InputError(f"a line has no {error}: not the steps of a sampling run", path) from error


def write_quality(run_dir: str | Path) -> tuple[str, dict[str, Any]]:
    """``action_quality`` as action_quality.json, .txt and .png in ``run_dir``; returns the text and the statistics."""
    statistics = action_quality(run_dir)
    text = quality_table(statistics)
    write_json(Path(run_dir) / "action_quality.json", statistics)
    with atomic_write(Path(run_dir) / "action_quality.txt") as stream:
        stream.write(text + "\n")
    with atomic_write(Path(run_dir) / "action_quality.png", "wb") as stream:
        stream.write(quality_figure(statistics))
    return text, statistics


def quality_figure(statistics: dict[str, Any]) -> bytes:
    """A PNG with the outcomes, magnitudes, forces and new basins of every action."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in statistics if name != "all"]
    figure = Figure(figsize=(12, 1.8 + 0.45 * max(len(names), 3)), layout="constrained")
    fates, magnitudes, forces, found = figure.subplots(1, 4, sharey=True)
    rows = np.arange(len(names))
    left = np.zeros(len(names))
    every = list(statistics["all"]["reasons"])
    for fate in ["accepted", *every]:
        fell = [statistics[name]["reasons"] | {"accepted": statistics[name]["accepted"]} for name in names]
        share = np.array([one.get(fate, 0) for one in fell]) / [max(statistics[name]["attempts"], 1) for name in names]
        fates.barh(rows, share, left=left, label=fate, color="0.75" if fate == "accepted" else None)
        left += share
    fates.set(title="attempts", xlim=(0, 1), yticks=rows, xlabel="share")
    fates.set_yticklabels([f"{name} ({statistics[name]['attempts']})" for name in names])
    fates.invert_yaxis()
    if every:
        fates.legend(fontsize=7)
    shown = ((magnitudes, "magnitude", "largest move", "Å"), (forces, "max_force", "largest force", "eV/Å"))
    for axes, key, title, unit in shown:
        for row, name in enumerate(names):
            if (p := statistics[name][key]) is not None:
                axes.plot([p["5"], p["95"]], [row, row], color="0.5", lw=1)
                axes.plot([p["25"], p["75"]], [row, row], color="0.3", lw=5)
                axes.plot(p["50"], row, "o", color="k", ms=4)
        axes.set(title=title, xlabel=f"{unit}: 5, 25, 50, 75, 95 %")
    found.barh(rows, [statistics[name]["new_basins_per_1000_calls"] or 0.0 for name in names], color="0.5")
    found.set(title="new basins", xlabel="per 1000 force calls")
    found.set_xlim(left=0)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _statistics(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    accepted = sum(step["accepted"] for step in steps)
    calls = sum(step["force_calls"] for step in steps)
    new = sum(step["new_basin"] for step in steps)
    return {
        "attempts": len(steps),
        "accepted": accepted,
        "acceptance": accepted / len(steps) if steps else None,
        "reasons": dict(Counter(step["reason"] for step in steps if not step["accepted"]).most_common()),
        "magnitude": _percentiles([step["magnitude"] for step in steps]),
        "max_force": _percentiles([step["max_force"] for step in steps]),
        "converged": sum(bool(step["quench"] and step["quench"]["converged"]) for step in steps),
        "new_basins": new,
        "candidates": sum(len(step["candidates"]) for step in steps),
        "force_calls": calls,
        "new_basins_per_1000_calls": 1000 * new / calls if calls else None,
    }


def _percentiles(values: Sequence[float | None]) -> dict[str, float] | None:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    return {str(p): float(v) for p, v in zip(PERCENTILES, np.percentile(numbers, PERCENTILES), strict=True)}


def quality_table(statistics: dict[str, Any]) -> str:
    """The statistics as plain text, a line per action."""
    head = f"{'action':<18}{'tried':>6}{'lives':>7}{'Å (median)':>12}{'eV/Å (median, 95 %)':>21}{'new':>5}"
    lines = [f"{head}{'per 1000 calls':>16}  rejected by"]
    for name, one in statistics.items():
        magnitude, force = one["magnitude"] or {}, one["max_force"] or {}
        lives = "-" if one["acceptance"] is None else f"{one['acceptance']:.0%}"
        per_call = one["new_basins_per_1000_calls"]
        reasons = ", ".join(f"{count} {reason}" for reason, count in one["reasons"].items())
        lines.append(
            f"{name:<18}{one['attempts']:>6}{lives:>7}{magnitude.get('50', float('nan')):>12.3f}"
            f"{force.get('50', float('nan')):>13.2f}{force.get('95', float('nan')):>8.2f}{one['new_basins']:>5}"
            f"{'-' if per_call is None else f'{per_call:.2f}':>16}  {reasons}"
        )
    return "\n".join(lines)
