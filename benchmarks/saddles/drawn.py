"""Exploration around one minimum as a run does it: proposals are drawn by what they found, and nothing is found twice.

A search ends where it comes to a saddle that is known, or where it stays above ``cap`` eV; a new saddle is verified.
All these calls count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.saddles.common import Counted, Outcome, roles_of
from rlpath_core.backends.base import Model, Prediction
from rlpath_core.geometry.matching import matched
from rlpath_core.lockstep.hub import NotFiniteError
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.paths.drawing import Draw
from rlpath_core.paths.identity import same_structure
from rlpath_core.paths.options import LimitsOptions, PathsConfig, VerifyOptions
from rlpath_core.paths.proposals import KnownMinimum, KnownSaddle, Landscape
from rlpath_core.paths.proposals.nearby import distances, images
from rlpath_core.paths.searches import SEARCHES, Guess, Search, SearchEnded, Surface
from rlpath_core.paths.verification import verify
from rlpath_core.paths.watch import Watch
from rlpath_core.structure import Structure

NEAR = 0.1
"""Å: a search with no atom further than this from its place in a known saddle ends there."""
SAME_ENERGY = 0.003
"""eV: saddles further apart in energy are different."""
GRACE = 20
"""Moves after which the energy counts: a random displacement lifts it."""
START = "B001"


class Drawn:
    """Searches from one minimum, one after the other. Calling it gives the outcomes of the next ``batch``.

    Parameters
    ----------
    model : Model
    minimum : Structure
    seed : int
    search : Search or str
        The search, or its name.
    proposals : dict
        As ``paths.proposals``.
    cap : float
        eV above the minimum: saddles above it are not wanted.
    fmax : float
        eV/Å, for searches by name and their verification.
    batch : int
    copies : bool
        Whether the copies of a saddle that the symmetry of the held atoms makes, and that lie at the minimum too, are
        outcomes of their own: they cost nothing.
    """

    def __init__(
        self,
        model: Model,
        minimum: Structure,
        seed: int,
        search: Search | str = "minmode",
        proposals: dict[str, Any] | None = None,
        cap: float = 1.35,
        fmax: float = 0.01,
        batch: int = 8,
        copies: bool = False,
    ) -> None:
        self.model, self.minimum, self.seed, self.cap, self.batch = Counted(model), minimum, seed, cap, batch
        self.search = SEARCHES[search](SEARCHES[search].Options(fmax=fmax)) if isinstance(search, str) else search
        self.roles = roles_of(minimum)
        self.energy = model.predict([minimum])[0].energy
        self.draw = Draw(PathsConfig(proposals=proposals or {"displacements": {}, "soft_modes": {}}))
        self.rng = np.random.default_rng(seed)
        # Lindh's curvatures are not those of platinum: the first steps of a relaxation would be too long
        quench = QuenchOptions(method="lbfgs", fmax=0.01, steps=400, max_step=0.1)
        self.verify = VerifyOptions(fmax=fmax, hessian="never", quench=quench)
        self.saddles: list[KnownSaddle] = []
        self.counts: dict[str, list[int]] = {}
        """Searches and calls by proposal and outcome."""
        self.n = 0
        self.operations: list[int] = []
        """Numbers of the operations, but the identity, that leave the minimum as it is."""
        if copies:
            every = images(minimum, self.roles)
            near = distances(minimum, every, self.roles) < NEAR * np.sqrt(self.roles.active.sum())
            self.operations = [k for k in np.flatnonzero(near).tolist() if k]

    def __call__(self, first: int = 0) -> Iterator[Outcome]:
        for _ in range(self.batch):
            landscape = Landscape(self.roles, [KnownMinimum(START, self.minimum, self.energy, self.n)], self.saddles)
            drawn = self.draw.next(landscape, self.rng)
            if drawn is None:
                return
            self.n += 1
            yield (one := self._one(drawn[1]))
            if one.structure is not None:
                for k in self.operations:
                    copy = one.structure.moved(images(one.structure, self.roles)[k])
                    yield Outcome(f"{one.name} copy {k}", True, 0, 0.0, matched(self.minimum, copy, self.roles.movable))

    def _one(self, guess: Guess) -> Outcome:
        evaluate, rng = self.model.evaluator(), np.random.default_rng([self.seed, self.n])
        began, saddle, new, calls, structure, mode = self.model.seconds, None, False, 0, None, None
        watch = Watch(self.roles, self.minimum, self.energy, LimitsOptions())
        surface = Surface(evaluate, self.roles.movable, self.roles, rng, self._stopping(watch))
        try:
            guess = self.draw.refine(guess, evaluate, rng)
            found = self.search.run(guess, surface)
            calls = evaluate.calls
            reason = found.reason or "known"
            if found.converged and found.prediction.energy - self.energy > self.cap:
                reason = "cap"
            elif found.converged and (saddle := self._known(found.structure, found.prediction.energy)) is None:
                verdict = verify(found, replace(surface, watch=watch), self.verify)
                reason = verdict.rejection or "elsewhere"
                if verdict.rejection is None and verdict.ends is not None and verdict.mode is not None:
                    here = [same_structure(end.structure, self.minimum, self.roles.movable) for end in verdict.ends]
                    if any(here):
                        saddle, new, reason = f"TS{len(self.saddles) + 1:03d}", True, "new"
                        structure, mode = verdict.structure, verdict.mode if here[0] else -verdict.mode
                        self.saddles.append(KnownSaddle(saddle, structure, verdict.energy, mode, START, START))
        except SearchEnded as ended:
            reason = ended.reason
            if reason.startswith("known:"):
                reason, saddle = reason.split(":")
        except NotFiniteError:
            reason = "not_finite"
        self.draw.observe(guess, saddle, new, evaluate.calls)
        count = self.counts.setdefault(f"{guess.proposal} {reason}", [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + evaluate.calls
        calls = calls or evaluate.calls
        more = {"verify_calls": evaluate.calls - calls, "proposal": guess.proposal, **guess.parameters}
        seconds = self.model.seconds - began
        return Outcome(f"{self.seed} {self.n}", new, calls, seconds, structure, mode, reason, more)

    def _known(self, structure: Structure, energy: float) -> str | None:
        alike = (one for one in self.saddles if abs(one.energy - energy) < SAME_ENERGY)
        same = (one.name for one in alike if same_structure(one.structure, structure, self.roles.movable))
        return next(same, None)

    def _stopping(self, watch: Watch) -> Any:
        """The limits of a run, and those of the class."""
        movable, saddles, moves = self.roles.movable, list(self.saddles), 0
        known = np.array([one.structure.positions[movable] for one in saddles])

        def look(structure: Structure, prediction: Prediction) -> None:
            nonlocal moves
            watch(structure, prediction)
            moves += 1
            if moves > GRACE and prediction.energy - self.energy > self.cap:
                raise SearchEnded("cap", prediction.energy - self.energy, self.cap)
            if saddles:
                off = np.linalg.norm(known - structure.positions[movable], axis=2).max(axis=1)
                if off.min() < NEAR:
                    raise SearchEnded(f"known:{saddles[int(off.argmin())].name}", float(off.min()), NEAR)

        return look
