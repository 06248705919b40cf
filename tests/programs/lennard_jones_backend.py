"""A backend of somebody else's: Lennard-Jones, with a bundle like any other. ``BACKEND`` is its entry point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends import Model, Prediction
from rlpath_core.backends.manifest import Manifest
from rlpath_core.backends.registry import Backend, BackendEnvironment
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.structure import Structure

BACKEND = Backend(
    "lennard_jones", BackendEnvironment("lennard_jones_backend"), model="lennard_jones_backend:LennardJones"
)


class LennardJones(Model):
    backend, has_embeddings, implementation = "lennard_jones", False, "matscipy pairs"

    def __init__(self, path: Path, manifest: Manifest, device: str) -> None:
        self.digest, self.reference, self.device = sha256_of(path), str(path.absolute()), device
        self.elements = frozenset(manifest.config["elements"])
        self.weights_sha256 = manifest.weights.sha256
        self.sigma, self.epsilon, self.cutoff = np.loadtxt(path.parent / manifest.weights.path)

    @classmethod
    def load(cls, path: Path, manifest: Manifest, *, device: str = "cpu", **others: Any) -> LennardJones:
        return cls(path, manifest, "cpu" if device == "auto" else device)

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if embeddings:
            raise InputError("Lennard-Jones has no embeddings")
        return [self._one(structure, forces) for structure in structures]

    def _one(self, structure: Structure, forces: bool) -> Prediction:
        self.check_elements(structure)
        i, d, vector = neighbours(structure, "idD", self.cutoff)
        attraction = (self.sigma / d) ** 6
        shift = (self.sigma / self.cutoff) ** 12 - (self.sigma / self.cutoff) ** 6
        energy = float(2 * self.epsilon * (attraction**2 - attraction - shift).sum())
        pull = 24 * self.epsilon * (attraction - 2 * attraction**2) / d**2
        out = np.zeros_like(structure.positions)
        np.add.at(out, i, pull[:, None] * vector)
        return Prediction(energy, out if forces else None)
