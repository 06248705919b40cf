"""The energy along a curve through the images of a path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicHermiteSpline, CubicSpline

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.structure import Structure

POINTS = 200
"""Points per image at which the curve is looked at."""
NEAR = 0.05
"""Of the distance between two images: the highest point is the image itself if it is this near."""


class Profile:
    """A cubic spline through the images, and a cubic one of the energy whose slopes are those of the forces.

    Parameters
    ----------
    path : sequence of Structure
        The ends among them; the straight line between two is the shortest.
    predictions : sequence of Prediction
    movable : ndarray of bool, shape (n_atoms,)

    Attributes
    ----------
    length : ndarray, shape (n_images,)
        Where each image lies on the curve, Å.
    spacing : float
        Mean distance between two images, Å.
    """

    def __init__(self, path: Sequence[Structure], predictions: Sequence[Prediction], movable: Mask) -> None:
        self.path, self.movable = path, movable
        positions = np.array([structure.positions for structure in path])
        forces = np.array([prediction.forces for prediction in predictions])
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=(1, 2))
        self.length = np.concatenate(([0.0], np.cumsum(np.maximum(steps, 1e-9))))
        self.spacing = float(self.length[-1] / (len(path) - 1))
        self.curve = CubicSpline(self.length, positions)
        slopes = -(forces * self.curve(self.length, 1))[:, movable].sum(axis=(1, 2))
        self.energy = CubicHermiteSpline(self.length, [prediction.energy for prediction in predictions], slopes)

    def direction(self, image: int) -> Floats:
        """The curve's direction at an image, [n_atoms, 3], norm 1, zero on held atoms."""
        return self._direction(float(self.length[image]))

    def highest(self) -> tuple[Structure, Floats] | None:
        """The highest maximum between the ends, and the curve's direction there; None if the energy has none."""
        grid = np.linspace(0, self.length[-1], POINTS * (len(self.path) - 1) + 1)
        energy = self.energy(grid)
        maxima = 1 + np.flatnonzero((energy[1:-1] > energy[:-2]) & (energy[1:-1] >= energy[2:]))
        if not len(maxima):
            return None
        at = float(grid[maxima[int(np.argmax(energy[maxima]))]])
        image = int(np.argmin(np.abs(self.length - at)))
        if 0 < image < len(self.path) - 1 and abs(self.length[image] - at) < NEAR * self.spacing:
            return self.path[image], self.direction(image)
        return self._structure(at), self._direction(at)

    def middles(self) -> list[Structure]:
        """The structures half way between each two images."""
        return [self._structure(float(at)) for at in (self.length[1:] + self.length[:-1]) / 2]

    def _structure(self, at: float) -> Structure:
        return self.path[0].moved(np.where(self.movable[:, None], self.curve(at), self.path[0].positions))

    def _direction(self, at: float) -> Floats:
        along = self.curve(at, 1) * self.movable[:, None]
        return np.asarray(along / np.linalg.norm(along))
