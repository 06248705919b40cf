"""Action quality: which actions live, why the others die, how far they reach and what they find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.sampling.recorders import read_lines

PERCENTILES = (5, 25, 50, 75, 95)


def action_quality(run_dir: str | Path) -> dict[str, Any]:
    """Statistics of a run's steps.jsonl: one entry for ``all`` attempts and one per action.

    attempts, accepted, acceptance  counts and their ratio
    reasons                         rejections by validator and limit
    magnitude, max_force            percentiles 5, 25, 50, 75, 95 (Å; eV/Å, of the structures that the model saw)
    converged, new_basins, candidates, force_calls, new_basins_per_1000_calls

    Raises InputError for a file that is missing or does not parse.
    """
    steps = [step for step in read_lines(Path(run_dir) / "steps.jsonl") if step["n"] > 0]
    groups: dict[str, list[dict[str, Any]]] = {"all": steps}
    for step in steps:
        groups.setdefault(step["action"], []).append(step)
    return {name: _statistics(group) for name, group in groups.items()}


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
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {str(p): float(v) for p, v in zip(PERCENTILES, np.percentile(known, PERCENTILES), strict=True)}


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
