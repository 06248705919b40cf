"""Several models of one system: the predictions of the first, and the spread over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure


class Committee(Model):
    """Energies, forces and the digest are the leader's; ``force_spread`` is over all members.

    Not the mean, so that every structure belongs to the potential energy surface of one model with one digest.
    """

    def __init__(self, leader: Model, others: Sequence[Model]) -> None:
        if not others:
            raise InputError("a committee needs at least one further model", key="committee")
        self.leader, self.others = leader, list(others)
        self.backend = leader.backend
        self.digest, self.device, self.elements = leader.digest, leader.device, leader.elements
        self.reference, self.weights_sha256 = leader.reference, leader.weights_sha256
        self.conservative, self.has_embeddings = leader.conservative, leader.has_embeddings
        self.implementation = leader.implementation
        self.committee = tuple(model.digest for model in others)
        for model in others:
            self.elements &= model.elements
        if len({self.digest, *self.committee}) < 1 + len(others):
            raise InputError("the same model is given twice: it would agree with itself", key="committee")

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        first = self.leader.predict(structures, forces=forces, embeddings=embeddings)
        if not forces:
            return first
        further = [model.predict(structures) for model in self.others]
        return [
            replace(own, force_spread=force_spread([own, *theirs]))
            for own, *theirs in zip(first, *further, strict=True)
        ]


def force_spread(members: Sequence[Prediction]) -> np.ndarray:
    """[n_atoms] eV/Å: root of the mean squared distance of the members' forces on an atom from their mean."""
    forces = np.array([member.forces for member in members])
    return np.asarray(np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)))
