"""Rotation matrices and random directions."""

from __future__ import annotations

import numpy as np

from rlpath_core.geometry.cell import Floats


def rotation(axis: Floats, degrees: float) -> Floats:
    """Rotation matrix [3, 3]; apply as ``vectors @ matrix.T``."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()


def direction(rng: np.random.Generator) -> Floats:
    """A unit vector [3], uniform on the sphere."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)
