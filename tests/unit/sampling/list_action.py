"""An action that evaluates lists, of structures with other atoms too, and embeddings."""

from __future__ import annotations

import numpy as np

from rlpath_core.sampling.actions import Action, ActionContext, Move
from rlpath_core.structure import Structure


class BestOfThree(Action):
    """Three random displacements and the adsorbate alone in one list, then the best one again with its embeddings."""

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        movable, adsorbate = context.roles.movable[:, None], context.roles.adsorbate
        shifts = movable * context.rng.normal(0.0, 0.15, (3, len(structure), 3))
        displaced = [structure.moved(structure.positions + shift) for shift in shifts]
        alone = Structure(structure.numbers[adsorbate], structure.positions[adsorbate], structure.cell, structure.pbc)
        *energies, alone_energy = [one.energy for one in context.evaluate([*displaced, alone])]
        best = int(np.argmin(energies))
        (embedded,) = context.evaluate([displaced[best]], embeddings=True)
        assert embedded.node_embedding is not None
        assert embedded.graph_embedding is not None
        turn = 0.02 * np.sin(embedded.node_embedding + embedded.graph_embedding) * movable
        return Move(displaced[best].positions + turn, {"best": best, "bound": energies[best] - alone_energy})
