"""Rows of results, written as they come: a JSON line each, and a text table made from all of them."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.saddles.common import Outcome, Task
from rlpath_core.files import atomic_write, read_lines, write_json

PACKAGES = ("numpy", "scipy", "numba", "ase", "sella", "jax", "torch", "mace-torch")
ANCHORS = {
    "G1": ("saddle of the heptamer from near it, |F| < 1e-3", "Sella 53 (OptBench)", "<= 50, none failed"),
    "G2": ("the same, LJ38", "Sella 70 (OptBench)", "<= 70"),
    "G3": ("heptamer, random start to a verified saddle", "eOn Lanczos 334", "<= 170, >= 95 %"),
    "G4": ("the 15 saddles of the heptamer below 1.3 eV", "2.93e5 (OptBench)", "<= 1.0e5"),
    "G5": ("the 27 below 1.5 eV", "4.2e5 / 6.17e5 (OptBench)", "<= 2.0e5"),
    "G6": ("99.9 % of the rate at 700 K", "2.54e4 (OptBench)", "<= 1.0e4"),
    "G7": ("double-ended, heptamer", "OPTIM 103 (OptBench)", "<= 100, none failed"),
    "G8": ("lowest mode of LJ38, overlap > 0.99", "Sella 18 (OptBench)", "<= 18"),
    "G9": ("hops with EMT", "ASE's CI-NEB 75 / 155 / 110", "barrier to 1 meV, half the calls"),
    "G10": (
        "traps and true saddles before the verification",
        "CI-NEB takes N2/Cu(111)",
        "no trap, >= 99 % of the true",
    ),
    "G11": ("64 searches on one batched model", "serial ASE + Sella 1x", ">= 3x, energies to 1e-6 eV"),
}
"""What is measured, published or measured figures of others, and the goal."""


def machine() -> dict[str, Any]:
    """Hardware, versions and date."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        cpu = f"{lines[0].split(':')[1].strip()}, {len(lines)} cores" if lines else cpu
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


class Record:
    """The rows of one folder. What is there is not computed again.

    Parameters
    ----------
    folder : Path
        ``rows.jsonl``, ``machine.json`` and ``table.txt`` lie in it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "rows.jsonl"
        self.rows: list[dict[str, Any]] = read_lines(self.path) if self.path.exists() else []
        write_json(folder / "machine.json", machine())

    def has(self, goal: str, engine: str, name: str) -> bool:
        return any((row["goal"], row["engine"], row["name"]) == (goal, engine, name) for row in self.rows)

    def missing(self, goal: str, engine: str, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that have no row yet."""
        return [task for task in tasks if not self.has(goal, engine, task.name)]

    def add(
        self, goal: str, engine: str, name: str, ok: bool, calls: int | None, seconds: float | None, **more: Any
    ) -> None:
        row = {"goal": goal, "engine": engine, "name": name, "ok": bool(ok), "calls": calls, "seconds": seconds, **more}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        with atomic_write(self.folder / "table.txt") as file:
            file.write(self.table())

    def run(
        self,
        goal: str,
        engine: str,
        tasks: Sequence[Task],
        search: Callable[[Sequence[Task]], Sequence[Outcome]],
        judged: Callable[[Task, Outcome], dict[str, Any]],
    ) -> None:
        """Run the tasks that have no row, and write one for each; ``judged`` returns ``ok`` and what else it found."""
        missing = self.missing(goal, engine, tasks)
        if not missing:
            return
        named = {task.name: task for task in missing}
        for outcome in search(missing):
            verdict = judged(named[outcome.name], outcome)
            self.add(
                goal,
                engine,
                outcome.name,
                verdict.pop("ok"),
                outcome.calls,
                outcome.seconds,
                converged=outcome.converged,
                reason=outcome.reason,
                **verdict,
                **outcome.more,
            )
        print(self.table([goal]), flush=True)

    def drop(self, goal: str, engine: str) -> None:
        """Forget the rows of one engine."""
        self.rows = [row for row in self.rows if (row["goal"], row["engine"]) != (goal, engine)]
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows)

    def say(self, goal: str, engine: str, name: str, ok: bool, said: str) -> None:
        """A comparison of other rows."""
        self.add(goal, engine, name, ok, None, None, said=said)

    def note(self, goal: str, engine: str, why: str) -> None:
        """Say why an engine has no rows."""
        if not self.has(goal, engine, "not run"):
            self.add(goal, engine, "not run", False, None, None, reason=why)

    def table(self, goals: Sequence[str] = tuple(ANCHORS)) -> str:
        """Per goal and engine: how many, how many were right, calls of the right ones, seconds per search."""
        out = []
        for goal in goals:
            rows = [row for row in self.rows if row["goal"] == goal]
            if not rows:
                continue
            what, anchor, aim = ANCHORS[goal]
            out.append(f"{goal}  {what}\n     anchor {anchor}; goal {aim}")
            out.append(f"     {'engine':<34}{'ok':>9}{'mean':>9}{'median':>9}{'max':>8}{'s each':>9}  failures")
            for engine in dict.fromkeys(row["engine"] for row in rows):
                out.append("     " + _line(engine, [row for row in rows if row["engine"] == engine]))
            out.append("")
        return "\n".join(out) + "\n"


def _line(engine: str, rows: list[dict[str, Any]]) -> str:
    run = [row for row in rows if row["calls"] is not None]
    if not run:
        said = rows[0].get("said")
        return f"{engine:<34}{'not run':>9}  {rows[0].get('reason')}" if said is None else f"{engine}: {said}"
    good = [row["calls"] for row in run if row["ok"]]
    figures = f"{np.mean(good):>9.1f}{np.median(good):>9.1f}{max(good):>8d}" if good else f"{'-':>9}{'-':>9}{'-':>8}"
    reasons: dict[str, int] = {}
    for row in run:
        if not row["ok"]:
            why = str(row.get("reason") or row.get("why") or "wrong")
            reasons[why] = reasons.get(why, 0) + 1
    failures = ", ".join(f"{n} {why}" for why, n in reasons.items()) or "none"
    count = f"{len(good)}/{len(run)}"
    seconds = np.mean([row["seconds"] for row in run])
    return f"{engine:<34}{count:>9}{figures}{seconds:>9.3f}  {failures}"
