"""Whether a result is a label, and what kind of failure it is otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlpath_core.dft.engines.base import Calculation
from rlpath_core.dft.launchers.base import Event
from rlpath_core.dft.options import DftConfig
from rlpath_core.structure import Structure

SAME_POSITION = 1e-6
"""Å: a result whose positions or cell differ by more belongs to another structure."""
TRANSIENT = frozenset({"wall", "memory", "node", "disk", "transient"})
"""Failures of the machine: the same calculation may succeed another time, some with more time or memory."""
EXPLAINED = {
    "wall": "ran out of time",
    "memory": "ran out of memory",
    "node": "its node or scheduler lost it",
    "disk": "the disk was full",
    "transient": "the machine's fault",
    "scf": "the electronic steps ran out",
    "exit": "the program failed",
    "refused": "beyond the method",
    "wrong": "ended well, but is no label",
    "cancelled": "cancelled",
}
"""Every kind of failure that a job row may name."""


def why_rejected(result: Calculation, asked: Structure, max_force: float) -> str | None:
    """Why a result is no label for the structure ``asked``, in words; None if it is one. ``max_force`` is in eV/Å."""
    if not result.converged:
        return result.reason or "did not converge"
    if result.energy is None or not np.isfinite(result.energy):
        return "the energy is not a finite number"
    if result.forces is None or result.forces.shape != asked.positions.shape or not np.isfinite(result.forces).all():
        return f"the forces are not {len(asked)} x 3 finite numbers"
    for name, limit in (("numbers", 0.0), ("positions", SAME_POSITION), ("cell", SAME_POSITION)):
        got, wanted = getattr(result, name), getattr(asked, name)
        if got is None or got.shape != wanted.shape:
            return f"the result does not say which {name} it belongs to"
        if not np.abs(got - wanted).max() <= limit:
            return f"the result belongs to another structure: {name} differ by up to {np.abs(got - wanted).max():.3g}"
    largest = float(np.linalg.norm(result.forces, axis=1).max())
    if largest > max_force:
        return f"forces of {largest:.0f} eV/Å, above {max_force:g}: the method is out of its depth here"
    return None


@dataclass(frozen=True)
class Failure:
    """``kind`` is one of ``EXPLAINED``, ``reason`` is for people."""

    kind: str
    reason: str


def of_result(result: Calculation, asked: Structure, max_force: float) -> Failure | None:
    """Why a result is no label; None if it is one."""
    reason = why_rejected(result, asked, max_force)
    if reason is None:
        return None
    return Failure(result.failure or ("wrong" if result.converged else "exit"), reason)


def of_event(event: Event | None, otherwise: str) -> Failure:
    """The failure of a job without a result: what the launcher reports, or ``otherwise``."""
    if event is None or event.reason is None:
        return Failure("exit", otherwise)
    return Failure(event.cause or "exit", event.reason)


def escalate(kind: str, config: DftConfig, wall: float | None, memory: int | None) -> tuple[float | None, int | None]:
    """Wall time (s) and memory (MB) of the next try: ``retry_factor`` times what ran out. None: the config's."""
    if kind == "wall":
        wall = (wall or config.wall_seconds) * config.retry_factor
    if kind == "memory" and (memory or config.memory_mb):
        memory = round((memory or config.memory_mb or 0) * config.retry_factor)
    return wall, memory
