"""The basins that a run knows, and what identifies a relaxed structure as one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.sampling.attempt import Plan, WalkState
from rlpath_core.sampling.basins import BASINS, BasinIndex
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure


@dataclass
class KnownBasin:
    """A basin with its counts.

    Attributes
    ----------
    minimum
        Its structure, as the place that a walk starts from.
    energy
        Of the minimum, eV.
    first_attempt
        Number of the attempt that found it.
    visits
        Relaxations that ended in it.
    departures
        Attempts that started from it.
    """

    minimum: WalkState
    energy: float
    first_attempt: int
    visits: int = 1
    departures: int = 0


class Identification(NamedTuple):
    """A basin that an attempt reached: its number, its minimum, and whether the attempt found it."""

    number: int
    minimum: WalkState
    new: bool


Identify = Callable[[Plan, Quenched, bool], Identification | None]
"""``identify(plan, relaxed, may_be_new)``: the basin that an attempt reached, None if it reached no known one.

A minimum that is not known becomes a new basin only with ``may_be_new``.
"""


class KnownBasins(list[KnownBasin]):
    """All basins of a run in the order of their numbers.

    Parameters
    ----------
    options
        When two minima are one.
    starts, roles
        The given structures and the roles of their atoms.
    known
        Basins of an earlier part of the run.
    """

    def __init__(
        self,
        options: BasinOptions,
        starts: Sequence[Structure],
        roles: Sequence[Roles],
        known: Iterable[KnownBasin] = (),
    ) -> None:
        super().__init__(known)
        self.indexes = _indexes(options, starts, roles)
        for number, basin in enumerate(self):
            self.indexes[basin.minimum.origin].add(number, basin.minimum.structure, basin.energy)

    def identify(self, plan: Plan, relaxed: Quenched, may_be_new: bool) -> Identification | None:
        """The basin of a relaxed structure, see ``Identify``; counts the visit."""
        index, structure, energy = self.indexes[plan.start.origin], relaxed.structure, relaxed.energy
        number = index.find(structure, energy)
        if number is not None and not relaxed.converged and energy < self[number].energy:
            number = None  # still relaxing, and already lower than that minimum
        if number is not None:
            self[number].visits += 1
            return Identification(number, self[number].minimum, False)
        if not may_be_new:
            return None
        number = len(self)
        index.add(number, structure, energy)
        minimum = WalkState(structure, plan.start.origin, energy, number)
        self.append(KnownBasin(minimum, energy, plan.n))
        return Identification(number, minimum, True)


def _indexes(options: BasinOptions, starts: Sequence[Structure], roles: Sequence[Roles]) -> list[BasinIndex]:
    """One index per start; starts with the same atoms, cell and movable atoms share theirs."""
    shared: dict[tuple[bytes, ...], BasinIndex] = {}
    indexes = []
    for structure, of_start in zip(starts, roles, strict=True):
        arrays = (structure.numbers, structure.cell, structure.pbc, of_start.movable)
        key = tuple(array.tobytes() for array in arrays)
        if key not in shared:
            shared[key] = BASINS[options.name](options, structure, of_start)
        indexes.append(shared[key])
    return indexes
