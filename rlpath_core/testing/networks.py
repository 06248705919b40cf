"""Networks small enough for a test."""

from __future__ import annotations

from typing import Any

from rlpath_core.backends.mace.architecture import Architecture, Interaction, Product, ScaleShift


def small_mace(**changes: Any) -> Architecture:
    """Two layers for H, O and Mg, less what ``changes`` says."""
    known: dict[str, Any] = {
        "z_table": [1, 8, 12],
        "e0_values": [-10.7, -120.3, -20.1],
        "cutoff": 4.5,
        "hidden_irreps": "8x0e+8x1o",
        "max_ell": 2,
        "avg_num_neighbors": 12.0,
        "interactions": [
            Interaction(type="RealAgnosticInteractionBlock", radial_mlp=[16]),
            Interaction(radial_mlp=[16]),
        ],
        "products": [Product(correlation=2)] * 2,
        "scale_shift": ScaleShift(scale=1.3, shift=-0.4),
    }
    return Architecture(**{**known, **changes})
