"""Rotation matrices and random directions."""

from __future__ import annotations

import numpy as np

from rlpath_core.geometry.cell import Floats


def rotation_matrix(axis: Floats, degrees: float) -> Floats:
    """Rotation about ``axis`` (shape (3,), any length): shape (3, 3), to apply as ``vectors @ matrix.T``."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()


def random_direction(rng: np.random.Generator) -> Floats:
    """A unit vector, shape (3,), uniform on the sphere."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)
