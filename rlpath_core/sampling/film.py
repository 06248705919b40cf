"""The way of one attempt as frames for pictures: the displaced structure, the quench, the minimum."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.sampling.options import VizOptions
from rlpath_core.sampling.triggers import Candidate
from rlpath_core.structure import Structure


@dataclass(frozen=True)
class Frame:
    """``forces`` [n_atoms, 3] eV/Å; ``trigger`` says why this very structure is worth a label, None when it is not."""

    stage: str
    step: int
    structure: Structure
    energy: float
    forces: NDArray[np.float64]
    trigger: str | None = None


class Film:
    """Frames of one attempt: the first, every ``stride``-th step of the quench, every one that triggered, the last."""

    def __init__(self, options: VizOptions) -> None:
        self.options = options
        self.frames: list[Frame] = []
        self._last: Frame | None = None
        self._known = 0

    def show(self, structure: Structure, prediction: Prediction, found: Sequence[Candidate]) -> None:
        """The walker is here now: first where the action put it, then step by step down the quench.

        ``found``: the attempt's candidates so far; a new one among them is this structure.
        """
        assert prediction.forces is not None
        trigger = found[-1].trigger if len(found) > self._known else None
        self._known = max(len(found), self._known)
        step = 0 if self._last is None else self._last.step + 1
        stage = "quench_step" if step else "action"
        self._last = Frame(stage, step, structure, prediction.energy, prediction.forces, trigger)
        if step == 0 or trigger or (self.options.stride and step % self.options.stride == 0):
            self.frames.append(self._last)

    def finish(self, minimum: bool, keep: bool) -> None:
        """The attempt has ended: its last structure closes the film, which is thrown away unless it is to be kept."""
        last = self._last
        if not keep or last is None:
            self.frames = []
            return
        if len(self.frames) > 1 and self.frames[-1] is last:
            self.frames.pop()
        self.frames.append(replace(last, stage="minimum") if minimum else last)


def extxyz(frames: Sequence[tuple[Frame, dict[str, Any]]]) -> str:
    """Extended XYZ of the frames with their comment-line entries; ASE and OVITO read it as it is.

    Columns: species, pos (Å, 4 decimals: what the content id sees), move_mask (1 movable, 0 fixed), tags, forces (eV/Å,
    4 decimals). Written here and not by ASE, whose 16 columns a number make it twice as long.
    """
    from ase.data import chemical_symbols
    from ase.io.extxyz import key_val_dict_to_str

    out = io.StringIO()
    for frame, info in frames:
        s = frame.structure
        known = {"Properties": "species:S:1:pos:R:3:move_mask:I:1:tags:I:1:forces:R:3"} | info
        if s.cell.any():
            known = {"Lattice": s.cell.T} | known
        out.write(f'{len(s)}\n{key_val_dict_to_str(known)} pbc="{" ".join("FT"[int(p)] for p in s.pbc)}"\n')
        columns = (np.array(chemical_symbols)[s.numbers], s.positions, ~s.fixed, s.tags, frame.forces)
        rows = np.column_stack([np.asarray(column, dtype=object) for column in columns])
        np.savetxt(out, rows, fmt="%-2s %.4f %.4f %.4f %d %d %.4f %.4f %.4f")
    return out.getvalue()
