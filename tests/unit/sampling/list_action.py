"""An action that evaluates lists, of structures with other atoms too, and embeddings; and a model that has some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlpath_core.sampling.actions import Action, Move, Setting
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel


class BestOfThree(Action):
    """Three random displacements and the adsorbate alone in one list, then the best one again with its embeddings."""

    def apply(self, structure: Structure, setting: Setting) -> Move | None:
        movable, adsorbate = setting.roles.movable[:, None], setting.roles.adsorbate
        shifts = movable * setting.rng.normal(0.0, 0.15, (3, len(structure), 3))
        displaced = [structure.moved(structure.positions + shift) for shift in shifts]
        alone = Structure(structure.numbers[adsorbate], structure.positions[adsorbate], structure.cell, structure.pbc)
        *energies, alone_energy = [one.energy for one in setting.evaluate([*displaced, alone])]
        best = int(np.argmin(energies))
        (embedded,) = setting.evaluate([displaced[best]], embeddings=True)
        assert embedded.node_embedding is not None
        assert embedded.graph_embedding is not None
        turn = 0.02 * np.sin(embedded.node_embedding + embedded.graph_embedding) * movable
        return Move(displaced[best].positions + turn, {"best": best, "bound": energies[best] - alone_energy})


class EmbeddingEMT(EMTModel):
    """EMT with the distances from the centre as embeddings."""

    def predict(self, structures, *, forces=True, embeddings=False):
        out = super().predict(structures, forces=forces)
        if not embeddings:
            return out
        off = [structure.positions - structure.positions.mean(axis=0) for structure in structures]
        return [
            replace(one, node_embedding=shift, graph_embedding=shift.std(axis=0))
            for one, shift in zip(out, off, strict=True)
        ]
