"""Stationary points that verification is measured on: true saddles, and traps that look like saddles to a search.

They are found by steps along the eigenvectors of whole Hessians, with code of its own: what is to be tested has no part
in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.build import fcc111
from ase.constraints import FixAtoms

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.geometry.cell import Floats
from rlpath_core.paths.options import VerifyOptions
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.hops import copper_on_copper, gold_on_aluminium
from rlpath_core.testing.potentials import LennardJonesModel, MuellerBrownModel, lj_cluster, mueller_brown

TIGHT = 1e-3
"""eV/Å: the largest force of a case's structure."""
MB_SADDLES = ((-0.8220, 0.6243), (0.2125, 0.2930))
MB_MINIMA = ((-0.5582, 1.4417), (-0.0500, 0.4667), (0.6235, 0.0280))


@dataclass(frozen=True)
class Case:
    """A structure that a search may end in, and what verification should say of it.

    Attributes
    ----------
    name
        Of the case.
    model, structure
        Its forces are small there.
    rejection
        The right reason; None for a true saddle.
    options
        Of verification.
    """

    name: str
    model: Model
    structure: Structure
    rejection: str | None = None
    options: VerifyOptions = field(default_factory=VerifyOptions)


class RingModel(Model):
    """The last atom on a ring of 1.5 Å around the first: its one minimum is also what lies on both sides of its saddle.

    E = 20 (r - 1.5)² + 10 z² - 0.2 cos(angle) eV.
    """

    backend = "ring"
    has_embeddings = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256(b"ring").hexdigest()
        self.elements = frozenset(range(1, 119))
        self.device = "cpu"

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        x, y, z = np.array([one.positions[-1] - one.positions[0] for one in structures]).T
        r = np.hypot(x, y)
        energies = 20 * (r - 1.5) ** 2 + 10 * z**2 - 0.2 * x / r
        radial = 40 * (r - 1.5)
        slope = np.array([radial * x / r - 0.2 * y**2 / r**3, radial * y / r + 0.2 * x * y / r**3, 20 * z]).T
        return [_on_the_last(one, *at) for one, at in zip(structures, zip(energies, slope, strict=True), strict=True)]


class EscapeModel(Model):
    """The last atom above a surface at z = 0, bound by 1 eV at 1.9 Å; beyond a hill at 3.2 Å it leaves for ever.

    E = (1 - exp(-1.5 (z - 1.9)))² - 1 + exp(-((z - 3.2) / 0.8)²) + (x² + y²) eV.
    """

    backend = "escape"
    has_embeddings = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256(b"escape").hexdigest()
        self.elements = frozenset(range(1, 119))
        self.device = "cpu"

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        x, y, z = np.array([one.positions[-1] for one in structures]).T
        wave, hill = np.exp(-1.5 * (z - 1.9)), np.exp(-(((z - 3.2) / 0.8) ** 2))
        energies = (1 - wave) ** 2 - 1 + hill + x**2 + y**2
        slope = np.array([2 * x, 2 * y, 3 * wave * (1 - wave) - 2 * (z - 3.2) / 0.64 * hill]).T
        return [_on_the_last(one, *at) for one, at in zip(structures, zip(energies, slope, strict=True), strict=True)]


def _on_the_last(structure: Structure, energy: float, slope: Floats) -> Prediction:
    forces = np.zeros((len(structure), 3))
    forces[-1] = -slope
    return Prediction(float(energy), forces)


def stationary_point(
    model: Model, structure: Structure, order: int, fmax: float = TIGHT, steps: int = 60
) -> Structure | None:
    """Follow the ``order`` lowest modes uphill and all others downhill, with a new Hessian at every step.

    Parameters
    ----------
    model : Model
    structure : Structure
        Where it begins; atoms that are fixed stay.
    order : int
        0 for a minimum, 1 for a saddle, 2 for one of second order.
    fmax : float
        eV/Å.
    steps : int
        At most.

    Returns
    -------
    Structure or None
        With exactly ``order`` negative curvatures; None if none was reached.
    """
    free = np.flatnonzero(~structure.fixed)
    h = 1e-3
    for _ in range(steps):
        moves = np.zeros((2 * 3 * len(free) + 1, len(structure), 3))
        for k in range(3 * len(free)):
            moves[2 * k + 1, free[k // 3], k % 3] = h
            moves[2 * k + 2, free[k // 3], k % 3] = -h
        forces = [one.forces for one in model.predict([structure.moved(structure.positions + m) for m in moves])]
        gradient = -np.array(forces)[:, free].reshape(len(moves), -1)
        hessian = (gradient[1::2] - gradient[2::2]) / (2 * h)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        along = vectors.T @ gradient[0]
        if np.linalg.norm(gradient[0].reshape(-1, 3), axis=1).max() < fmax:
            return structure if (values < -0.05).sum() == order else None
        # no force along them: rigid motions of a cluster
        stiff = np.maximum(np.abs(values), 0.05) + np.abs(along) / 0.3
        uphill = np.argsort(np.where(np.abs(values) < 1e-3 * np.abs(values).max(), np.inf, values))[:order]
        stiff[uphill] *= -1
        step = (-vectors @ (along / stiff)).reshape(-1, 3)
        step *= min(1.0, 0.15 / np.linalg.norm(step, axis=1).max())
        positions = structure.positions.copy()
        positions[free] += step
        structure = structure.moved(positions)
    return None


def lj7(order: int, starts: int, seed: int = 0) -> list[Structure]:
    """Stationary points of seven Lennard-Jones atoms with distinct energies, from random starts; none in pieces."""
    model, cluster, rng = LennardJonesModel(), lj_cluster(7), np.random.default_rng(seed)
    found: dict[float, Structure] = {}
    for _ in range(starts):
        start = cluster.moved(cluster.positions + rng.normal(scale=rng.uniform(0.1, 0.35), size=(7, 3)))
        point = stationary_point(model, start, order)
        if point is None or np.ptp(point.positions, axis=0).max() > 5:
            continue
        found.setdefault(round(model.predict([point])[0].energy, 3), point)
    return [found[energy] for energy in sorted(found)]


def nitrogen(fractions: Sequence[float]) -> Structure:
    """Nitrogen atoms on a frozen Cu(111) slab, each this far on the way from an fcc hollow to the hcp one beside it."""
    slab = fcc111("Cu", (3, 3, 3), vacuum=10.0)
    slab.pbc = True
    a, b = slab.cell.array[:2] / 3
    top = slab.positions[slab.get_tags() == 1][0] + [0, 0, 1.2]
    cells = (0 * a, 2 * a + b)
    spots = [top + cell + (1 + f) * (a + b) / 3 for f, cell in zip(fractions, cells, strict=False)]
    atoms = slab + Atoms(["N"] * len(spots), spots)
    atoms.set_constraint(FixAtoms(range(len(slab))))
    atoms.set_tags([0] * len(slab) + [2] * len(spots))
    return Structure.from_ase(atoms)


def _certain(point: Structure | None) -> Structure:
    assert point is not None, "the search for a test's stationary point failed"
    return point


def _half_way(ends: tuple[Structure, Structure], up: float) -> Structure:
    positions = (ends[0].positions + ends[1].positions) / 2
    positions[-1, 2] += up
    return ends[0].moved(positions)


def _ring(x: float) -> Structure:
    return Structure(np.array([29, 29]), np.array([[0.0, 0.0, 0.0], [x, 0.0, 0.0]]), fixed=np.array([True, False]))


def _escape(z: float) -> Structure:
    slab = fcc111("Cu", (3, 3, 2), vacuum=8.0)
    slab.positions -= slab.positions[slab.get_tags() == 1][0]
    slab.pbc = (True, True, False)
    slab.set_tags(0)
    atoms = slab + Atoms("O", [[0, 0, z]])
    atoms.set_tags([0] * len(slab) + [2])
    atoms.set_constraint(FixAtoms(range(len(slab))))
    return Structure.from_ase(atoms)


def true_saddles(lj_starts: int = 12, metals: bool = True) -> Iterator[Case]:
    """Saddles of first order between two minima, which verification must keep.

    Parameters
    ----------
    lj_starts : int
        Random starts of the search for saddles of LJ7; they have at least eleven.
    metals : bool
        With hops of metal atoms, which take some seconds to find.
    """
    emt, lennard_jones = EMTModel(), LennardJonesModel()
    for k, place in enumerate(MB_SADDLES):
        model = MuellerBrownModel(scale=0.01)
        yield Case(f"Müller-Brown {k + 1}", model, _certain(stationary_point(model, mueller_brown(*place), 1)))
    for k, saddle in enumerate(lj7(1, lj_starts)):
        yield Case(f"LJ7 saddle {k + 1}", lennard_jones, saddle)
    if metals:
        yield Case("Au on Al(100)", emt, _certain(stationary_point(emt, _half_way(gold_on_aluminium(), 0.3), 1)))
        copper = copper_on_copper((2, 2, 3), 1)
        yield Case("Cu on Cu(111)", emt, _certain(stationary_point(emt, _half_way(copper, 0.1), 1)))
    yield Case("N on Cu(111)", emt, _certain(stationary_point(emt, nitrogen([0.5]), 1)))
    yield Case("N beside N on Cu(111)", emt, _certain(stationary_point(emt, nitrogen([0.5, 0.0]), 1)))


def traps(lj_starts: int = 12) -> Iterator[Case]:
    """What verification must reject, each for its own reason: N2/Cu(111) is where ASE's climbing image converges.

    Parameters
    ----------
    lj_starts : int
        Random starts of the search for minima, and for saddles of second order, of LJ7.
    """
    emt, lennard_jones = EMTModel(), LennardJonesModel()
    both = _certain(stationary_point(emt, nitrogen([0.5, 0.5]), 2))
    yield Case("two N hop at once on Cu(111)", emt, both, "second_order")
    for k, point in enumerate(lj7(2, lj_starts)):
        yield Case(f"LJ7 second order {k + 1}", lennard_jones, point, "second_order")
    for k, point in enumerate(lj7(0, lj_starts)):
        yield Case(f"LJ7 minimum {k + 1}", lennard_jones, point, "minimum")
    for k, place in enumerate(MB_MINIMA):
        model = MuellerBrownModel(scale=0.01)
        point = _certain(stationary_point(model, mueller_brown(*place), 0))
        yield Case(f"Müller-Brown minimum {k + 1}", model, point, "minimum")
    yield Case("Au on Al(100), a hollow", emt, gold_on_aluminium()[0], "minimum")
    seven = lj_cluster(7)
    alone = seven.positions.copy()
    alone[0] += [6.0, 0.0, 0.0] if seven.positions[0, 0] > 0 else [-6.0, 0.0, 0.0]
    apart = stationary_point(lennard_jones, seven.moved(alone), 0, fmax=9e-3)
    yield Case("LJ7, an atom far away", lennard_jones, _certain(apart), "minimum")
    ring, escape = RingModel(), EscapeModel()
    yield Case("a ring with one minimum", ring, _certain(stationary_point(ring, _ring(-1.5), 1)), "disconnected")
    yield Case("an atom that leaves", escape, _certain(stationary_point(escape, _escape(3.3), 1)), "desorbed")
    high = MuellerBrownModel(scale=0.1)
    saddle = _certain(stationary_point(high, mueller_brown(*MB_SADDLES[0]), 1))
    yield Case("Müller-Brown, 10.6 eV", high, saddle, "barrier")
    shaken = both.positions + np.random.default_rng(0).normal(scale=0.3, size=both.positions.shape)
    shaken[both.fixed] = both.positions[both.fixed]
    yield Case("a structure on the way", emt, both.moved(shaken), "not_converged")
