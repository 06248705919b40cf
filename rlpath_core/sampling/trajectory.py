"""The trajectory of one attempt for pictures: the displaced structure, steps of the relaxation, the minimum."""

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
class TrajectoryFrame:
    """``forces`` [n_atoms, 3] eV/Å; ``trigger`` names why this structure is worth a label, None if it is not."""

    stage: str
    step: int
    structure: Structure
    energy: float
    forces: NDArray[np.float64]
    trigger: str | None = None


class AttemptTrajectory:
    """Frames of one attempt: the first, every ``stride``-th step of the relaxation, every candidate, the last."""

    def __init__(self, options: VizOptions) -> None:
        self.options = options
        self.frames: list[TrajectoryFrame] = []
        self._last: TrajectoryFrame | None = None
        self._n_candidates = 0

    def add(self, structure: Structure, prediction: Prediction, candidates: Sequence[Candidate]) -> None:
        """Add the next structure: first the displaced one, then every step of the relaxation.

        Parameters
        ----------
        candidates
            The attempt's candidates so far; one more than at the last call is this structure.
        """
        assert prediction.forces is not None
        trigger = candidates[-1].trigger if len(candidates) > self._n_candidates else None
        self._n_candidates = max(len(candidates), self._n_candidates)
        step = 0 if self._last is None else self._last.step + 1
        stage = "quench_step" if step else "action"
        self._last = TrajectoryFrame(stage, step, structure, prediction.energy, prediction.forces, trigger)
        if step == 0 or trigger or (self.options.stride and step % self.options.stride == 0):
            self.frames.append(self._last)

    def finish(self, minimum: bool, keep: bool) -> tuple[TrajectoryFrame, ...]:
        """All frames, the last structure's included, which is marked if it is a ``minimum``; none without ``keep``."""
        last = self._last
        if not keep or last is None:
            return ()
        if len(self.frames) > 1 and self.frames[-1] is last:
            self.frames.pop()
        return (*self.frames, replace(last, stage="minimum") if minimum else last)


def extxyz(frames: Sequence[tuple[TrajectoryFrame, dict[str, Any]]]) -> str:
    """Extended XYZ of the frames with their comment-line entries; ASE and OVITO read it as it is.

    Columns: species, pos (Å, 4 decimals: what the content id sees), move_mask (1 movable, 0 fixed), tags, forces (eV/Å,
    4 decimals), and initial_magmoms (Bohr magnetons, 4 decimals) where there are any. Written here and not by ASE,
    whose 16 columns a number make it twice as long.
    """
    from ase.data import chemical_symbols
    from ase.io.extxyz import key_val_dict_to_str

    out = io.StringIO()
    for frame, info in frames:
        s = frame.structure
        magnetic = bool(s.magmoms.any())
        properties = "species:S:1:pos:R:3:move_mask:I:1:tags:I:1:forces:R:3" + magnetic * ":initial_magmoms:R:1"
        header = {"Properties": properties} | info
        if s.cell.any():
            header = {"Lattice": s.cell.T} | header
        out.write(f'{len(s)}\n{key_val_dict_to_str(header)} pbc="{" ".join("FT"[int(p)] for p in s.pbc)}"\n')
        columns = [np.array(chemical_symbols)[s.numbers], s.positions, ~s.fixed, s.tags, frame.forces]
        columns += [s.magmoms] * magnetic
        rows = np.column_stack([np.asarray(column, dtype=object) for column in columns])
        np.savetxt(out, rows, fmt="%-2s %.4f %.4f %.4f %d %d %.4f %.4f %.4f" + magnetic * " %.4f")
    return out.getvalue()
