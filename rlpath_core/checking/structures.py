"""Facts about structures: atoms, cell, vacuum, roles, distances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.geometry import cell_to_cellpar

from rlpath_core.checking.report import Report, counted, listed
from rlpath_core.errors import InputError
from rlpath_core.geometry.neighbours import SAME_PLACE, closest_pair, neighbours
from rlpath_core.geometry.slab import VACUUM, gap_widths, infer_roles
from rlpath_core.structure import Structure

SHORT = 0.6
"""Fraction of the sum of covalent radii below which a distance is shorter than any bond."""


def describe_structure(
    report: Report,
    structure: Structure,
    adsorbate: Sequence[int] | str | None = None,
    normal: Sequence[float] | str | None = None,
) -> None:
    """Add the facts about one structure to ``report``: what sampling would see."""
    facts, warnings = report.facts, report.warnings
    facts["atoms"] = f"{len(structure)}: {structure.formula}"
    facts["cell"] = _cell(structure)
    facts["fixed"] = f"{int(structure.fixed.sum())} of {len(structure)} atoms" if structure.fixed.any() else "none"
    if structure.tags.any():
        facts["tags"] = ", ".join(f"{tag}: {n}" for tag, n in sorted(Counter(structure.tags.tolist()).items()))
    if structure.magmoms.any():
        moments = structure.magmoms
        facts["moments"] = f"{moments.min():g} to {moments.max():g}, {moments.sum():g} Bohr magnetons in all"
    try:
        roles = infer_roles(structure, adsorbate, normal)
        facts["roles"] = roles.describe()
        if roles.conflict:
            warnings.append(f"sampling would refuse it: {roles.conflict}")
    except InputError as error:
        warnings.append(f"sampling would refuse it: {error.what}")
    closest = closest_pair(structure, 3.5)
    if closest is not None:
        i, j, distance = closest
        facts["closest"] = f"{_atom(structure, i)} and {_atom(structure, j)}, {distance:.3f} Å"
    warnings.extend(too_near([structure], [0]))


def _cell(structure: Structure) -> str:
    if not structure.cell.any():
        return "none"
    lengths_angles = cell_to_cellpar(structure.cell)
    lengths = " x ".join(f"{length:.2f}" for length in lengths_angles[:3])
    angles = " ".join(f"{angle:.4g}" for angle in lengths_angles[3:])
    widths = gap_widths(structure)
    vacuum = [f"{widths[k]:.1f} Å along {'abc'[k]}" for k in range(3) if VACUUM < widths[k] < np.inf]
    text = f"{lengths} Å, angles {angles}, periodic {' '.join('FT'[int(p)] for p in structure.pbc)}"
    return text + (f", vacuum {' and '.join(vacuum)}" if vacuum else "")


def _atom(structure: Structure, n: int) -> str:
    return f"{chemical_symbols[structure.numbers[n]]}{n}"


def too_near(structures: Sequence[Structure], frames: Sequence[int]) -> list[str]:
    """Warnings about atoms in one place, and about distances shorter than any bond; ``frames`` are their numbers."""
    same, short = [], []
    for frame, structure in zip(frames, structures, strict=True):
        radii = covalent_radii[structure.numbers]
        i, j, d = neighbours(structure, "ijd", max(SAME_PLACE, SHORT * 2 * float(radii.max())))
        if not len(d):
            continue
        bonds = radii[i] + radii[j]
        k = int(np.argmin(d / bonds))
        where = f"frame {frame}: " if len(structures) > 1 else ""
        text = f"{where}{_atom(structure, int(i[k]))} and {_atom(structure, int(j[k]))} are {d[k]:.3f} Å apart"
        if d[k] < SAME_PLACE:
            same.append(text)
        elif d[k] < SHORT * bonds[k]:
            short.append(text)
    out = []
    if same:
        out.append(f"two atoms in one place: {same[0]}{_first_of(same)}")
    if short:
        out.append(f"a distance shorter than any bond: {short[0]}{_first_of(short)}")
    return out


def _first_of(found: Sequence[str]) -> str:
    return f" (the first of {len(found)} structures)" if len(found) > 1 else ""


def describe_many(report: Report, structures: Sequence[Structure], frames: Sequence[int], n_all: int) -> None:
    """Add what several structures have in common to ``report``: those numbered ``frames``, of ``n_all``."""
    facts = report.facts
    sizes = np.array([len(s) for s in structures])
    formulas = Counter(s.formula for s in structures)
    common = [f"{name} ({n})" for name, n in formulas.most_common()]
    facts["atoms"] = f"{sizes.min()} to {sizes.max()}" if sizes.min() != sizes.max() else f"{sizes[0]} each"
    facts["formulas"] = listed(common, 4)
    numbers = np.concatenate([s.numbers for s in structures])
    elements, counts = np.unique(numbers, return_counts=True)
    facts["elements"] = ", ".join(f"{chemical_symbols[z]} {n}" for z, n in zip(elements, counts, strict=True))
    periodic = Counter(" ".join("FT"[int(p)] for p in s.pbc) for s in structures)
    facts["periodic"] = ", ".join(f"{text} ({n})" for text, n in periodic.most_common())
    without = sum(not s.cell.any() for s in structures)
    if without:
        facts["cell"] = f"none in {counted(without, 'structure')}"
    fixed = sum(bool(s.fixed.any()) for s in structures)
    if fixed:
        facts["fixed"] = f"atoms in {counted(fixed, 'structure')}"
    if len(structures) < n_all:
        facts["looked at"] = f"{len(structures)} of {n_all} structures, spread evenly"
    report.warnings.extend(too_near(structures, frames))


def unknown_elements(structures: Sequence[Structure], elements: frozenset[int]) -> str | None:
    """A warning about elements that a model does not know; None if it knows them all."""
    unknown = sorted(set(np.concatenate([s.numbers for s in structures]).tolist()) - elements)
    if not unknown:
        return None
    return f"the model does not know {', '.join(chemical_symbols[z] for z in unknown)}"
