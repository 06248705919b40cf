"""One single point with GPAW: gpaw.json in, gpaw_answer.json out. Runs in GPAW's own Python and needs nothing else."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    import ase
    import gpaw
    from gpaw.mpi import world

    with open("gpaw.json") as stream:
        asked = json.load(stream)
    atoms = ase.Atoms(
        asked["numbers"], asked["positions"], cell=asked["cell"], pbc=asked["pbc"], magmoms=asked["magmoms"]
    )
    answer: dict[str, Any] = {
        "versions": {"gpaw": gpaw.__version__, "ase": ase.__version__},
        "error": None,
        "kind": None,
    }
    parameters = dict(asked["parameters"])
    if isinstance(parameters.get("mode"), dict) and parameters["mode"]["name"] == "pw":
        parameters["mode"] = gpaw.PW(parameters["mode"]["ecut"])
    try:
        calculator = gpaw.GPAW(txt="gpaw.txt", **parameters)
        atoms.calc = calculator
        answer["forces"] = atoms.get_forces().tolist()
        answer["energy"] = float(atoms.get_potential_energy(force_consistent=True))
        scf = getattr(calculator, "scf", None)
        # Later versions raise where they do not converge, and have no such attribute.
        answer["converged"] = True if scf is None else bool(scf.converged)
        count = getattr(calculator, "get_number_of_iterations", None)
        answer["iterations"] = None if count is None else int(count())
        done = calculator.get_atoms() if hasattr(calculator, "get_atoms") else atoms
        answer["numbers"] = done.numbers.tolist()
        answer["positions"] = done.positions.tolist()
        answer["cell"] = [list(map(float, row)) for row in done.cell]
    except Exception as error:
        answer["error"], answer["kind"] = str(error) or type(error).__name__, type(error).__name__
        print(error, file=sys.stderr)
    if world.rank == 0:
        with open("gpaw_answer.json.part", "w") as stream:
            json.dump(answer, stream)
        os.replace("gpaw_answer.json.part", "gpaw_answer.json")


main()
