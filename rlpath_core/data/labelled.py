"""A structure with its reference energy and forces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

LabelName = Literal["energy", "forces"]
BOTH: tuple[LabelName, ...] = ("energy", "forces")
OF_ENTRIES = (".lmdb", ".aselmdb", ".mdb", ".db")
"""Files that hold entries; others hold frames."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A structure and what the reference method says of it. What is not known is None, never zero.

    energy   total energy, eV
    forces   [n_atoms, 3], eV/Å, read-only
    sid      where it came from: a job id, a frame, the id in a data set
    missing  why a label that the file should have is None
    """

    structure: Structure
    energy: float | None
    forces: NDArray[np.float64] | None
    sid: str = ""
    missing: Mapping[LabelName, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            energy = None if self.energy is None else float(self.energy)
            forces = None if self.forces is None else np.array(self.forces, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"energy or forces are not numbers ({error})") from error
        if energy is not None and not np.isfinite(energy):
            raise InputError(f"the energy is not a finite number, got {energy}")
        if forces is not None:
            if forces.shape != (len(self.structure), 3):
                raise InputError(f"forces have shape {forces.shape}, expected {(len(self.structure), 3)}")
            if not np.isfinite(forces).all():
                raise InputError("forces hold a value that is not a finite number")
            forces.setflags(write=False)
        object.__setattr__(self, "energy", energy)
        object.__setattr__(self, "forces", forces)


def _words(where: str | Path | None) -> tuple[str, str]:
    """What one, and what several structures of a file are called."""
    if where is None:
        return "structure", "structures"
    path = Path(where)
    return ("entry", "entries") if path.is_dir() or path.suffix in OF_ENTRIES else ("frame", "frames")


def check_labels(
    labelled: Sequence[Labelled],
    needs: Iterable[LabelName],
    where: str | Path | None = None,
    indices: Sequence[int] | None = None,
    fix: Mapping[LabelName, str] | None = None,
) -> None:
    """Refuse structures that lack a label that is needed.

    Parameters
    ----------
    labelled
        What was read from ``where``.
    needs
        The labels that every structure must have.
    where
        The file, if there is one.
    indices
        The places of ``labelled`` in the file; None: its own.
    fix
        For each label, how to do without it.

    Raises
    ------
    InputError
        Names the first structure that lacks one, and how many do.
    """
    for name in needs:
        lacking = [n for n, entry in enumerate(labelled) if getattr(entry, name) is None]
        if not lacking:
            continue
        why = labelled[lacking[0]].missing.get(name, f"has no {name}")
        one, many = _words(where)
        count = f"; {len(lacking)} of {len(labelled)} {many} lack {name}" if len(labelled) > 1 else ""
        how = f": {fix[name]}" if fix and fix.get(name) else ""
        first = lacking[0] if indices is None else indices[lacking[0]]
        raise InputError(f"{why}{count}{how}", where, f"{one} {first}")
