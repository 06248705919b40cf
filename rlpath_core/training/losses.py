"""What training minimises: a weighted sum of an energy error per atom and a force error per component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rlpath_core.registry import Registry

PointLoss = Callable[[torch.Tensor, float], torch.Tensor]
"""From errors and a scale (where Huber turns) to a loss of the same shape."""

POINT_LOSSES: Registry[PointLoss] = Registry("loss")


@POINT_LOSSES.register("mse")
def squared(error: torch.Tensor, delta: float) -> torch.Tensor:
    return error.square()


@POINT_LOSSES.register("mae")
def absolute(error: torch.Tensor, delta: float) -> torch.Tensor:
    return error.abs()


@POINT_LOSSES.register("huber")
def huber(error: torch.Tensor, delta: float) -> torch.Tensor:
    """Squared within ``delta``, a line beyond it; equal to the square where small (doi:10.1214/aoms/1177703732)."""
    size = error.abs()
    return torch.where(size <= delta, error.square(), delta * (2 * size - delta))


@dataclass(frozen=True)
class EnergyForceLoss:
    """Sums over a micro-batch divided by the counts of its whole update, so that accumulation changes nothing.

    energy_weight  of the loss of energy errors, eV/atom or eV
    force_weight   of the loss of force components, eV/Å
    """

    energy_weight: float
    force_weight: float
    energy_loss: PointLoss
    force_loss: PointLoss
    delta: float
    per_atom: bool = True
    """Energy errors in eV/atom; otherwise in eV per configuration."""

    def __call__(
        self, energy: torch.Tensor, forces: torch.Tensor | None, target: dict[str, Any], n_graphs: int, n_atoms: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Total, energy part and force part (both before their weights). What the target lacks adds nothing.

        energy   [n_graphs in the micro-batch], eV, without the free atoms
        forces   [n_atoms in the micro-batch, 3], eV/Å
        n_graphs, n_atoms  of the update that the micro-batch belongs to
        """
        energy_part = force_part = energy.new_zeros(())
        if "energy" in target:
            error = energy - target["energy"]
            if self.per_atom:
                error = error / target["n_atoms"]
            energy_part = self.energy_loss(error, self.delta).sum() / n_graphs
        if forces is not None and "forces" in target:
            force_part = self.force_loss(forces - target["forces"], self.delta).sum() / (3 * n_atoms)
        return self.energy_weight * energy_part + self.force_weight * force_part, energy_part, force_part
