"""Images between two structures, without atoms that fly through each other."""

from __future__ import annotations

from typing import Literal

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.optimize import minimize

from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.neighbours import neighbours, periodic_vectors
from rlpath_core.structure import Structure

Ints = NDArray[np.int64]

REACH = 2.0
"""Atoms that come nearer than this multiple of the sum of their covalent radii keep their distance."""
OVERLAP = 0.7
"""Atoms that a straight line brings nearer than this multiple of the distance meant for them pass side by side."""
ITERATIONS = 200
SAMPLED = 9
"""Points of the straight line at which near atoms are looked for."""


def interpolate(
    initial: Structure,
    final: Structure,
    n_images: int,
    method: Literal["idpp", "linear"] = "idpp",
    movable: Mask | None = None,
) -> tuple[Structure, ...]:
    """Images of a path between two structures, which ``matched`` has made comparable.

    ``idpp`` bends the straight line until the distances between near atoms, periodic images among them, change evenly
    from one end to the other: the image-dependent pair potential of Smidstrup et al.
    (doi:10.1063/1.4878664), without springs, for pairs that come near each other somewhere on the way. Atoms that would
    meet are led past each other.

    Parameters
    ----------
    initial, final : Structure
        The straight line between them is the motion: no periodic images are taken.
    n_images : int
        Images between the two.
    method : {"idpp", "linear"}
    movable : ndarray of bool, shape (n_atoms,), optional
        All other atoms stay on the straight line. By default those that are not fixed.

    Returns
    -------
    tuple of Structure
        ``n_images + 2`` structures, both ends included.
    """
    movable = ~initial.fixed if movable is None else np.asarray(movable, bool)
    begin, end = initial.positions, final.positions
    share = np.linspace(0, 1, n_images + 2)[1:-1, None, None]
    images = begin + share * (end - begin)
    if method == "idpp" and n_images and movable.any():
        images = _evened(initial, final, images, share, movable)
    return (initial, *(initial.moved(image) for image in images), final)


def _evened(initial: Structure, final: Structure, images: Floats, share: Floats, movable: Mask) -> Floats:
    i, j, offset = _near_pairs(initial, final, movable)
    if not len(i):
        return images
    ends = [np.linalg.norm(x[j] + offset - x[i], axis=1) for x in (initial.positions, final.positions)]
    target = ends[0] + share[:, :, 0] * (ends[1] - ends[0])
    images = _side_by_side(images, target, i, j, offset, movable)
    rows = np.flatnonzero(movable)

    def value(x: Floats) -> tuple[float, Floats]:
        images[:, rows] = x.reshape(len(images), len(rows), 3)
        vector = images[:, j] + offset - images[:, i]
        d = np.maximum(np.linalg.norm(vector, axis=2), 1e-3)
        off = d - target
        slope = off / d**4 - 2 * off**2 / d**5
        pull = (slope / d)[:, :, None] * vector
        gradient = np.zeros_like(images)
        for k, each in enumerate(pull):
            np.add.at(gradient[k], j, each)
            np.add.at(gradient[k], i, -each)
        return float(0.5 * (off**2 / d**4).sum()), gradient[:, rows].ravel()

    found = minimize(value, images[:, rows].ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    images[:, rows] = found.x.reshape(len(images), len(rows), 3)
    return images


def _near_pairs(initial: Structure, final: Structure, movable: Mask) -> tuple[Ints, Ints, Floats]:
    """Pairs of atoms, one of them movable, that are near on the straight line, and the offset (Å) of the second."""
    radii = REACH * covalent_radii[initial.numbers]
    found = []
    for share in np.linspace(0, 1, SAMPLED):
        between = initial.moved(initial.positions + share * (final.positions - initial.positions))
        i, j, cell = neighbours(between, "ijS", radii)
        keep = (i < j) & (movable[i] | movable[j])
        found.append(np.column_stack((i, j, cell))[keep])
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1], (pairs[:, 2:] * initial.pbc) @ periodic_vectors(initial)


def _side_by_side(images: Floats, target: Floats, i: Ints, j: Ints, offset: Floats, movable: Mask) -> Floats:
    """Push pairs that nearly coincide apart, at right angles to how they move relative to each other."""
    images = images.copy()
    vector = images[:, j] + offset - images[:, i]
    close = np.linalg.norm(vector, axis=2) < OVERLAP * target
    for image, pair in np.argwhere(close):
        one, other = int(i[pair]), int(j[pair])
        along = images[-1, other] - images[0, other] - images[-1, one] + images[0, one]
        if len(images) == 1 or np.linalg.norm(along) < 1e-6:
            along = vector[image, pair]
        axis = np.eye(3)[int(np.argmin(np.abs(along)))]
        aside = np.cross(along, axis)
        if np.linalg.norm(aside) < 1e-9:
            aside = axis
        aside *= 0.25 * target[image, pair] / np.linalg.norm(aside)
        images[image, other] += aside * movable[other]
        images[image, one] -= aside * movable[one]
    return images
