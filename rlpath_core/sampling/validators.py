"""Validators: limits that a displaced structure must keep, the gate on the model's forces last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from ase.data import covalent_radii

from rlpath_core.backends.base import Prediction
from rlpath_core.config import Section
from rlpath_core.geometry.bonds import Bonds, bonds, sum_radii
from rlpath_core.geometry.cell import displacements, wrap_vectors
from rlpath_core.geometry.environment import movable_environment
from rlpath_core.geometry.fragments import fragments
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.geometry.roles import Roles
from rlpath_core.registry import Registry
from rlpath_core.sampling.options import (
    BondOptions,
    DetachedOptions,
    FixedOptions,
    MinDistOptions,
    QualityOptions,
    SlabStrainOptions,
)
from rlpath_core.structure import Structure

SHELL_REACH = 5.0
"""No atom of a solid is further than this (Å) from its nearest neighbour."""
SHELL = 1.2
"""Neighbours up to this factor times the nearest one's distance count as nearest neighbours."""


@dataclass(frozen=True)
class Displacement:
    """What a validator may look at. ``prediction`` is None if the model was not asked yet."""

    start: Structure
    structure: Structure
    roles: Roles
    action: str
    prediction: Prediction | None = None

    @property
    def magnitude(self) -> float:
        """Largest displacement of an atom, Å."""
        return float(np.linalg.norm(displacements(self.structure, self.start), axis=1).max())

    @property
    def force_norms(self) -> np.ndarray:
        """Norms of the movable atoms' forces, eV/Å, largest first. Forces on fixed atoms are left out."""
        assert self.prediction is not None
        assert self.prediction.forces is not None
        return np.sort(np.linalg.norm(self.prediction.forces[self.roles.movable], axis=1))[::-1]


@dataclass(frozen=True)
class Rejection:
    """The limit that was broken: ``reason`` is ``validator:what``, ``figure`` the value that broke ``limit``."""

    reason: str
    figure: float
    limit: float


class Validator(ABC):
    """``stage`` "before" needs the geometry only, and relaxed structures must pass it too; "after" needs forces."""

    Options: ClassVar[type[Section]] = Section
    stage: ClassVar[Literal["before", "after"]] = "before"

    def __init__(self, options: Any) -> None:
        self.options = options

    @abstractmethod
    def check(self, displacement: Displacement) -> Rejection | None: ...


VALIDATORS: Registry[type[Validator]] = Registry("validator", "rlpath.validators")


@VALIDATORS.register("min_dist")
class MinDist(Validator):
    """Atoms that are too near. A pair that is as near in the start is not the action's fault."""

    Options = MinDistOptions

    def check(self, displacement: Displacement) -> Rejection | None:
        worst = self._worst(displacement.structure, displacement.roles)
        if worst is None or worst[0] >= 1:
            return None
        before = self._worst(displacement.start, displacement.roles)
        if before is not None and worst[0] >= before[0] - 1e-6:
            return None
        return Rejection("min_dist:too_near", worst[1], worst[2])

    def _worst(self, structure: Structure, roles: Roles) -> tuple[float, float, float] | None:
        """The smallest ratio of distance and limit, with both; None if no pair is near."""
        largest = 2 * self.options.min_factor * float(covalent_radii[structure.numbers].max())
        environment = movable_environment(roles, max(largest, self.options.hard_min))
        i, j, d = environment.pairs(structure)
        if len(d) == 0:
            return None
        i = environment.rows[i]
        limit = np.maximum(self.options.min_factor * sum_radii(structure, i, j), self.options.hard_min)
        k = int((d / limit).argmin())
        return float(d[k] / limit[k]), float(d[k]), float(limit[k])


@VALIDATORS.register("fixed")
class FixedAtoms(Validator):
    """Fixed atoms have not moved."""

    Options = FixedOptions

    def check(self, displacement: Displacement) -> Rejection | None:
        core = ~displacement.roles.movable
        if not core.any():
            return None
        moved = float(np.linalg.norm(displacements(displacement.structure, displacement.start)[core], axis=1).max())
        return Rejection("fixed:moved", moved, self.options.tol) if moved > self.options.tol else None


@VALIDATORS.register("bond")
class Bond(Validator):
    """The bonds of the start within the adsorbate are not torn."""

    Options = BondOptions

    def check(self, displacement: Displacement) -> Rejection | None:
        bonded = bonds(displacement.start).within(displacement.roles.active)
        if len(bonded.i) == 0:
            return None
        moved = displacements(displacement.structure, displacement.start)
        length = np.linalg.norm(bonded.vector + moved[bonded.j] - moved[bonded.i], axis=1)
        limit = self.options.max_factor * sum_radii(displacement.start, bonded.i, bonded.j)
        k = int((length / limit).argmax())
        return Rejection("bond:torn", float(length[k]), float(limit[k])) if length[k] > limit[k] else None


@VALIDATORS.register("detached")
class Detached(Validator):
    """No fragment of the adsorbate has left the surface. A molecule without a surface always passes."""

    Options = DetachedOptions

    def check(self, displacement: Displacement) -> Rejection | None:
        roles, structure = displacement.roles, displacement.structure
        if roles.normal is None or not roles.adsorbate.any():
            return None
        limit = self.options.max_distance
        if _within(structure, roles, limit):
            return None
        i, j, d, vector = neighbours(structure, "ijdD", 2 * limit)
        slab = np.ones(len(structure), bool)
        slab[roles.adsorbate] = False
        nearest = np.full(len(structure), 2 * limit)
        # only atoms below, seen from the adsorbate's side: across a thin vacuum, the next image of the slab may be near
        pair = roles.adsorbate[i] & slab[j] & (vector @ roles.normal * roles.sides[i] < 0)
        np.minimum.at(nearest, i[pair], d[pair])
        for piece in fragments(structure, roles.adsorbate):
            if nearest[piece].min() > limit:
                return Rejection("detached:off_surface", float(nearest[piece].min()), limit)
        return None


def _within(structure: Structure, roles: Roles, limit: float) -> bool:
    """Whether every adsorbate atom has a slab atom below it within ``limit``, considering one image of each.

    A cheap test that is enough for nearly all structures. If it fails, another image may still be near.
    """
    assert roles.normal is not None
    vector = structure.positions[~roles.adsorbate] - structure.positions[roles.adsorbate][:, None]
    vector = wrap_vectors(vector, roles.given)
    below = vector @ roles.normal * roles.sides[roles.adsorbate][:, None] < 0
    near = (np.einsum("asx,asx->as", vector, vector) <= limit**2) & below
    return bool(near.any(axis=1).all())


@VALIDATORS.register("slab_strain")
class SlabStrain(Validator):
    """The slab is still the given one: no length between nearest neighbours has changed too much.

    Compared with the given structure and not with the attempt's start, so that a slab cannot creep apart over a walk.
    """

    Options = SlabStrainOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.lengths: dict[str, Bonds] = {}

    def check(self, displacement: Displacement) -> Rejection | None:
        roles = displacement.roles
        if roles.normal is None:
            return None
        if roles.given.id not in self.lengths:
            self.lengths[roles.given.id] = self._lengths(roles)
        pairs = self.lengths[roles.given.id]
        if len(pairs.i) == 0:
            return None
        moved = displacements(displacement.structure, roles.given)
        before = np.linalg.norm(pairs.vector, axis=1)
        strain = np.abs(np.linalg.norm(pairs.vector + moved[pairs.j] - moved[pairs.i], axis=1) / before - 1)
        worst = float(strain.max())
        return (
            Rejection("slab_strain:strained", worst, self.options.max_strain)
            if worst > self.options.max_strain
            else None
        )

    @staticmethod
    def _lengths(roles: Roles) -> Bonds:
        """Pairs of slab atoms that are nearest neighbours in the given structure, of which one can move."""
        slab = ~roles.adsorbate
        i, j, d, vector = neighbours(roles.given, "ijdD", SHELL_REACH)
        within = slab[i] & slab[j]
        nearest = np.full(len(slab), np.inf)
        np.minimum.at(nearest, i[within], d[within])
        keep = within & (d <= SHELL * nearest[i]) & (roles.movable[i] | roles.movable[j]) & (i != j)
        return Bonds(i[keep], j[keep], vector[keep])


@VALIDATORS.register("quality")
class Quality(Validator):
    """The gate on the model's forces, and on the magnitude of the displacement, per action."""

    Options = QualityOptions
    stage = "after"

    def check(self, displacement: Displacement) -> Rejection | None:
        options = self.options
        force = float(displacement.force_norms[0])
        if options.min_force is not None and force < options.min_force:
            return Rejection("quality:min_force", force, options.min_force)
        if force / options.max_force > options.score_threshold:
            return Rejection("quality:max_force", force, options.max_force * options.score_threshold)
        if displacement.action in options.magnitude:
            lower, upper = options.magnitude[displacement.action]
            size = displacement.magnitude
            if size < lower:
                return Rejection("quality:magnitude", size, lower)
            if size / upper > options.score_threshold:
                return Rejection("quality:magnitude", size, upper * options.score_threshold)
        return None
