"""Hops on metals that ASE's EMT knows, both ends relaxed to 0.001 eV/Å: what searches for saddles are compared on."""

from __future__ import annotations

import functools

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS

from rlpath_core.structure import Structure

Ends = tuple[Structure, Structure]


def _relaxed(atoms: Atoms, n_moving_layers: int, vacuum: float) -> Structure:
    """An adsorbate on a slab of ASE's builders, relaxed with EMT; the layers below the moving ones are held."""
    layer = atoms.get_tags()
    atoms.center(axis=2, vacuum=vacuum)
    atoms.pbc = True
    atoms.set_tags(np.select([layer == 0, layer == 1], [2, 1], 0))
    atoms.set_constraint(FixAtoms(mask=layer > n_moving_layers))
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=0.001, steps=500)
    return Structure.from_ase(atoms)


@functools.cache
def gold_on_aluminium(size: tuple[int, int, int] = (2, 2, 3), n_moving_layers: int = 1) -> Ends:
    """Au from one hollow of Al(100) to the next, over a bridge: 0.3745 eV; 0.3636 eV on (4, 4, 4) with two layers."""
    ends = []
    for shift in (0.0, 1.0):
        atoms = fcc100("Al", size=size)
        add_adsorbate(atoms, "Au", 1.7, "hollow")
        atoms.positions[-1] += shift * atoms.cell.array[0] / size[0]
        ends.append(_relaxed(atoms, n_moving_layers, 6.0))
    return ends[0], ends[1]


@functools.cache
def copper_on_copper(size: tuple[int, int, int] = (4, 4, 4), n_moving_layers: int = 2) -> Ends:
    """Cu on Cu(111) from an fcc hollow to the hcp hollow beside it: 0.0495 eV, and 0.0506 eV back."""
    ends = []
    for site in ("fcc", "hcp"):
        atoms = fcc111("Cu", size=size)
        add_adsorbate(atoms, "Cu", 1.8, site)
        ends.append(_relaxed(atoms, n_moving_layers, 6.0))
    return ends[0], ends[1]
