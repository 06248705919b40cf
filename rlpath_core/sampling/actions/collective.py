"""Actions on all movable atoms at once: jitter and molecular dynamics."""

from __future__ import annotations

import numpy as np
from ase import units
from ase.md.langevin import Langevin

from rlpath_core.sampling.actions.base import ACTIONS, Action, Move, Setting
from rlpath_core.sampling.lockstep import attach
from rlpath_core.spec import sampling as spec
from rlpath_core.structure import Structure


@ACTIONS.register("jitter")
class Jitter(Action):
    """Gaussian displacement of every movable atom."""

    Options = spec.Jitter

    def apply(self, structure: Structure, setting: Setting) -> Move | None:
        sigma = self.options.sigma * setting.scale
        positions = structure.positions.copy()
        moving = setting.roles.movable
        positions[moving] += setting.rng.normal(0.0, sigma, (int(moving.sum()), 3))
        return Move(positions, {"sigma": sigma})


@ACTIONS.register("md")
class MD(Action):
    """A short Langevin run by ASE; every step's forces are batched with those of the other walkers."""

    Options = spec.MD

    def apply(self, structure: Structure, setting: Setting) -> Move | None:
        options, rng = self.options, setting.rng
        kelvin = self.between(setting, options.min_temp_K, options.max_temp_K)
        steps = int(rng.integers(options.min_steps, options.max_steps + 1))
        atoms = attach(structure, setting.roles.movable, setting.ask)
        width = np.sqrt(atoms.get_masses() * units.kB * kelvin)  # Maxwell-Boltzmann; held atoms get none
        atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * width[:, None])
        dynamics = Langevin(
            atoms,
            options.dt_fs * units.fs,
            temperature_K=kelvin,
            friction=options.friction / units.fs,
            rng=rng,
            fixcm=False,
            logfile=None,
        )
        dynamics.run(steps)
        return Move(np.array(atoms.positions), {"temperature_K": kelvin, "steps": steps})
