"""Attempts that a checkpoint meets on their way: kept as what they have heard from the model so far.

An attempt is decided by its start, its number (its own random stream) and the model's answers. So nothing of a walker's
insides is saved: on a resume the attempt runs again from its beginning, is told the same answers without asking the
model, and stands where it stood. That way walkers never wait for each other, and a killed run still loses no call
that was made before its last checkpoint, and ends with the same bytes as one that was never killed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Ask
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.sampling.arrays import reading_arrays, write_arrays
from rlpath_core.sampling.policies import Site
from rlpath_core.sampling.walker import Identify, Outcome
from rlpath_core.structure import Structure

NAME = "under_way"


@dataclass
class UnderWay:
    """One attempt between its beginning and its end.

    heard     the model's answers so far, in order
    declined  how many times it was told that the minimum that it met is not known yet
    """

    outcome: Outcome
    heard: list[Prediction] = field(default_factory=list)
    declined: int = 0

    def asking(self, ask: Ask) -> Ask:
        """``ask`` that first repeats what was heard before, and notes what it hears from then on."""
        calls = 0

        def answer(structure: Structure) -> Prediction:
            nonlocal calls
            calls += 1
            if calls > len(self.heard):
                self.heard.append(ask(structure))
            return self.heard[calls - 1]

        return answer

    def identifying(self, identify: Identify) -> Identify:
        """``identify`` that first declines as often as it did before: the basins known now may be more."""
        earlier, asked = self.declined, 0

        def again(outcome: Outcome, quenched: Quenched, found_new: bool) -> bool:
            nonlocal asked
            asked += 1
            if asked <= earlier:
                return False
            known = identify(outcome, quenched, found_new)
            self.declined += not known
            return known

        return again


def save(
    run_dir: Path, number: int, ways: Sequence[UnderWay], entry: Callable[[Site], tuple[Any, ...]]
) -> list[dict[str, Any]]:
    """Write the answers beside the run's other files; returns what belongs in its state.

    ``entry`` makes that of an attempt's start. ``number`` tells checkpoints apart: the file of the one before stays
    until ``tidy``.
    """
    arrays: dict[str, np.ndarray] = {}
    entries = []
    for k, way in enumerate(ways):
        arrays[f"energies.{k}"] = np.array([answer.energy for answer in way.heard])
        arrays[f"forces.{k}"] = _small([answer.forces for answer in way.heard])
        if way.heard and way.heard[0].force_spread is not None:
            arrays[f"spread.{k}"] = _small([answer.force_spread for answer in way.heard])
        entries.append(
            {
                "n": way.outcome.n,
                "walker": way.outcome.walker,
                "chances": None if way.outcome.chances is None else way.outcome.chances.tolist(),
                "scales": None if way.outcome.scales is None else way.outcome.scales.tolist(),
                "calm": way.outcome.calm,
                "turn": way.outcome.turn,
                "start": entry(way.outcome.start),
                "declined": way.declined,
            }
        )
    if entries:
        write_arrays(run_dir, NAME, number, arrays)
    return entries


def load(
    run_dir: Path, number: int, entries: Sequence[dict[str, Any]], outcome: Callable[[dict[str, Any]], Outcome]
) -> list[UnderWay]:
    """What ``save`` kept. Raises InputError, which names the file, where it is missing or damaged."""
    if not entries:
        return []
    found = []
    with reading_arrays(run_dir, NAME, number) as arrays:
        for k, entry in enumerate(entries):
            energies, forces = arrays[f"energies.{k}"], arrays[f"forces.{k}"].astype(np.float64)
            spread = arrays[f"spread.{k}"].astype(np.float64) if f"spread.{k}" in arrays else [None] * len(energies)
            heard = [Prediction(float(e), f, force_spread=s) for e, f, s in zip(energies, forces, spread, strict=True)]
            found.append(UnderWay(outcome(entry), heard, entry["declined"]))
    return found


def _small(values: Sequence[Any]) -> np.ndarray:
    """As float32 where that loses nothing: most models compute in it."""
    array = np.array(values, dtype=np.float64)
    single = array.astype(np.float32)
    return single if (single == array).all() else array
