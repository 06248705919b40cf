"""rlpath's searches by name, all tasks side by side in one hub, as a run does them."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.saddles.common import Counted, Outcome, Task, roles_of
from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Evaluator, Hub, NotFiniteError, Script
from rlpath_core.paths.options import LimitsOptions, VerifyOptions
from rlpath_core.paths.searches import SEARCHES, Found, Guess, SearchEnded, Surface
from rlpath_core.paths.verdict import Verdict
from rlpath_core.paths.verification import verify
from rlpath_core.paths.watch import Watch
from rlpath_core.structure import Structure

WALKERS = 32


LIMITS = LimitsOptions(max_energy=20.0, max_drop=None)
"""From a displaced start, whose energy may be anything; 20 eV is eOn's limit too."""


class _Limits:
    """The limits of a run, from the first structure that a search moves to."""

    def __init__(self, surface_of: Any) -> None:
        self.roles, self.watch = surface_of, None

    def __call__(self, structure: Structure, prediction: Prediction) -> None:
        if self.watch is None:
            self.watch = Watch(self.roles, structure, prediction.energy, LIMITS)
        self.watch(structure, prediction)


def surface(task: Task, evaluate: Evaluator) -> Surface:
    roles = roles_of(task.structure)
    rng = np.random.default_rng(zlib.crc32(task.name.encode()))
    return Surface(evaluate, task.movable, roles, rng, _Limits(roles))


def search(
    tasks: Sequence[Task],
    name: str,
    fmax: float,
    max_calls: int = 1000,
    verified: VerifyOptions | None = None,
    walkers: int = WALKERS,
    model: Any = None,
    **options: Any,
) -> Iterator[Outcome]:
    """Run ``SEARCHES[name]``, and the verification where its options are given, whose calls are counted apart."""
    kind = SEARCHES[name]
    method = kind(kind.Options(fmax=fmax, max_calls=max_calls, **options))
    counted = Counted(model or tasks[0].model())
    for first in range(0, len(tasks), walkers):
        chunk = tasks[first : first + walkers]
        done: dict[str, Outcome] = {}
        began, before = time.perf_counter(), counted.calls
        Hub(counted).run([_script(task, method, verified, done) for task in chunk])
        took = (time.perf_counter() - began) / len(chunk)
        asked = sum(one.calls + one.more.get("verify_calls", 0) for one in done.values())
        assert asked == counted.calls - before, "the counter of the model and those of the searches differ"
        for task in chunk:
            yield replace(done[task.name], seconds=took)


def _script(task: Task, method: Any, verified: VerifyOptions | None, done: dict[str, Outcome]) -> Script:
    def run(evaluate: Evaluator) -> None:
        at = surface(task, evaluate)
        guess = Guess(task.structure, task.mode, task.path)
        try:
            found: Found = method.run(guess, at)
        except SearchEnded as ended:
            done[task.name] = Outcome(task.name, False, evaluate.calls, 0.0, reason=ended.reason)
            return
        except NotFiniteError:
            done[task.name] = Outcome(task.name, False, evaluate.calls, 0.0, reason="not_finite")
            return
        calls, more = evaluate.calls, {}
        if verified is not None:
            verdict: Verdict = verify(found, at, verified)
            more = {
                "verify_calls": evaluate.calls - calls,
                "state": str(verdict.state),
                "rejection": verdict.rejection,
            }
        done[task.name] = Outcome(
            task.name,
            found.converged,
            calls,
            0.0,
            found.structure,
            found.mode,
            found.reason,
            {"steps": found.steps, **more},
        )

    return run
