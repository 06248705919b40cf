"""The rivals: Sella and ASE in this environment, pyeonclient in one of its own. All on the benchmark's own counter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.mep import NEB, DimerControl, MinModeAtoms, MinModeTranslate
from ase.optimize import FIRE, LBFGS

from benchmarks.saddles.common import Counted, Outcome, Task
from rlpath_core.lockstep.ase import HubCalculator
from rlpath_core.structure import Structure

WORKER = Path(__file__).with_name("eon_worker.py")
EON = "pyeonclient==0.4.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlpath-benchmarks"


def attached(task: Task, structure: Structure, model: Counted) -> Atoms:
    """The task's atoms at ``structure``, with ASE's calculator over the counted model."""
    atoms = structure.to_ase()
    atoms.calc = HubCalculator(structure, model.evaluator())
    return atoms


def sella(tasks: Sequence[Task], fmax: float, max_calls: int = 1000) -> Iterator[Outcome]:
    """Sella with its defaults, in Cartesian coordinates, one after the other; held atoms are constrained."""
    from sella import Sella

    for task in tasks:
        model = Counted(task.model())
        atoms = attached(task, task.structure, model)
        began = time.perf_counter()
        search = Sella(atoms, logfile=None, order=1, internal=False)
        if task.mode is not None:
            search.pes.v0 = task.mode.ravel() @ search.pes.get_Ufree()
        reason, converged = None, False
        try:
            for converged in search.irun(fmax=fmax, steps=10**6):
                if converged or model.calls > max_calls:
                    break
        except Exception as error:  # a rival's failure is a result
            reason = type(error).__name__
        took = time.perf_counter() - began
        structure = task.structure.moved(atoms.positions)
        yield Outcome(
            task.name, bool(converged), model.calls, took, structure, reason=reason or (None if converged else "calls")
        )


def dimer(tasks: Sequence[Task], fmax: float, max_calls: int = 2000) -> Iterator[Outcome]:
    """ASE's dimer with its defaults, beginning along the task's mode."""
    for task in tasks:
        model = Counted(task.model())
        atoms = attached(task, task.structure, model)
        began = time.perf_counter()
        rng = np.random.default_rng(0)
        mode = rng.normal(size=(len(atoms), 3)) if task.mode is None else task.mode
        control = DimerControl(logfile=None, eigenmode_logfile=None, mask=task.movable.tolist())
        pair = MinModeAtoms(atoms, control, eigenmodes=[mode / np.linalg.norm(mode)], random_seed=0)
        converged, reason = False, None
        try:
            for converged in MinModeTranslate(pair, logfile=None).irun(fmax=fmax, steps=10**6):
                if converged or model.calls > max_calls:
                    break
        except Exception as error:  # a rival's failure is a result
            reason = type(error).__name__
        took = time.perf_counter() - began
        structure = task.structure.moved(atoms.positions)
        yield Outcome(
            task.name, bool(converged), model.calls, took, structure, reason=reason or (None if converged else "calls")
        )


def ci_neb(
    tasks: Sequence[Task], fmax: float, images: int = 5, max_calls: int = 3000, optimizer: str = "lbfgs"
) -> Iterator[Outcome]:
    """ASE's NEB with improved tangent and IDPP start; it climbs once it is at 0.5 eV/Å. One optimizer for the band.

    The two ends count as a call each.
    """
    for task in tasks:
        model = Counted(task.model())
        first, last = task.path[0], task.path[-1]
        began = time.perf_counter()
        band_images = [attached(task, first, model) for _ in range(images + 1)] + [attached(task, last, model)]
        band = NEB(band_images, method="improvedtangent", allow_shared_calculator=False)
        converged, reason = False, None
        try:
            band.interpolate(method="idpp", mic=bool(first.pbc.any()))
            kind = LBFGS if optimizer == "lbfgs" else FIRE
            for climb, limit in ((False, 0.5), (True, fmax)):
                band.climb = climb
                for converged in kind(band, logfile=None).irun(fmax=limit, steps=10**6):
                    if converged or model.calls > max_calls:
                        break
        except Exception as error:  # a rival's failure is a result
            reason = type(error).__name__
        for end in (band_images[0], band_images[-1]):
            end.get_potential_energy()
        took = time.perf_counter() - began
        inner = band_images[1:-1]
        calls = model.calls
        top = inner[int(np.argmax([image.get_potential_energy() for image in inner]))]
        structure = first.moved(top.positions)
        yield Outcome(
            task.name, bool(converged), calls, took, structure, reason=reason or (None if converged else "calls")
        )


class MissingRivalError(Exception):
    """A rival cannot run here; the message says why."""


def eon_python() -> Path:
    """The Python of pyeonclient's environment, which is made under the user's cache where it is missing.

    Raises
    ------
    MissingRivalError
        There is no Python 3.12, or the package cannot be installed.
    """
    python = CACHE / "pyeonclient-0.4.2" / "bin" / "python"
    if python.exists():
        return python
    named = [shutil.which("python3.12"), *sorted(Path.home().glob(".pyenv/versions/3.12*/bin/python"))]
    found = next((one for one in named if one is not None and _runs(one)), None)
    if found is None:
        raise MissingRivalError("pyeonclient needs Python 3.12, which is not here")
    building = python.parents[1].with_name("pyeonclient-part")
    shutil.rmtree(building, ignore_errors=True)
    try:
        subprocess.run([found, "-m", "venv", building], check=True, capture_output=True, text=True)
        pip = [building / "bin" / "python", "-m", "pip", "install", "--quiet", EON]
        subprocess.run(pip, check=True, capture_output=True, text=True, timeout=600)
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise MissingRivalError(f"pyeonclient could not be installed: {said}") from error
    building.rename(python.parents[1])
    return python


def _runs(python: str | Path) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def eon(
    tasks: Sequence[Task], method: str, potential: str, fmax: float, norm: str = "norm", timeout: float = 3600.0
) -> Iterator[Outcome]:
    """pyeonclient with its defaults: lanczos, davidson, improved (the dimer), ci_neb or neb_ci_mmf.

    Parameters
    ----------
    potential : str
        eOn's own: MORSE_PT or LJ, the same function as the benchmark's model.
    norm : str
        ``norm`` over all coordinates, eOn's default, or ``max_atom``.
    """
    python = eon_python()
    first = tasks[0].structure
    settings = {"potential": potential, "method": method, "fmax": fmax, "norm": norm, "images": 5}
    arrays: dict[str, Any] = {
        "settings": json.dumps(settings),
        "names": np.array([task.name for task in tasks]),
        "numbers": first.numbers,
        "fixed": first.fixed,
        "periodic": bool(first.pbc.any()),
        "cell": first.cell if first.pbc.any() else 100.0 * np.eye(3),
    }
    shift = np.zeros(3) if first.pbc.any() else np.full(3, 50.0)
    if "neb" in method:
        arrays["firsts"] = np.array([task.path[0].positions + shift for task in tasks])
        arrays["lasts"] = np.array([task.path[-1].positions + shift for task in tasks])
    else:
        arrays["starts"] = np.array([task.structure.positions + shift for task in tasks])
        arrays["modes"] = np.array([task.mode for task in tasks])
        arrays["energy"] = tasks[0].model().predict([first])[0].energy
    by_name = {task.name: task for task in tasks}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/tasks.npz", **arrays)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
        with open(f"{folder}/log", "w", encoding="utf-8") as log:
            done = subprocess.run(
                [python, WORKER, "tasks.npz", "results.jsonl"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                timeout=timeout,
                check=False,
            )
        results = Path(folder) / "results.jsonl"
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        if done.returncode and len(lines) < len(tasks):
            said = Path(folder, "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise MissingRivalError(f"pyeonclient ended with {done.returncode}: {said[-1] if said else 'no message'}")
        for line in lines:
            one = json.loads(line)
            task = by_name[one["name"]]
            structure = task.structure.moved(np.array(one["positions"]) - shift)
            yield Outcome(one["name"], one["converged"], one["calls"], one["seconds"], structure, reason=one["reason"])
