"""EMT that leaves a mark for every calculation; slow, so that it can be interrupted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT


class Counting(EMT):
    def __init__(self, marks: str, seconds: float = 0.0) -> None:
        super().__init__()
        self.marks, self.delay = Path(marks), seconds

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        if system_changes:
            with open(self.marks, "a") as marks:
                marks.write(f"{self.atoms.positions[1, 2]:.3f}\n")
            time.sleep(self.delay)
