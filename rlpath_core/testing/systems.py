"""Systems that sampling must work on, all of elements that ASE's EMT knows."""

from __future__ import annotations

from collections.abc import Callable

from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from ase.cluster import Octahedron
from ase.constraints import FixAtoms

from rlpath_core.structure import Structure


def orthogonal() -> Structure:
    """Cu(100) 2x2x3 with CO, lower layers fixed, tags given."""
    atoms = fcc100("Cu", (2, 2, 3), vacuum=7)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    atoms.pbc = True
    atoms.set_tags([0] * 8 + [1] * 4 + [2] * 2)
    atoms.set_constraint(FixAtoms(range(8)))
    return Structure.from_ase(atoms)


def triclinic() -> Structure:
    """Cu(111) 2x2x3 in its 60-degree cell with CO."""
    atoms = fcc111("Cu", (2, 2, 3), vacuum=7, orthogonal=False)
    add_adsorbate(atoms, molecule("CO"), 1.9, "fcc", mol_index=1)
    atoms.pbc = True
    atoms.set_tags([0] * 8 + [1] * 4 + [2] * 2)
    atoms.set_constraint(FixAtoms(range(8)))
    return Structure.from_ase(atoms)


def no_fixed() -> Structure:
    """The same slab as made by someone who gave neither tags nor constraints; vacuum in the third direction only."""
    atoms = fcc111("Cu", (2, 2, 4), vacuum=7, orthogonal=False)
    add_adsorbate(atoms, molecule("CO"), 1.9, "fcc", mol_index=1)
    atoms.pbc = (True, True, False)
    atoms.set_tags(0)
    return Structure.from_ase(atoms)


def free_molecule() -> Structure:
    """Ethanol without a cell: nothing fixed, nothing periodic."""
    return Structure.from_ase(molecule("CH3CH2OH"))


def cluster() -> Structure:
    atoms = Octahedron("Cu", 3, 1)
    return Structure.from_ase(Atoms(atoms.symbols, atoms.positions))


def thin() -> Structure:
    """A 1x1 cell: every copper atom is its own neighbour."""
    atoms = fcc111("Cu", (1, 1, 4), vacuum=7, orthogonal=False)
    add_adsorbate(atoms, "O", 1.3, "fcc")
    atoms.pbc = True
    atoms.set_constraint(FixAtoms(range(2)))
    return Structure.from_ase(atoms)


SYSTEMS: dict[str, Callable[[], Structure]] = {
    f.__name__: f for f in (orthogonal, triclinic, no_fixed, free_molecule, cluster, thin)
}
