"""Reading ``viz/trajectory*.extxyz``: only the frames that are wanted, and a line number for what is broken."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.structure.xyz import frames

PATTERN = "viz/trajectory*.extxyz"


@dataclass(frozen=True)
class Shot:
    """One picture to take: ``forces`` [n_atoms, 3] eV/Å or None, ``info`` what its caption says."""

    structure: Structure
    forces: NDArray[np.float64] | None = None
    info: dict[str, Any] = field(default_factory=dict)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts ``round-10`` behind ``round-9``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def trajectories(run_dir: Path) -> list[Path]:
    """The trajectory files of a sampling run, or of all rounds of a campaign, in order. InputError without any."""
    if not run_dir.is_dir():
        raise InputError("no such folder", run_dir, "run_dir")
    found = sorted(run_dir.glob(PATTERN), key=natural) or sorted(run_dir.glob(f"sampling/*/{PATTERN}"), key=natural)
    if not found:
        raise InputError(
            f"holds no {PATTERN}: sample with the viz recorder on (sampling.pipeline.recorders.viz={{}}), or give "
            "--campaign for the contact sheet and the graph of its basins",
            run_dir,
        )
    return found


def read_shots(paths: list[Path], stride: int = 1, max_frames: int | None = None) -> list[Shot]:
    """Every ``stride``-th frame of the files, as if they were one, until there are ``max_frames``.

    Raises InputError that names the file, and the line, of what is not extended XYZ, or when there is no frame.
    """
    shots: list[Shot] = []
    number = 0
    for path in paths:
        where = path.parents[1].name
        for line, text in frames(path):
            if number % stride == 0:
                if max_frames is not None and len(shots) == max_frames:
                    return shots
                shots.append(_shot(text, path, line, where))
            number += 1
    if not shots:
        raise InputError("holds no frame: no attempt was kept (recorder viz, keep: new_basin or accepted)", paths[0])
    return shots


def _shot(text: str, path: Path, line: int, where: str) -> Shot:
    from ase.io.extxyz import read_xyz

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (atoms,) = read_xyz(io.StringIO(text), slice(0, 1))
        structure = Structure.from_ase(atoms, will_move=False)
    except InputError as error:
        raise InputError(error.what, path, line) from error
    except Exception as error:  # ASE's parser raises whatever its pieces do
        raise InputError(f"not extended XYZ ({type(error).__name__}: {error})", path, line) from error
    results = {} if atoms.calc is None else atoms.calc.results
    forces = results.get("forces", atoms.arrays.get("forces"))
    info = {"where": where, "energy": results.get("energy")} | dict(atoms.info)
    return Shot(structure, None if forces is None else np.asarray(forces, float), info)
