"""Checkpoints of sampling: those of ``lockstep.checkpoint`` in which ``WalkState`` may stand anywhere too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlpath_core.lockstep import checkpoint
from rlpath_core.lockstep.checkpoint import Codec, tidy
from rlpath_core.sampling.attempt import WalkState
from rlpath_core.structure import Structure

__all__ = ["FORMAT", "load", "save", "tidy", "walk_states"]

FORMAT = 4
"""Of a run's state: another number for every change of it. A run of another format is not resumed."""


def save(run_dir: Path, number: int, state: dict[str, Any]) -> dict[str, Any]:
    """Write the arrays of checkpoint ``number``; returns the JSON-able rest.

    The file of the checkpoint before stays until ``tidy``.
    """
    return {"format": FORMAT, **checkpoint.save(run_dir, number, state, _codecs(()))}


def load(run_dir: Path, saved: dict[str, Any], starts: Sequence[Structure]) -> dict[str, Any]:
    """The state that ``save`` was given.

    Raises
    ------
    InputError
        The file of arrays is missing or damaged.
    """
    return checkpoint.load(run_dir, saved, _codecs(starts))


def walk_states(state: Any) -> Iterator[WalkState]:
    """All of a state, at any depth."""
    if isinstance(state, WalkState):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from walk_states(value)


def _codecs(starts: Sequence[Structure]) -> dict[str, Codec]:
    def plain(state: WalkState) -> list[Any]:
        return [state.structure.positions, state.origin, state.energy, state.basin]

    def made(value: list[Any]) -> WalkState:
        positions, origin, energy, basin = value
        return WalkState(starts[origin].moved(positions), origin, energy, basin)

    return {"walk_state": Codec(WalkState, plain, made)}
