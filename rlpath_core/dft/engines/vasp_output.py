"""VASP's answer, read from vasprun.xml by pymatgen and judged.

Converged is a calculation that came to its end ("General timing" in OUTCAR) and whose last electronic step met EDIFF:
fewer steps than NELM, or OUTCAR's own word where the last of NELM did.
"""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlpath_core.dft.engines.base import Calculation
from rlpath_core.dft.engines.periodic import same_image
from rlpath_core.dft.engines.program import Ended, last_words, tail
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

REACHED = "aborting loop because EDIFF is reached"
FINISHED = "General timing and accounting informations for this job"
COMPLAINTS = ("VERY BAD NEWS", "internal error", "ERROR", "Error EDDDAV", "BRMIX: very serious", "ZBRENT", "EDDRMM")


def read_vasprun(
    folder: Path, structure: Structure, order: NDArray[np.int64], ended: Ended, energy: Literal["free", "sigma0"]
) -> Calculation:
    """Raises InputError where there is no whole vasprun.xml, with VASP's last words."""
    path = folder / "vasprun.xml"
    if not path.is_file() or not path.stat().st_size:
        raise InputError(f"VASP ended with exit code {ended.code} and no vasprun.xml{_complaint(ended, folder)}")
    run = _parsed(path, ended, folder)
    if len(run.ionic_steps) != 1:
        raise InputError(f"VASP did {len(run.ionic_steps)} ionic steps, and a label is one{_complaint(ended, folder)}")
    step = run.ionic_steps[0]
    n_steps, nelm = len(step["electronic_steps"]), int(run.parameters["NELM"])
    evidence = {
        "electronic_steps": n_steps,
        "NELM": nelm,
        "EDIFF_reached": says(folder / "OUTCAR", REACHED),
        "finished": says(folder / "OUTCAR", FINISHED),
        "potcars": list(run.potcar_symbols),
    }
    reason, failure = _verdict(evidence, ended, folder)
    final = step["structure"]
    if len(final) != len(structure):
        raise InputError(f"VASP calculated {len(final)} atoms, asked were {len(structure)}")
    back = np.argsort(order)
    positions = np.array(final.cart_coords)[back]
    return Calculation(
        converged=reason is None,
        reason=reason,
        failure=failure,
        energy=float(step["e_fr_energy"] if energy == "free" else run.final_energy),
        forces=np.array(step["forces"], float)[back],
        numbers=np.array(final.atomic_numbers, np.int64)[back],
        positions=same_image(structure, positions),
        cell=np.array(final.lattice.matrix),
        evidence=evidence,
        versions={"vasp": str(run.vasp_version)},
    )


def _parsed(path: Path, ended: Ended, folder: Path) -> Any:
    from pymatgen.io.vasp.outputs import Vasprun

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an SCF that did not converge, which is said aloud here
            return Vasprun(
                str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False, exception_on_bad_xml=True
            )
    except SyntaxError as error:  # what every XML parser's own error is
        raise InputError(f"vasprun.xml is cut off ({error}): VASP crashed{_complaint(ended, folder)}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"vasprun.xml is not one of VASP's ({type(error).__name__}: {error}){_complaint(ended, folder)}"
        ) from error


def _verdict(evidence: dict[str, Any], ended: Ended, folder: Path) -> tuple[str | None, Literal["scf"] | None]:
    steps, nelm = evidence["electronic_steps"], evidence["NELM"]
    if not evidence["finished"]:
        return f"VASP did not come to its end (exit code {ended.code}){_complaint(ended, folder)}", None
    if evidence["EDIFF_reached"]:
        return None, None
    if steps >= nelm:
        return f"the electronic steps ran out: {steps} of NELM = {nelm}", "scf"
    return f"EDIFF was not reached: VASP stopped after {steps} electronic steps", "scf"


def says(path: Path, words: str) -> bool:
    """Whether a file of any size has these words in it."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(words.encode()) >= 0


def _complaint(ended: Ended, folder: Path) -> str:
    """The line in which VASP says what is wrong, else the last that it printed."""
    for path in (ended.log, folder / "OUTCAR", folder / "output.log"):
        for line in tail(path).splitlines():
            if any(words in line for words in COMPLAINTS):
                return f": {' '.join(line.split())[:300]}"
    return last_words(ended.log, folder / "output.log")
