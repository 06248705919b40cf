"""Searches by pyeonclient: runs in an environment of its own (Python 3.12), which has neither rlpath nor ASE.

    python eon_worker.py TASKS.npz RESULTS.jsonl

The file of tasks has ``settings`` (a JSON text with potential, method, fmax, norm, images), ``numbers``, ``cell``,
``fixed``, and one row per search of ``starts`` and ``modes``, or of ``firsts`` and ``lasts``. A line is written as each
search ends.
Force calls are those of eOn's own registry of potentials, which counts every evaluation of the potential.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyeonclient as eon


def parameters(settings: dict[str, Any]) -> Any:
    p = eon.Parameters()
    p.quiet, p.write_log, p.random_seed = True, False, 1
    p.potential = getattr(eon.PotType, settings["potential"])
    p.saddle_minmode_method = {"improved": "dimer"}.get(settings["method"], settings["method"])
    p.dimer_improved = True
    p.opt_method = eon.OptType.LBFGS if settings["method"] == "lanczos" else eon.OptType.CG
    p.opt_convergence_metric = settings["norm"]
    p.opt_converged_force = p.saddle_converged_force = p.neb_force_tolerance = settings["fmax"]
    p.saddle_max_iterations = p.opt_max_iterations = 1000
    p.neb_images = settings.get("images", 5)
    p.neb_minimize_endpoints = False
    p.neb_climbing_image = True
    p.neb_ci_mmf = settings["method"] == "neb_ci_mmf"
    p.neb_max_iterations = 500
    return p


def matter(tasks: Any, positions: np.ndarray, pot: Any, p: Any) -> Any:
    out = eon.Matter(pot, p)
    out.resize(len(positions))
    out.cell = tasks["cell"]
    out.atomic_numbers = tasks["numbers"].astype(np.int32)
    out.masses = np.ones(len(positions))
    if not tasks["periodic"]:
        out.periodic = False
    out.positions = positions
    for k in np.flatnonzero(tasks["fixed"]):
        out.set_fixed(int(k), 1)
    return out


def main() -> None:
    tasks = np.load(sys.argv[1])
    settings = json.loads(str(tasks["settings"]))
    p = parameters(settings)
    pot = eon.make_potential(p.potential, p)
    with Path(sys.argv[2]).open("a", encoding="utf-8") as file:
        for k, name in enumerate(tasks["names"]):
            calls, began = eon.pot_registry_total_force_calls(), time.perf_counter()
            mode = None
            if "firsts" in tasks:
                ends = [matter(tasks, tasks[which][k], pot, p) for which in ("firsts", "lasts")]
                band = eon.NudgedElasticBand(eon.neb_idpp_path(*ends, settings["images"], p), p, pot)
                status = str(band.compute()).rsplit(".", 1)[-1]
                images = list(band.path_images())
                top = images[int(np.argmax([one.potential_energy for one in images[1:-1]])) + 1]
                good = status == "GOOD"
            else:
                start = matter(tasks, tasks["starts"][k], pot, p)
                mode = np.ascontiguousarray(tasks["modes"][k])
                top, code = eon.min_mode_saddle_search(start, mode, float(tasks["energy"]), p, pot)
                status = eon.saddle_status_message(code)
                good = code in (0, eon.SaddleStatus.GOOD)
            took = time.perf_counter() - began
            answer = {
                "name": str(name),
                "converged": good,
                "reason": None if good else status,
                "calls": eon.pot_registry_total_force_calls() - calls,
                "seconds": took,
                "positions": np.asarray(top.positions).tolist(),
            }
            file.write(json.dumps(answer) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
