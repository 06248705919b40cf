"""What every policy is: it plans attempts, observes how they end, and keeps its state in checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rlpath_core.config import Section, check
from rlpath_core.geometry.roles import Roles
from rlpath_core.registry import Registry
from rlpath_core.sampling.attempt import Attempt, Plan, Trial, WalkState
from rlpath_core.sampling.known_basins import KnownBasin
from rlpath_core.sampling.options import BasinOptions, WalkOptions


@dataclass(frozen=True)
class WalkSetup:
    """What stays the same for the whole run.

    Attributes
    ----------
    roles
        Roles of the atoms of each given structure.
    n_walkers
        Number of walkers.
    actions, weights, costs
        [n_actions]: the actions' names, their configured weights (sum 1), and the force calls that each makes itself.
    basin
        When two minima are one.
    relaxes
        Whether trials are relaxed (``quench.method`` is not ``none``).
    """

    roles: Sequence[Roles]
    n_walkers: int
    actions: Sequence[str]
    weights: NDArray[np.float64]
    costs: NDArray[np.float64]
    basin: BasinOptions
    relaxes: bool


@dataclass(frozen=True)
class PlanContext:
    """What a policy may look at when it plans an attempt.

    Attributes
    ----------
    basins
        All basins so far; the number of a basin is its index.
    rng
        The plan's own random stream, drawn from the seed and the number of the attempt: the only source of chance.
    """

    basins: Sequence[KnownBasin]
    rng: np.random.Generator


class Policy(ABC):
    """Where attempts start, which action they draw, and what is relaxed.

    A run calls ``begin`` once, then ``plan`` before and ``observe`` after every attempt, in an order that depends on
    nothing but the run. What a policy learns belongs into ``state``: a resumed run calls ``begin`` and then ``load``.

    Parameters
    ----------
    options
        The ``walk`` block of the config.
    setup
        What stays the same for the whole run.
    """

    Options: ClassVar[type[Section]] = Section
    """Schema of ``walk.options``, the policy's own options."""
    embeddings: ClassVar[bool] = False
    """Whether ``trial.prediction`` carries the model's embeddings, if it has any, and so does ``result.prediction`` of
    every minimum that might be new. The latter is one more force call."""

    def __init__(self, options: WalkOptions, setup: WalkSetup) -> None:
        self.options, self.setup = options, setup
        self.own_options: Any = check(self.Options, options.options, "walk.options")
        self.starts: Sequence[WalkState] = ()
        self.relaxed_starts: Sequence[WalkState] = ()

    def begin(self, starts: Sequence[WalkState], relaxed_starts: Sequence[WalkState]) -> None:
        """The given structures as they are, and relaxed. ``observe`` is called with their relaxations afterwards."""
        self.starts, self.relaxed_starts = starts, relaxed_starts

    @abstractmethod
    def plan(self, n: int, walker: int, context: PlanContext) -> Plan:
        """Attempt ``n`` (from 1) of ``walker``: where it starts and what it may do."""

    def choose_draw(self, plan: Plan, propose: Callable[[int], Trial]) -> int:
        """Which draw of a move the attempt continues with.

        Parameters
        ----------
        plan
            The attempt's plan.
        propose
            ``propose(k)`` makes draw ``k``; called for 0, 1, ... in this order, as often as the policy likes.
        """
        propose(0)
        return 0

    def observe(self, attempt: Attempt, rng: np.random.Generator) -> None:
        """An attempt has ended. ``rng`` is its own random stream. ``attempt.n`` < 1: a given structure was relaxed."""
        return

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: dicts, lists, plain values, arrays and ``WalkState``, at any depth."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        return


POLICIES: Registry[type[Policy]] = Registry("policy", "rlpath.policies")


@POLICIES.register("origin")
class Origin(Policy):
    """Always the given structures, in turn: attempts do not depend on each other."""

    def plan(self, n: int, walker: int, context: PlanContext) -> Plan:
        return Plan(n, walker, self.starts[(n - 1) % len(self.starts)])
