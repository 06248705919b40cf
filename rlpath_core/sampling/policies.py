"""Walk policies: where the next attempt starts, and how far it reaches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlpath_core.registry import Registry
from rlpath_core.sampling.options import WalkOptions
from rlpath_core.structure import Structure


@dataclass(frozen=True)
class Site:
    """A place to start from. ``energy`` and ``basin`` are None where it is not a known minimum.

    ``origin`` numbers the given starting structure that it descends from: same atoms, same cell.
    """

    structure: Structure
    origin: int
    energy: float | None = None
    basin: int | None = None


@dataclass
class KnownBasin:
    """A basin with its counts: ``visits`` quenches that ended in it, ``departures`` attempts that started from it."""

    site: Site
    energy: float
    first_attempt: int
    visits: int = 1
    departures: int = 0


class Policy(ABC):
    """``here`` is each walker's own place; ``basins`` is shared by all and grows as the run goes on.

    ``adaptive``: what the run learns of its actions decides which is drawn and how far it reaches.
    """

    adaptive: ClassVar[bool] = True

    def __init__(self, options: WalkOptions, origins: list[Site], walkers: int) -> None:
        self.options = options
        self.origins = origins
        self.here = [origins[w % len(origins)] for w in range(walkers)]

    @abstractmethod
    def start(self, n: int, walker: int, basins: list[KnownBasin]) -> Site:
        """Where attempt ``n`` (from 1) starts."""

    def finish(self, walker: int, start: Site, end: Site, rng: np.random.Generator) -> None:
        """Told where an attempt that passed all validators ended: in a basin, or, without a quench, anywhere."""
        return


POLICIES: Registry[type[Policy]] = Registry("policy", "rlpath.policies")


@POLICIES.register("origin")
class Origin(Policy):
    """Always the given structures, in turn: attempts do not depend on each other."""

    adaptive = False

    def start(self, n: int, walker: int, basins: list[KnownBasin]) -> Site:
        return self.origins[(n - 1) % len(self.origins)]


@POLICIES.register("accept")
class Accept(Policy):
    """Each walker goes on from where it last came to rest."""

    def start(self, n: int, walker: int, basins: list[KnownBasin]) -> Site:
        return self.here[walker]

    def finish(self, walker: int, start: Site, end: Site, rng: np.random.Generator) -> None:
        self.here[walker] = end


@POLICIES.register("metropolis")
class Metropolis(Accept):
    """As accept, but a move uphill is taken with probability exp(-dE / kT) (doi:10.1063/1.1699114)."""

    def finish(self, walker: int, start: Site, end: Site, rng: np.random.Generator) -> None:
        rise = 0.0 if start.energy is None or end.energy is None else end.energy - start.energy
        if rise <= 0 or rng.random() < np.exp(-rise / self.options.kT):
            self.here[walker] = end


@POLICIES.register("frontier")
class Frontier(Policy):
    """The basin with the fewest visits and departures within the energy range of its origin's lowest.

    Ties go to the lower energy, then to the older basin. Before any basin is known it is ``origin``.
    """

    def start(self, n: int, walker: int, basins: list[KnownBasin]) -> Site:
        origin = (n - 1) % len(self.origins)
        mine = [b for b in basins if b.site.origin == origin]
        if not mine:
            return self.origins[origin]
        top = min(b.energy for b in mine) + self.options.energy_range
        return min((b for b in mine if b.energy <= top), key=lambda b: (b.visits + b.departures, b.energy)).site
