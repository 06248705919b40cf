"""Triggers: which structures of an attempt are worth a label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.roles import Roles
from rlpath_core.registry import Registry
from rlpath_core.sampling.options import TriggerOptions
from rlpath_core.structure import Structure


@dataclass(frozen=True)
class Candidate:
    """A structure that triggered. ``score`` is the largest ratio of a figure to its threshold."""

    structure: Structure
    stage: str
    trigger: str
    score: float
    max_force: float
    energy: float


class Trigger(ABC):
    """Judges one structure; called at the configured stages and stride."""

    def __init__(self, options: TriggerOptions, roles: Roles) -> None:
        self.options = options
        self.roles = roles

    @abstractmethod
    def judge(
        self, structure: Structure, prediction: Prediction, stage: str, start_energy: float | None = None
    ) -> Candidate | None:
        """The structure as a candidate, None if it is not worth a label.

        Parameters
        ----------
        structure, prediction
            The structure and the model's prediction of it.
        stage
            ``sample`` or ``quench_step``.
        start_energy
            Of the minimum that the attempt started from, eV; None if it did not start from one.
        """


TRIGGERS: Registry[type[Trigger]] = Registry("trigger", "rlpath.triggers")


@TRIGGERS.register("force")
class ForceTrigger(Trigger):
    """Largest force and mean of the largest few on the movable atoms; if configured, energy and committee spread."""

    def judge(
        self, structure: Structure, prediction: Prediction, stage: str, start_energy: float | None = None
    ) -> Candidate | None:
        options, movable = self.options, self.roles.movable
        assert prediction.forces is not None
        norms = np.sort(np.linalg.norm(prediction.forces[movable], axis=1))[::-1]
        largest, mean = float(norms[0]), float(norms[: options.top_k].mean())
        judged = {"max_force": (largest, options.max_force), "top_k_mean": (mean, options.top_k_mean)}
        if options.energy_rise is not None:
            rise = 0.0 if start_energy is None else prediction.energy - start_energy
            judged["energy_rise"] = (rise, options.energy_rise)
        if options.spread is not None:
            spread = prediction.force_spread
            judged["spread"] = (0.0 if spread is None else float(spread[movable].max()), options.spread)
        over = {key: figure > limit for key, (figure, limit) in judged.items()}
        if largest > options.upper or not (all if options.mode == "all" else any)(over.values()):
            return None
        ratios = [figure / limit for figure, limit in judged.values() if limit > 0]
        name = "+".join(key for key, is_over in over.items() if is_over)
        return Candidate(structure, stage, name, max(ratios, default=largest), largest, prediction.energy)


class Collector:
    """The candidates of one attempt: at most ``per_attempt``, each moved by ``min_move`` from the one before."""

    def __init__(self, trigger: Trigger | None, start_energy: float | None = None) -> None:
        self.trigger = trigger
        self.start_energy = start_energy
        self.candidates: list[Candidate] = []

    def offer(self, structure: Structure, prediction: Prediction, stage: str, step: int = 0) -> None:
        if self.trigger is None:
            return
        options = self.trigger.options
        if stage not in options.stages or step % options.stride or len(self.candidates) >= options.per_attempt:
            return
        candidate = self.trigger.judge(structure, prediction, stage, self.start_energy)
        if candidate is None:
            return
        if self.candidates:
            moved = displacements(structure, self.candidates[-1].structure)
            if np.linalg.norm(moved, axis=1).max() < options.min_move:
                return
        self.candidates.append(candidate)
