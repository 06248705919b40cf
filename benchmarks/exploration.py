"""Distinct basins per 1000 force calls: every walk policy, and ASE's BasinHopping and MinimaHopping.

    python benchmarks/exploration.py [--calls 1000] [--seeds 5] [--first-seed 0] [--manifest FILE] [--structure FILE]
        [--policies frontier ...] [--walkers 4] [--threads 2] [--dr 0.1 0.5] [--tight 0.01]

All start from the same structure with the same model and may ask it for forces ``--calls`` times; all relax to
0.1 eV/Å. What counts is decided afterwards by one criterion that is none of theirs: every minimum that a method met is
relaxed on to ``--tight`` eV/Å (these calls are nobody's), and two are the same when their energies differ by less than
0.01 eV and their sorted lists of distances from movable atoms, element pair by element pair, by less than 0.1 Å.
Minima with a fragment of the adsorbate more than 4.5 Å off the surface, where the starter model sees nothing of it, do
not count. BasinHopping runs with each step length of ``--dr`` and kT = 0.1 eV, MinimaHopping with its defaults. A
policy runs with the sampler's defaults, but for few walkers: the attempts in flight when the calls are spent are lost.
Its further lines say where its calls went, by how attempts ended and by action. Defaults relax on what seems new
(``basin.refine_fmax``), so that one minimum is not two basins; ``--no-refining`` adds a row without, as the other two
do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import FIRE
from ase.optimize.basin import BasinHopping
from ase.optimize.bfgslinesearch import BFGSLineSearch
from ase.optimize.minimahopping import MinimaHopping

from rlpath_core.backends import load_model
from rlpath_core.backends.base import Model, Prediction
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.sampling.attempt import Attempt
from rlpath_core.sampling.options import BasinOptions, DetachedOptions, SamplingConfig, WalkOptions
from rlpath_core.sampling.policy import POLICIES
from rlpath_core.sampling.run import Run
from rlpath_core.sampling.validators import VALIDATORS, Displacement
from rlpath_core.store import Store
from rlpath_core.structure import Structure, read_structures
from rlpath_core.testing.minima import classes, relaxed

ROOT = Path(__file__).resolve().parents[1]


OFF = 4.5
"""Å off the surface: a fragment is no longer adsorbed."""


class SpentError(Exception):
    pass


class Counting(Calculator):
    """The model as an ASE calculator that answers so many times and no more."""

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self, model: Model, template: Structure, calls: int) -> None:
        super().__init__()
        self.model, self.template, self.left = model, template, calls

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        if self.left == 0:
            raise SpentError
        self.left -= 1
        (found,) = self.model.predict([self.template.moved(self.atoms.positions)])
        self.results = {"energy": found.energy, "free_energy": found.energy, "forces": found.forces}


def noting(kind: type, minima: list[np.ndarray]) -> type:
    """The optimizer ``kind``, which notes where it converged."""

    class Noting(kind):  # type: ignore[misc]
        def run(self, *args: Any, **kwargs: Any) -> bool:
            converged = bool(super().run(*args, **kwargs))
            if converged:
                minima.append(self.optimizable.get_x().reshape(-1, 3).copy())
            return converged

    return Noting


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def basin_hopping(model: Model, start: Structure, calls: int, seed: int, dr: float) -> list[Structure]:
    minima: list[np.ndarray] = []
    atoms = start.to_ase()
    atoms.calc = Counting(model, start, calls)
    np.random.seed(seed)  # noqa: NPY002 - ASE draws from the global generator
    quiet = {"logfile": None, "trajectory": "low.traj", "optimizer_logfile": None, "local_minima_trajectory": "lm.traj"}
    with scratch(), contextlib.suppress(SpentError):
        hopping = BasinHopping(
            atoms, temperature=0.1, optimizer=noting(FIRE, minima), fmax=0.1, dr=dr, adjust_cm=False, **quiet
        )
        hopping.run(10**6)
    return [start.moved(positions) for positions in minima]


def minima_hopping(model: Model, start: Structure, calls: int, seed: int) -> list[Structure]:
    minima: list[np.ndarray] = []
    atoms = start.to_ase()
    atoms.calc = Counting(model, start, calls)
    np.random.seed(seed)  # noqa: NPY002
    with scratch(), contextlib.suppress(SpentError):
        hopping = MinimaHopping(atoms, optimizer=noting(BFGSLineSearch, minima), fmax=0.1)
        hopping(totalsteps=10**6)
    return [start.moved(positions) for positions in minima]


@dataclass
class Account:
    """How many attempts ended how, what they cost, and the same by action."""

    ends: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    by_action: Counter[str] = field(default_factory=Counter)

    def lines(self, total: int) -> list[str]:
        shares = [f"{self.spent[end] / total:.0%} {end} ({count})" for end, count in self.ends.most_common()]
        actions = [
            f"{name} {calls / total:.0%} ({self.found[name]})" for name, calls in self.by_action.most_common() if calls
        ]
        return [
            "calls: " + ", ".join([*shares, f"{1 - self.spent.total() / total:.0%} in flight at the end"]),
            "calls by action (basins found): " + ", ".join(actions),
        ]


class Watched(Run):
    """A run that counts how attempts ended, and what they cost."""

    account: Account

    def count(self, attempt: Attempt) -> Attempt:
        trial, result = attempt.trial, attempt.result
        if trial.rejection is not None:
            end = "rejected"
        elif result.new_basin:
            end = "new basin"
        elif result.basin is not None:
            end = "back" if result.basin == attempt.start.basin else "another known"
        elif result.skipped:
            end = "not relaxed"
        else:
            end = "no basin"
        self.account.ends[end] += 1
        self.account.spent[end] += result.force_calls
        self.account.by_action[trial.action] += result.force_calls
        self.account.found[trial.action] += result.new_basin
        return super().count(attempt)


class Budget(Model):
    """A model that answers for so many structures and no more."""

    def __init__(self, model: Model, calls: int) -> None:
        self.model, self.left = model, calls
        self.backend = model.backend  # type: ignore[misc]
        self.digest, self.device, self.elements = model.digest, model.device, model.elements

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if self.left < len(structures):
            raise SpentError
        self.left -= len(structures)
        return self.model.predict(structures, forces=forces, embeddings=embeddings)


def policy(
    model: Model,
    start: Structure,
    calls: int,
    seed: int,
    name: str,
    walkers: int,
    refine: bool,
    account: Account,
) -> list[Structure]:
    basin = BasinOptions() if refine else BasinOptions(refine_fmax=None)
    config = SamplingConfig(walk=WalkOptions(policy=name), basin=basin, walkers=walkers, steps=10**9)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        run = Watched(
            config,
            Budget(model, calls),
            [start],
            Path(folder) / "run",
            store,
            seed=seed,
            run_id="benchmark",
        )
        run.account = account
        with contextlib.suppress(SpentError):
            run.go()
        return [basin.minimum.structure for basin in run.basins]


def distinct(model: Model, minima: list[Structure], start: Structure, fmax: float) -> int:
    """How many different minima the structures are, relaxed tightly."""
    if not minima:
        return 0
    detached, roles = VALIDATORS["detached"](DetachedOptions(max_distance=OFF)), infer_roles(start)
    tight = relaxed(model, minima, QuenchOptions(method="bfgs", fmax=fmax, steps=400))
    held = [
        one
        for one in tight
        if one.converged and detached.check(Displacement(start, one.structure, roles, "start")) is None
    ]
    return len(set(classes(held)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=ROOT / "models/starter/manifest.json")
    parser.add_argument("--structure", type=Path, default=ROOT / "models/starter/data/start.xyz")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--walkers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--policies", nargs="*", default=list(POLICIES))
    parser.add_argument("--dr", type=float, nargs="*", default=[0.1, 0.5], help="BasinHopping's step lengths, Å")
    parser.add_argument("--tight", type=float, default=0.01)
    parser.add_argument("--no-minima-hopping", action="store_true")
    parser.add_argument("--no-refining", action="store_true", help="every policy once more without basin.refine_fmax")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    model = load_model(args.manifest, device=args.device)
    start = read_structures(args.structure)[-1]
    accounts: dict[str, Account] = {}
    methods: dict[str, Callable[[int], list[Structure]]] = {}
    for name, refine in [(name, refine) for name in args.policies for refine in (True, False)[: 1 + args.no_refining]]:
        row = name if refine else f"{name}, no refining"
        accounts[row] = Account()
        methods[row] = lambda seed, name=name, refine=refine, row=row: policy(
            model, start, args.calls, seed, name, args.walkers, refine, accounts[row]
        )
    for dr in args.dr:
        methods[f"BasinHopping dr={dr}"] = lambda seed, dr=dr: basin_hopping(model, start, args.calls, seed, dr)
    if not args.no_minima_hopping:
        methods["MinimaHopping"] = lambda seed: minima_hopping(model, start, args.calls, seed)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    told = f"{args.calls} force calls, seeds {seeds[0]}-{seeds[-1]}, {len(start)} atoms"
    print(f"{told}; distinct basins per 1000 calls")
    print(f"{'method':<24} {'mean':>7} {'std':>6}   per seed{'':<24} minima met, seconds")
    for name, method in methods.items():
        began, rates, met = time.perf_counter(), [], 0
        for seed in seeds:
            minima = method(seed)
            met += len(minima)
            rates.append(1000 * distinct(model, minima, start, args.tight) / args.calls)
        each = " ".join(f"{rate:.1f}" for rate in rates)
        seconds = time.perf_counter() - began
        print(f"{name:<24} {np.mean(rates):>7.2f} {np.std(rates):>6.2f}   {each:<32} {met}, {seconds:.0f}", flush=True)
        if name in accounts:
            for line in accounts[name].lines(args.calls * args.seeds):
                print(f"    {line}", flush=True)


if __name__ == "__main__":
    main()
