"""Actions on all movable atoms at once: jitter and molecular dynamics."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet

from rlpath_core.lockstep.ase import attach
from rlpath_core.sampling.actions.base import ACTIONS, Action, ActionContext, Move
from rlpath_core.sampling.options import JitterOptions, MDOptions
from rlpath_core.structure import Structure


@ACTIONS.register("jitter")
class Jitter(Action):
    """Gaussian displacement of every movable atom."""

    Options = JitterOptions

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        sigma = self.options.sigma * context.scale
        positions = structure.positions.copy()
        moving = context.roles.movable
        positions[moving] += context.rng.normal(0.0, sigma, (int(moving.sum()), 3))
        return Move(positions, {"sigma": sigma})


@ACTIONS.register("md")
class MD(Action):
    """A short run of dynamics by ASE; every step's forces are batched with those of the other walkers.

    Velocities are drawn at a random temperature, which langevin and bussi (doi:10.1063/1.2408420) then hold; nve
    keeps the energy instead.
    """

    Options = MDOptions

    @property
    def force_calls(self) -> float:
        return 1 + (self.options.min_steps + self.options.max_steps) / 2

    def apply(self, structure: Structure, context: ActionContext) -> Move | None:
        options, rng = self.options, context.rng
        kelvin = self.between(context, options.min_temp_K, options.max_temp_K)
        steps = int(rng.integers(options.min_steps, options.max_steps + 1))
        atoms = attach(structure, context.roles.movable, context.evaluate)
        width = np.sqrt(atoms.get_masses() * units.kB * kelvin)  # Maxwell-Boltzmann; held atoms get none
        atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * width[:, None])
        self._dynamics(atoms, kelvin, rng).run(steps)
        return Move(np.array(atoms.positions), {"temperature_K": kelvin, "steps": steps})

    def _dynamics(self, atoms: Atoms, kelvin: float, rng: np.random.Generator) -> MolecularDynamics:
        options = self.options
        step = options.dt_fs * units.fs
        if options.integrator == "nve":
            return VelocityVerlet(atoms, step, logfile=None)
        if options.integrator == "bussi":
            return Bussi(atoms, step, temperature_K=kelvin, taut=options.taut_fs * units.fs, rng=rng, logfile=None)
        return Langevin(
            atoms,
            step,
            temperature_K=kelvin,
            friction=options.friction / units.fs,
            rng=rng,
            fixcm=False,
            logfile=None,
        )
