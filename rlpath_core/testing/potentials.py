"""Pair potentials and the Müller-Brown surface as batched models, and the clusters that searches are compared on.

One call for a list of structures is one compiled loop (numba). Atoms that a structure holds fixed interact among
themselves as a constant, which is computed once: a call costs the pairs of atoms that can move.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import numba
import numpy as np
from ase.build import fcc111
from ase.cluster import Icosahedron, Octahedron
from numpy.typing import NDArray
from scipy.optimize import minimize

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import complete_cell
from rlpath_core.structure import Structure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled at the first call, with a cache on disk where one can be written."""
    try:
        loop: Callable[..., None] = numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:
        loop = numba.njit(error_model="numpy")(function)
    return loop


@_compiled
def _sum_pairs(
    kind: int,
    parameters: Floats,
    positions: Floats,
    cells: Floats,
    inverses: Floats,
    begins: Ints,
    n_free: Ints,
    energies: Floats,
    forces: Floats,
) -> None:
    """Adds to energies [n_structures] and forces [n_rows, 3] all pairs of which the first atom is free.

    The rows of structure k are ``begins[k]`` to ``begins[k + 1]``, the ``n_free[k]`` free atoms before the others. The
    first parameter is the square of the cutoff, the second the energy there. Kind 0 is Morse, 1 is Lennard-Jones.
    """
    cutoff, shift, p, q, r = parameters
    for k in range(len(energies)):
        cell, inverse = cells[k], inverses[k]
        square = cell[0, 1] == cell[0, 2] == cell[1, 0] == cell[1, 2] == cell[2, 0] == cell[2, 1] == 0
        total = 0.0
        for a in range(begins[k], begins[k] + n_free[k]):
            xa, ya, za = positions[a]
            fx = fy = fz = 0.0
            for b in range(a + 1, begins[k + 1]):
                x, y, z = positions[b, 0] - xa, positions[b, 1] - ya, positions[b, 2] - za
                if square:
                    x -= cell[0, 0] * np.rint(x * inverse[0, 0])
                    y -= cell[1, 1] * np.rint(y * inverse[1, 1])
                    z -= cell[2, 2] * np.rint(z * inverse[2, 2])
                else:
                    u = np.rint(x * inverse[0, 0] + y * inverse[1, 0] + z * inverse[2, 0])
                    v = np.rint(x * inverse[0, 1] + y * inverse[1, 1] + z * inverse[2, 1])
                    w = np.rint(x * inverse[0, 2] + y * inverse[1, 2] + z * inverse[2, 2])
                    x -= u * cell[0, 0] + v * cell[1, 0] + w * cell[2, 0]
                    y -= u * cell[0, 1] + v * cell[1, 1] + w * cell[2, 1]
                    z -= u * cell[0, 2] + v * cell[1, 2] + w * cell[2, 2]
                d2 = x * x + y * y + z * z
                if d2 >= cutoff:
                    continue
                if kind == 0:
                    d = np.sqrt(d2)
                    e = np.exp(q * (r - d))
                    total += p * e * (e - 2) - shift
                    slope = -2 * p * q * e * (e - 1) / d
                else:
                    i6 = q / (d2 * d2 * d2)
                    total += 4 * p * i6 * (i6 - 1) - shift
                    slope = -24 * p * i6 * (2 * i6 - 1) / d2
                x, y, z = slope * x, slope * y, slope * z
                fx += x
                fy += y
                fz += z
                forces[b, 0] -= x
                forces[b, 1] -= y
                forces[b, 2] -= z
            forces[a, 0] += fx
            forces[a, 1] += fy
            forces[a, 2] += fz
        energies[k] += total


@functools.lru_cache(maxsize=64)
def _lattice(cell: bytes, pbc: bytes) -> tuple[Floats, Floats, float]:
    """Cell, inverse (columns of open directions are zero) and the least distance of opposite periodic faces."""
    periodic = np.frombuffer(pbc, bool)
    full = complete_cell(np.frombuffer(cell).reshape(3, 3), periodic)
    inverse = np.linalg.inv(full) * periodic
    least = min(1 / np.linalg.norm(inverse[:, periodic], axis=0), default=np.inf)
    return full, inverse, float(least)


class PairModel(Model):
    """A pair potential, the same for all elements, cut and shifted to zero at ``cutoff``. No embeddings.

    Cells must be so wide that no two images of an atom are within the cutoff of another.
    """

    has_embeddings = False
    kind: int

    def __init__(self, name: str, cutoff: float, shift: float, parameters: tuple[float, float, float]) -> None:
        self.backend = name
        self.cutoff = cutoff
        self.parameters = np.array([cutoff**2, shift, *parameters])
        self.digest = hashlib.sha256(name.encode() + self.parameters.tobytes()).hexdigest()
        self.elements = frozenset(range(1, 119))
        self.device = "cpu"
        self._constants: dict[bytes, tuple[float, Floats]] = {}

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if embeddings:
            raise InputError(f"{self.backend} has no embeddings")
        if not structures:
            return []
        lattices = [_lattice(one.cell.tobytes(), one.pbc.tobytes()) for one in structures]
        if (least := min(width for _, _, width in lattices)) < 2 * self.cutoff:
            raise InputError(f"a cell {least:.4g} Å wide needs more than nearest images within {self.cutoff} Å", "cell")
        cells, inverses = np.array([one[0] for one in lattices]), np.array([one[1] for one in lattices])
        orders = [np.argsort(one.fixed, kind="stable") for one in structures]  # the free atoms first
        rows = np.concatenate([one.positions[order] for one, order in zip(structures, orders, strict=True)])
        begins = np.cumsum([0, *map(len, structures)])
        n_free = np.array([len(one) - int(one.fixed.sum()) for one in structures])
        energies, gathered = self._sum(rows, cells, inverses, begins, n_free)
        out = []
        for k, order in enumerate(orders):
            energy, inside = float(energies[k]), gathered[begins[k] : begins[k + 1]]
            if n_free[k] < len(order):
                constant, extra = self._among_fixed(rows[begins[k] : begins[k + 1]][n_free[k] :], cells[k], inverses[k])
                energy += constant
                inside[n_free[k] :] += extra
            result = np.empty_like(inside)
            result[order] = inside
            out.append(Prediction(energy, result if forces else None))
        return out

    def _sum(self, rows: Floats, cells: Floats, inverses: Floats, begins: Ints, n_free: Ints) -> tuple[Floats, Floats]:
        energies, forces = np.zeros(len(cells)), np.zeros_like(rows)
        _sum_pairs(self.kind, self.parameters, rows, cells, inverses, begins, n_free, energies, forces)
        return energies, forces

    def _among_fixed(self, rows: Floats, cell: Floats, inverse: Floats) -> tuple[float, Floats]:
        """Energy and forces of the atoms that are held, among themselves."""
        key = rows.tobytes() + cell.tobytes() + inverse.tobytes()
        if key not in self._constants:
            if len(self._constants) >= 64:
                self._constants.clear()
            n = len(rows)
            energies, forces = self._sum(rows, cell[None], inverse[None], np.array([0, n]), np.array([n]))
            self._constants[key] = float(energies[0]), forces
        return self._constants[key]


class MorseModel(PairModel):
    """V(r) = D (exp(-2 a (r - r0)) - 2 exp(-a (r - r0))), cut and shifted; the defaults are OptBench's platinum.

    Parameters
    ----------
    depth, stiffness, distance : float
        D in eV, a in 1/Å and r0 in Å.
    cutoff : float
        Å.
    """

    kind = 0

    def __init__(
        self, depth: float = 0.7102, stiffness: float = 1.6047, distance: float = 2.8970, cutoff: float = 9.5
    ) -> None:
        e = np.exp(stiffness * (distance - cutoff))
        super().__init__("morse", cutoff, float(depth * e * (e - 2)), (depth, stiffness, distance))


class LennardJonesModel(PairModel):
    """V(r) = 4 epsilon ((sigma / r)^12 - (sigma / r)^6), not cut by default: for clusters without a cell.

    Parameters
    ----------
    epsilon, sigma : float
        eV and Å; the defaults are reduced units.
    cutoff : float
        Å.
    """

    kind = 1

    def __init__(self, epsilon: float = 1.0, sigma: float = 1.0, cutoff: float = np.inf) -> None:
        i6 = (sigma / cutoff) ** 6
        super().__init__("lennard-jones", cutoff, 4 * epsilon * i6 * (i6 - 1), (epsilon, sigma**6, 0.0))


class MuellerBrownModel(Model):
    """The surface of Müller and Brown (doi:10.1007/BF00547608) for x and y of every atom; a spring holds z at zero.

    Parameters
    ----------
    scale : float
        Factor of the published energies, whose barriers are some tens of units; they count as eV.
    spring : float
        eV/Å², times ``scale``.
    """

    backend = "mueller-brown"
    has_embeddings = False

    HEIGHTS = np.array([-200.0, -100.0, -170.0, 15.0])
    XX, XY, YY = np.array([-1, -1, -6.5, 0.7]), np.array([0, 0, 11, 0.6]), np.array([-10, -10, -6.5, 0.7])
    CENTRES = np.array([[1, 0], [0, 0.5], [-0.5, 1.5], [-1, 1]])

    def __init__(self, scale: float = 1.0, spring: float = 1000.0) -> None:
        self.scale, self.spring = scale, spring
        self.digest = hashlib.sha256(f"mueller-brown {scale} {spring}".encode()).hexdigest()
        self.elements = frozenset(range(1, 119))
        self.device = "cpu"

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if embeddings:
            raise InputError(f"{self.backend} has no embeddings")
        if not structures:
            return []
        positions = np.concatenate([one.positions for one in structures])
        begins = np.cumsum([0, *map(len, structures)])
        dx, dy = (positions[:, None, k] - self.CENTRES[:, k] for k in (0, 1))
        terms = self.HEIGHTS * np.exp(self.XX * dx**2 + self.XY * dx * dy + self.YY * dy**2)
        z = positions[:, 2]
        energies = self.scale * np.add.reduceat(terms.sum(axis=1) + self.spring / 2 * z**2, begins[:-1])
        slopes = [
            (terms * (2 * self.XX * dx + self.XY * dy)).sum(axis=1),
            (terms * (self.XY * dx + 2 * self.YY * dy)).sum(axis=1),
            self.spring * z,
        ]
        all_forces = -self.scale * np.stack(slopes, axis=1)
        return [
            Prediction(float(energies[k]), all_forces[begins[k] : begins[k + 1]].copy() if forces else None)
            for k in range(len(structures))
        ]


def mueller_brown(x: float, y: float) -> Structure:
    """One hydrogen atom at (x, y, 0)."""
    return Structure(numbers=np.array([1]), positions=np.array([[x, y, 0.0]]))


def relaxed(model: Model, structure: Structure, tolerance: float = 1e-8) -> Structure:
    """Relaxed by SciPy's L-BFGS until each component of the forces is below ``tolerance`` (eV/Å), or is rounding."""
    rows = np.flatnonzero(~structure.fixed)

    def at(x: Floats) -> Structure:
        positions = structure.positions.copy()
        positions[rows] = x.reshape(-1, 3)
        return structure.moved(positions)

    def value(x: Floats) -> tuple[float, Floats]:
        (prediction,) = model.predict([at(x)])
        assert prediction.forces is not None
        return prediction.energy, -prediction.forces[rows].ravel()

    options = {"maxiter": 5000, "maxfun": 5000, "ftol": 0.0, "gtol": tolerance, "maxcor": 30}
    return at(minimize(value, structure.positions[rows].ravel(), jac=True, method="L-BFGS-B", options=options).x)


@functools.cache
def pt_heptamer(site: str = "fcc") -> Structure:
    """OptBench's island of seven atoms on Pt(111), relaxed with ``MorseModel``: 343 atoms, of which 175 move.

    Parameters
    ----------
    site : str
        The hollows that it lies on: fcc, the lowest minimum, or hcp.
    """
    distance, height = 2.74412, 2.2406
    atoms = fcc111("Pt", (7, 8, 6), a=distance * np.sqrt(2), orthogonal=True)
    layer = atoms.get_tags()
    above = atoms.positions[layer == {"hcp": 2, "fcc": 3}[site]]
    centre = above[np.argmin(np.linalg.norm((above - atoms.cell.array[:2].sum(axis=0) / 2)[:, :2], axis=1))]
    around = above[np.linalg.norm(above - centre, axis=1) < 1.1 * distance].copy()
    around[:, 2] = atoms.positions[layer == 1, 2].mean() + height
    structure = Structure(
        numbers=np.full(len(atoms) + 7, 78),
        positions=np.concatenate([atoms.positions, around]),
        cell=np.diag([19.2088, 19.0118, 30.0]),  # the digits that OptBench's file has: they count in the energy
        pbc=np.ones(3, bool),
        tags=np.array([*np.where(layer == 1, 1, 0), *[2] * 7]),
        fixed=np.array([*(layer > 3), *[False] * 7]),
    )
    return relaxed(MorseModel(), structure)


@functools.cache
def lj_cluster(n: int) -> Structure:
    """The global minimum of 7, 13 or 38 atoms, relaxed with ``LennardJonesModel`` in reduced units; no cell.

    A pentagonal bipyramid, an icosahedron and a truncated octahedron. The atoms are called fluorine, whose covalent
    radius is about half of their distance.
    """
    if n == 7:
        ring = 2 * np.pi * np.arange(5) / 5
        radius = 0.5 / np.sin(np.pi / 5)
        shape = np.array([[radius * np.cos(t), radius * np.sin(t), 0] for t in ring] + [[0, 0, 0.5], [0, 0, -0.5]])
    elif n == 13:
        shape = Icosahedron("F", 2, 1.0).positions
    elif n == 38:
        shape = Octahedron("F", 4, 1, 1.0).positions
    else:
        raise InputError(f"no construction of a cluster of {n} atoms: 7, 13 or 38")
    shape = shape - shape.mean(axis=0)
    distances = np.linalg.norm(shape[:, None] - shape, axis=2)
    shape *= 2 ** (1 / 6) / distances[distances > 1e-6].min()
    return relaxed(LennardJonesModel(), Structure(numbers=np.full(n, 9), positions=shape))
