"""Which atoms are the adsorbate: as a user names them, as the tags say, or guessed from bonds and layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.fragments import fragments, periodicity
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.geometry.roles import formula_of
from rlpath_core.structure import Structure

SPACING = 0.7
"""Å: atoms whose heights differ by less, one after the other, are one layer."""
ENCLOSED = 3.0
"""Å: an atom with atoms of the slab above it and below it, within this distance sideways, is inside the slab."""
_MOLECULAR = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Se", "Br", "I", "He", "Ne", "Ar", "Kr", "Xe")
MOLECULAR = np.isin(chemical_symbols, _MOLECULAR)
"""[119] By atomic number: elements of molecules. A slab that has others is judged by the layers of these others."""
METALLOID = np.isin(chemical_symbols, ("B", "Si", "Ge", "As", "Sb", "Te"))
"""[119] By atomic number: solids of these elements are often passivated with hydrogen, which is no adsorbate."""


class Told(NamedTuple):
    """Which atoms are the adsorbate, and how that is known.

    Attributes
    ----------
    mask : ndarray of bool, shape (n_atoms,)
    because : str
    up : int
        1 if the tags say that the surface is at larger heights, -1 at smaller ones, 0 if they do not say.
    conflict : str or None
        What cannot be.
    """

    mask: Mask
    because: str
    up: int = 0
    conflict: str | None = None


def by_tags(structure: Structure, height: Floats) -> Told | None:
    """The adsorbate by the tags; None if they say nothing about it.

    Tags of the Open Catalyst datasets are 0 slab, 1 surface layer, 2 adsorbate. ASE's builders number the layers of a
    slab from the top, 1 to n, and leave 0 to what is added to it. Two layers and an adsorbate have the tags 0, 1 and 2
    in both: what is fixed, the elements and the numbers of atoms tell which of tags 0 and 2 is part of the slab.

    Parameters
    ----------
    structure : Structure
    height : ndarray, shape (n_atoms,)
        Å.
    """
    tags = structure.tags
    present = np.unique(tags)
    if tags.min() < 0 or tags.max() == 0:
        return None
    middle = {int(tag): float(height[tags == tag].mean()) for tag in present}
    if not numbers_layers(structure):
        mask = tags == 2
        up = 0
        if mask.all():
            return Told(
                ~mask, "all atoms have tag 2", 0, "all atoms have tag 2, which is the adsorbate's: none is slab"
            )
        if 1 in middle and 0 in middle:
            up = int(np.sign(middle[1] - middle[0]))
        if not mask.any():
            return Told(mask, "", up)
        because = "by the tags (0 slab, 1 surface, 2 adsorbate)"
        held = bool(structure.fixed[mask].all())
        return Told(mask, because, up, "the atoms with tag 2, the adsorbate, are all fixed" if held else None)
    layers = [middle[int(tag)] for tag in present if tag > 0]
    steps = np.sign(np.diff(layers))
    if len(layers) > 1 and abs(steps.sum()) < len(steps):
        return None
    mask = tags == 0
    up = int(-steps[0]) if len(steps) else 0
    if not mask.any():
        return Told(mask, "the tags number the layers of a clean slab", up)
    if (mask & structure.fixed).any():
        return None
    return Told(mask, "by the tags (layers numbered from the top, 0 what was added)", up)


def numbers_layers(structure: Structure) -> bool:
    """Whether the tags cannot be those of the Open Catalyst datasets, but number layers as ASE's builders do."""
    tags, fixed = structure.tags, structure.fixed
    if tags.max() > 2 or tags.min() < 0:
        return True
    zero, one, two = (np.flatnonzero(tags == tag) for tag in (0, 1, 2))
    if not len(one) or not len(zero) + len(two):
        return False
    known = set(structure.numbers[one].tolist())
    zero_alike, two_alike = (set(structure.numbers[atoms].tolist()) <= known for atoms in (zero, two))
    if fixed[zero].any() or fixed[two].any():
        return not fixed[zero].any()
    if not len(two):
        return len(zero) < len(one) and not zero_alike
    if not len(zero):
        return two_alike and len(two) == len(one)
    if zero_alike != two_alike:
        return two_alike
    return len(two) == len(one) and len(zero) < len(one)


def by_layers(structure: Structure, height: Floats, outward: Floats) -> Told:
    """A guess: what is bonded to nothing endless, foreign to the slab, or outside its layers.

    In this order:

    1. The slab is what is bonded into sheets. Molecules apart from it are the adsorbate.
    2. Its layers are those of the elements that molecules do not consist of (of all if it has no others); layers with
       half as many atoms as the largest or more are full.
    3. An element is foreign if the slab has it neither between nor in its full layers. Foreign atoms, and others
       further than ``SPACING`` outside the full layers, are the adsorbate,
    4. but not layers of the slab's own elements that are the same on both sides (bridging oxygen) or full, complete
       layers of single foreign atoms on both sides (the sulphur of MoS2), complete layers of hydrogen on a metalloid or
       a compound (passivation), and endless rows and sheets (steps, graphene).

    Fixed atoms are never the adsorbate.

    Parameters
    ----------
    structure : Structure
    height : ndarray, shape (n_atoms,)
        Å, with the vacuum at both ends.
    outward : ndarray, shape (3,)
        Unit vector along which heights grow.
    """
    free, numbers = ~structure.fixed, structure.numbers
    sheet = periodicity(structure) >= 2
    if not sheet.any():
        sheet = np.ones(len(structure), bool)
    apart = ~sheet
    for piece in fragments(structure, ~sheet):
        apart[piece] = free[piece].all()
    frame = sheet & ~MOLECULAR[numbers]
    if not frame.any():
        frame = sheet
    layer = _layers(height[frame])
    count = np.bincount(layer)
    fullest = int(count.max())
    core = frame.copy()
    core[frame] = (2 * count >= fullest)[layer]
    low, high = float(height[core].min()), float(height[core].max())
    own = _own_elements(structure, height, outward, sheet, core)
    outside = sheet & free & (~own[numbers] | (height > high + SPACING) | (height < low - SPACING))
    outside &= ~_endless(structure, outside, own)
    outside &= ~_terminations(structure, height, outside, own, core, (low + high) / 2, fullest)
    return Told(apart | outside, "guessed from bonds and layers")


def _layers(height: Floats) -> NDArray[np.int64]:
    """Number of each atom's layer, from the lowest: shape (n_atoms,)."""
    order = np.argsort(height, kind="stable")
    layer = np.empty(len(height), np.int64)
    layer[order] = np.concatenate([[0], np.cumsum(np.diff(height[order]) > SPACING)])
    return layer


def _own_elements(structure: Structure, height: Floats, outward: Floats, sheet: Mask, core: Mask) -> Mask:
    """[119] By atomic number: elements of the slab, which are in its full layers or between them."""
    own = np.zeros(119, bool)
    own[structure.numbers[core]] = True
    low, high = float(height[core].min()), float(height[core].max())
    within = sheet & (height >= low - SPACING) & (height <= high + SPACING)
    own |= 2 * np.bincount(structure.numbers[within], minlength=119) > core.sum()
    i, j, vector = neighbours(structure, "ijD", 2 * ENCLOSED)
    up = vector @ outward
    near = sheet[i] & core[j] & ((vector**2).sum(axis=1) - up**2 < ENCLOSED**2)
    above, below = np.zeros(len(structure), bool), np.zeros(len(structure), bool)
    above[i[near & (up > 0.5)]] = True
    below[i[near & (up < -0.5)]] = True
    own[structure.numbers[above & below]] = True
    return own


def _endless(structure: Structure, outside: Mask, own: Mask) -> Mask:
    """Atoms of ``outside`` in endless rows of the slab's own elements, or in endless sheets of any."""
    rows = periodicity(structure, outside & own[structure.numbers]) >= 1
    return rows | (periodicity(structure, outside) >= 2)


def _terminations(
    structure: Structure, height: Floats, outside: Mask, own: Mask, core: Mask, middle: float, fullest: int
) -> Mask:
    """Atoms of ``outside`` that end the slab on either side. Parameters as in ``by_layers``."""
    numbers = structure.numbers
    metal = not (own & (MOLECULAR | METALLOID)).any()
    sides = []
    for sign in (1, -1):
        atoms = np.flatnonzero(outside & (sign * (height - middle) > 0))
        layer = _layers(sign * height[atoms]) if len(atoms) else np.empty(0, np.int64)
        sides.append([atoms[layer == k] for k in range(int(layer.max()) + 1 if len(atoms) else 0)])
    slab = np.zeros(len(structure), bool)
    k = 0
    for upper, lower in zip(*sides, strict=False):
        same = np.array_equal(np.sort(numbers[upper]), np.sort(numbers[lower]))
        complete = len(upper) >= fullest and _apart(structure, upper) and _apart(structure, lower)
        if not same or not (complete or own[numbers[upper]].all()):
            break
        slab[upper] = slab[lower] = True
        k += 1
    for side in sides:
        for atoms in side[k:]:
            own_layer = own[numbers[atoms]].all() and 2 * len(atoms) >= fullest
            passivation = not metal and (numbers[atoms] == 1).all() and len(atoms) >= fullest
            if not own_layer and not passivation:
                break
            slab[atoms] = True
    return slab


def _apart(structure: Structure, atoms: NDArray[np.int64]) -> bool:
    """Whether no two of these atoms are bonded."""
    mask = np.zeros(len(structure), bool)
    mask[atoms] = True
    return len(fragments(structure, mask)) == len(atoms)


def by_name(structure: Structure, wanted: Sequence[int] | str, guessed: Mask | None) -> Told:
    """The adsorbate as a user names it, by its atoms or its formula.

    A formula names every molecule of that formula among what would be guessed, or all of it together; else the one
    group of bonded atoms of these elements that has it.

    Parameters
    ----------
    structure : Structure
    wanted : sequence of int, or str
        Atoms, counted from 0, or a formula.
    guessed : ndarray of bool, shape (n_atoms,), or None
        What would be guessed.

    Raises
    ------
    InputError
        There are no such atoms, several groups of them, or some are fixed.
    """
    n, key = len(structure), "adsorbate"
    mask = np.zeros(n, bool)
    if isinstance(wanted, str):
        mask[_with_formula(structure, wanted, guessed)] = True
        because = f"given as {wanted}"
    else:
        atoms = np.asarray(wanted, np.int64)
        if outside := [int(atom) for atom in atoms if not 0 <= atom < n]:
            raise InputError(f"{outside[0]} is no atom: the structure has {n}, numbered 0 to {n - 1}", None, key)
        if repeated := [atom for atom, count in Counter(atoms.tolist()).items() if count > 1]:
            raise InputError(f"atom {repeated[0]} is given twice", None, key)
        mask[atoms] = True
        because = "as given"
    if (held := np.flatnonzero(mask & structure.fixed)).size:
        raise InputError(f"atom {held[0]} is fixed in the structure: free it, or name atoms that move", None, key)
    return Told(mask, because)


def _with_formula(structure: Structure, wanted: str, guessed: Mask | None) -> NDArray[np.int64]:
    try:
        counts = Formula(wanted).count()
        if not counts or not set(counts) <= set(chemical_symbols[1:]):
            raise ValueError
    except ValueError as error:
        what = f"{wanted!r} is no formula: give one such as H2O, or the numbers of the atoms, counted from 0"
        raise InputError(what, None, "adsorbate") from error
    name = formula_of_counts(counts)
    if guessed is not None and guessed.any():
        pieces = [piece for piece in fragments(structure, guessed) if formula_of(structure, piece) == name]
        if pieces:
            return np.concatenate(pieces)
        if formula_of(structure, np.flatnonzero(guessed)) == name:
            return np.flatnonzero(guessed)
    elements = np.isin(structure.numbers, [atomic_numbers[symbol] for symbol in counts]) & ~structure.fixed
    pieces = [piece for piece in fragments(structure, elements) if formula_of(structure, piece) == name]
    if len(pieces) == 1:
        return pieces[0]
    if not pieces:
        what = f"no atoms that move are bonded into {wanted}: give their numbers, counted from 0"
        raise InputError(what, None, "adsorbate")
    some = ", ".join(" ".join(map(str, piece)) for piece in pieces[:3])
    some += ", ..." if len(pieces) > 3 else ""
    what = f"{len(pieces)} groups of atoms are {wanted} ({some}): give the numbers of the atoms"
    raise InputError(what, None, "adsorbate")


def formula_of_counts(counts: dict[str, int]) -> str:
    """Hill formula of so many atoms of each element."""
    return Formula.from_dict(counts).format("hill")
