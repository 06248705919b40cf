"""An attempt as data: what was planned, what was tried, how it ended.

A policy makes the ``Plan``. The runner draws an action, which gives the ``Trial``, relaxes and identifies what it led
to, which gives the ``Result``. None of the three changes afterwards; recorders, tables and policies read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.sampling.trajectory import TrajectoryFrame
from rlpath_core.sampling.triggers import Candidate
from rlpath_core.sampling.validators import Rejection
from rlpath_core.structure import Structure
from rlpath_core.structure.structure import CONTENT_DECIMALS


@dataclass(frozen=True)
class WalkState:
    """A structure that an attempt can start from.

    Attributes
    ----------
    structure
        The structure itself.
    origin
        Index of the given starting structure that it descends from: same atoms, same cell.
    energy
        eV; None if it is not known.
    basin
        Number of its basin in the run; None if it is not a known minimum.
    """

    structure: Structure
    origin: int
    energy: float | None = None
    basin: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a policy decides before an attempt. It is kept in checkpoints as it is.

    Attributes
    ----------
    n
        Number of the attempt, from 1; relaxations of the given structures are 0, -1, ...
    walker
        Index of the walker that runs it.
    start
        Where it starts.
    probabilities
        [n_actions], by which the action is drawn; None: the configured weights.
    step_scales
        [n_actions], factors on each action's configured magnitudes; None: 1.
    relax_threshold
        eV/Å: a trial with a larger force is not relaxed; None: all are.
    memo
        The policy's own notes, to be read again in ``observe``: plain values and arrays.
    """

    n: int
    walker: int
    start: WalkState
    probabilities: NDArray[np.float64] | None = None
    step_scales: NDArray[np.float64] | None = None
    relax_threshold: float | None = None
    memo: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """What an action led to, before any relaxation.

    Attributes
    ----------
    action, parameters, scale
        Name of the action, what it drew, and the factor on its configured magnitudes.
    structure
        The displaced structure; None if no action applied to the start, or the model failed within the action.
    magnitude
        Largest displacement of an atom, Å.
    rejection
        Why it goes no further; None if every validator passed.
    force_calls
        Structures that the model evaluated, for the action itself and for ``prediction``.
    prediction
        The model's, for ``structure``; None if it was rejected without one.
    max_force, top_mean_force
        Of the movable atoms in ``prediction``, eV/Å: the largest, and the mean of the largest ``trigger.top_k``.
    """

    action: str
    parameters: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    structure: Structure | None = None
    magnitude: float | None = None
    rejection: Rejection | None = None
    force_calls: int = 0
    prediction: Prediction | None = None
    max_force: float | None = None
    top_mean_force: float | None = None

    @property
    def energy(self) -> float | None:
        """Of the displaced structure, eV."""
        return None if self.prediction is None else self.prediction.energy


@dataclass(frozen=True)
class Result:
    """How an attempt ended.

    Attributes
    ----------
    force_calls
        Structures that the model evaluated, those of the trial included.
    skipped
        The trial passed all validators and was not relaxed, for its force is above the plan's ``relax_threshold``.
    relaxed
        The last structure of the relaxation; None without one.
    relaxed_rejection
        The hard limit that it breaks: it is no basin.
    stopped_early
        The relaxation was stopped on its way down into a known basin (``basin.look_ahead``).
    basin, new_basin
        Number of the basin that was reached, and whether this attempt found it.
    end
        Where a walk can continue: the basin's minimum, or with ``quench: none`` the displaced structure.
    candidates
        Structures worth a label.
    frames
        For pictures, if the ``viz`` recorder is on.
    prediction
        The model's for ``relaxed``, with embeddings, if the policy asks for them and the minimum might have been new.
    """

    force_calls: int = 0
    skipped: bool = False
    relaxed: Quenched | None = None
    relaxed_rejection: Rejection | None = None
    stopped_early: bool = False
    basin: int | None = None
    new_basin: bool = False
    end: WalkState | None = None
    candidates: tuple[Candidate, ...] = ()
    frames: tuple[TrajectoryFrame, ...] = ()
    prediction: Prediction | None = None


@dataclass(frozen=True)
class Attempt:
    """A finished attempt."""

    plan: Plan
    trial: Trial
    result: Result

    @property
    def n(self) -> int:
        """Number of the attempt."""
        return self.plan.n

    @property
    def start(self) -> WalkState:
        """Where it started."""
        return self.plan.start

    @property
    def accepted(self) -> bool:
        """Whether the trial passed every validator."""
        return self.trial.rejection is None


def round_positions(structure: Structure) -> Structure:
    """The structure with positions rounded to the precision of the content id.

    What is stored, labelled and walked on from is then one structure.
    """
    return structure.moved(np.round(structure.positions, CONTENT_DECIMALS) + 0.0)
