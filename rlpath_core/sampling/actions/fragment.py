"""Actions on one fragment: translate, rotate, push or pull, twist, hop to another site."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses

from rlpath_core.geometry.bonds import BOND_FACTOR, bonds, sum_radii
from rlpath_core.geometry.fragments import bond_sides, fragments, unwrap
from rlpath_core.geometry.neighbours import pairs_within
from rlpath_core.geometry.roles import choose_fragment
from rlpath_core.geometry.rotations import random_direction, rotation_matrix
from rlpath_core.geometry.slab import heights
from rlpath_core.sampling.actions.base import ACTIONS, Action, ActionContext, Move
from rlpath_core.sampling.options import (
    DihedralTwistOptions,
    PushPullOptions,
    RigidRotateOptions,
    RigidTranslateOptions,
    SiteHopOptions,
)
from rlpath_core.structure import Structure

REACH = 4.0
"""push_pull changes distances up to this, Å."""
OFF_AXIS = 0.2
"""Rotating atoms that all lie nearer to the axis than this (Å) changes nothing: CO upright on a metal atom."""


@ACTIONS.register("rigid_translate")
class RigidTranslate(Action):
    """A fragment moves as one, in a random direction."""

    Options = RigidTranslateOptions

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        fragment = choose_fragment(structure, context.roles, context.rng)
        if fragment is None:
            return None
        step = self.between(context, self.options.min_step, self.options.max_step)
        positions = structure.positions.copy()
        positions[fragment.atoms] += step * random_direction(context.rng)
        return Move(positions, {"atoms": fragment.atoms.tolist(), "step": step})


@ACTIONS.register("rigid_rotate")
class RigidRotate(Action):
    """A fragment rotates about a random axis through its centre of mass."""

    Options = RigidRotateOptions

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        fragment = choose_fragment(structure, context.roles, context.rng, at_least=2)
        if fragment is None or fragment.endless:
            return None
        degrees = self.between(context, self.options.min_deg, self.options.max_deg)
        turn = rotation_matrix(random_direction(context.rng), degrees)
        centre = np.average(fragment.positions, axis=0, weights=atomic_masses[structure.numbers[fragment.atoms]])
        arms = fragment.positions - centre
        positions = structure.positions.copy()
        positions[fragment.atoms] += arms @ turn.T - arms
        return Move(positions, {"atoms": fragment.atoms.tolist(), "degrees": degrees})


@ACTIONS.register("push_pull")
class PushPull(Action):
    """One distance grows or shrinks.

    Within a fragment one atom is pulled away from its partner (compressing a bond gives forces that no reaction path
    has); between a fragment and anything else the whole fragment is pushed or pulled. A fixed atom never moves.
    """

    Options = PushPullOptions

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        roles, rng = context.roles, context.rng
        i, j, d, vector = pairs_within(structure, REACH)
        pairs = np.flatnonzero(roles.active[i] & (i != j))
        if len(pairs) == 0:
            return None
        bonded = d < BOND_FACTOR * sum_radii(structure, i, j)
        inside = roles.active[j] & bonded
        inner, outer = pairs[inside[pairs]], pairs[~inside[pairs]]
        # half of the draws: bonds are few among many pairs, and a potential is most often wrong for them
        choose = inner if len(outer) == 0 or (len(inner) and rng.random() < 0.5) else outer
        pair = choose[rng.integers(len(choose))]
        delta = self.between(context, self.options.min_delta, self.options.max_delta)
        if inside[pair]:
            moving = np.array([i[pair]])
        else:
            sign = 1 if rng.random() < 0.5 else -1
            delta *= sign
            moving = next(f for f in fragments(structure, roles.active) if i[pair] in f)
            if j[pair] in moving:
                moving = np.array([i[pair]])
        positions = structure.positions.copy()
        positions[moving] -= delta * vector[pair] / d[pair]
        return Move(positions, {"pair": [int(i[pair]), int(j[pair])], "delta": delta, "atoms": moving.tolist()})


@ACTIONS.register("dihedral_twist")
class DihedralTwist(Action):
    """One side of a bond rotates about the bond, which may be the one to the surface."""

    Options = DihedralTwistOptions

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        roles, rng = context.roles, context.rng
        bonded = bonds(structure, self.options.bond_factor, self.options.bond_cap)
        inner = bonded.within(roles.active)
        degree = np.bincount(bonded.i, minlength=len(structure))
        axes = np.flatnonzero(roles.active[bonded.j] & (degree[bonded.i] > 1) & (degree[bonded.j] > 1))
        cut, pieces = bond_sides(structure, inner), fragments(structure, roles.active, bonded)
        for k in rng.permutation(axes):
            i, j = int(bonded.i[k]), int(bonded.j[k])
            side = cut.get((i, j)) if roles.active[i] else next(piece for piece in pieces if j in piece)
            if side is None or len(side) < 2 or len(side) == len(structure):
                continue
            piece = unwrap(structure, side, inner)
            if piece.endless:
                continue
            degrees = self.between(context, self.options.min_deg, self.options.max_deg) * rng.choice([-1, 1])
            arms = piece.positions - piece.positions[list(side).index(j)]
            off_axis = np.linalg.norm(np.cross(arms, bonded.vector[k]), axis=1) / np.linalg.norm(bonded.vector[k])
            if off_axis.max() < OFF_AXIS:
                continue
            positions = structure.positions.copy()
            positions[side] += arms @ rotation_matrix(bonded.vector[k], degrees).T - arms
            return Move(positions, {"axis": [i, j], "degrees": degrees, "atoms": side.tolist()})
        return None


@ACTIONS.register("site_hop")
class SiteHop(Action):
    """A fragment of the adsorbate is put above another atom of the surface it is on, rotated about the normal."""

    Options = SiteHopOptions

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        roles, rng = context.roles, context.rng
        if roles.normal is None or roles.axis is None or not roles.adsorbate.any():
            return None
        fragment = choose_fragment(structure, roles, rng)
        if fragment is None or fragment.endless:
            return None
        slab = np.ones(len(structure), bool)
        slab[np.flatnonzero(roles.adsorbate)] = False
        normal = roles.normals[fragment.atoms[0]]
        height = heights(structure, roles.axis, normal, slab)
        surface = np.flatnonzero(slab & (height > height[slab].max() - 1.0))
        site = rng.choice(surface)
        foot = fragment.positions[(fragment.positions @ normal).argmin()]
        lift = float(rng.uniform(self.options.min_height, self.options.max_height))
        degrees = float(rng.uniform(0, 360))
        arms = fragment.positions - foot
        target = structure.positions[site] + lift * normal
        positions = structure.positions.copy()
        positions[fragment.atoms] += target + arms @ rotation_matrix(normal, degrees).T - fragment.positions
        return Move(
            positions, {"atoms": fragment.atoms.tolist(), "site": int(site), "height": lift, "degrees": degrees}
        )
