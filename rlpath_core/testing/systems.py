"""Systems that sampling must work on. Those in ``SYSTEMS`` are of elements that ASE's EMT knows; ``oxide`` is not."""

from __future__ import annotations

from collections.abc import Callable

from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, fcc111, molecule, surface
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


def oxide() -> Structure:
    """MgO(001), two layers of two MgO each, with water above a magnesium; the lower layer fixed, tags given."""
    slab = surface(bulk("MgO", "rocksalt", a=4.21, cubic=True), (0, 0, 1), 1)
    slab.center(vacuum=7.0, axis=2)
    top = slab.positions[:, 2] > slab.positions[:, 2].mean()
    water = molecule("H2O")
    water.rotate(90, "x")
    site = slab.positions[(slab.numbers == 12) & top][0]
    water.positions += site + [0.0, 0.0, 2.2] - water.positions[water.numbers == 8][0]
    atoms = slab + water
    atoms.set_tags([1 if above else 0 for above in top] + [2, 2, 2])
    atoms.set_constraint(FixAtoms([k for k, above in enumerate(top) if not above]))
    atoms.pbc = True
    return Structure.from_ase(atoms)


SYSTEMS: dict[str, Callable[[], Structure]] = {
    f.__name__: f for f in (orthogonal, triclinic, no_fixed, free_molecule, cluster, thin)
}
