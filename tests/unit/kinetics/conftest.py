"""A network of three minima on a made-up surface."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.structure import Structure


@pytest.fixture
def network() -> ReactionNetwork:
    """B001 - B002 by two saddles, B002 - B003, and a hop of B001 to its own copy without frequencies."""
    rng = np.random.default_rng(0)

    def structure() -> Structure:
        cell, pbc = np.diag([5.0, 6.0, 20.0]), [True, True, False]
        return Structure([12, 8, 1], rng.normal(size=(3, 3)), cell, pbc, [0, 2, 2], [True, False, False])

    def vibrations(*imaginary: float) -> np.ndarray:
        return np.array([*imaginary, *np.sort(rng.uniform(60, 3000, 6 - len(imaginary)))])

    def saddle(name: str, energy: float, start: str, end: str, *rest: object, **values: object) -> Saddle:
        mode = rng.normal(size=(3, 3))
        return Saddle(name, structure(), energy, mode / np.linalg.norm(mode), start, end, *rest, **values)  # type: ignore[arg-type]

    minima = [Minimum(f"B{k + 1:03d}", structure(), np.float64(-3 + k / 7), vibrations()) for k in range(3)]
    return ReactionNetwork(
        tuple(minima),
        (
            saddle("TS001", -2.4, "B001", "B002", vibrations(-310.5), 2, 1, "rate_ready", evidence={"fmax": 0.003}),
            saddle("TS002", -2.1, "B002", "B001", vibrations(-95.25), 2, 4, "reference_confirmed"),
            saddle("TS003", -2.2, "B002", "B003", vibrations(-1200.0), 1, 1, "rate_ready"),
            saddle("TS004", -2.9, "B001", "B001"),
        ),
        "toy potential",
    )
