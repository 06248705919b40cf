"""A new model: all known minima and saddles are relaxed again from where they were, and their names stay.

Every point is a walker of its own, so that all of them are one lockstep batch. When all have ended, those that moved
least come first: a minimum that has slid into another one's well is merged into that one, not the other way round,
whichever was found first. Points that the last model did not have are tried again. What a later search finds of those
that vanished gets its old name back, see ``Catalogue.add_minimum``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.kinetics.modes import modes
from rlpath_core.lockstep.hessian import model_hessian, numerical_hessian
from rlpath_core.lockstep.hub import Evaluator, Hub, NotFiniteError, Script
from rlpath_core.lockstep.relax import Quenched, quench
from rlpath_core.lockstep.vibrations import vibrations
from rlpath_core.paths.catalogue import Catalogue, CataloguedMinimum, CataloguedSaddle, Status, number_of
from rlpath_core.paths.degeneracy import degeneracies
from rlpath_core.paths.identity import furthest
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.search_run import rounded_verdict
from rlpath_core.paths.searches.base import SEARCHES, Guess, Search, SearchEnded, Surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.paths.verification import verify
from rlpath_core.paths.watch import Watch
from rlpath_core.sampling.attempt import round_positions
from rlpath_core.structure import Structure

log = logging.getLogger("rlpath.paths")

DEFAULT = "minmode"
"""The search for runs that have double-ended ones only."""
RENEWAL_STREAM = 2**32 + 1
"""Of the random streams, beside those of searches."""
KICK = 0.1
"""Å (norm over all atoms): what a relaxation begins with."""
FAR = 1.0
"""Å: a minimum of which an atom has moved further is another one, and so is a saddle that joins other minima too."""


@dataclass(frozen=True)
class Change:
    """What became of a minimum or a saddle.

    Attributes
    ----------
    name
        Its name.
    status, merged_into, reason
        As in the catalogue.
    moved
        Å: how far the atom that moved furthest is from where it was; None if the search came to nothing.
    energy_change
        eV, from the last model that had it; None likewise.
    """

    name: str
    status: Status
    merged_into: str | None = None
    reason: str | None = None
    moved: float | None = None
    energy_change: float | None = None


class Renewal:
    """Relaxes what a catalogue has with another model; see the module's text.

    Parameters
    ----------
    catalogue : Catalogue
        By the model before. It is not changed.
    search : Search
        A single-ended one, which begins at the old saddle with its old mode.
    config : PathsConfig
        Its limits, how minima are relaxed, and what a saddle must show.
    seed : int
        Of the searches' random streams.
    conservative : bool
        Whether the model's forces are minus the gradient of its energy.

    Attributes
    ----------
    sides : dict
        By name of a connected saddle: the model's predictions of ``verdict.sides``.
    """

    def __init__(
        self, catalogue: Catalogue, search: Search, config: PathsConfig, seed: int, conservative: bool = True
    ) -> None:
        self.catalogue, self.search, self.config, self.seed = catalogue, search, config, seed
        self.conservative = conservative
        self.relaxed: dict[str, Quenched | str] = {}
        """By name: where a minimum is now, or why it is nowhere."""
        self.verdicts: dict[str, Verdict | str] = {}
        """By name: what verification says of a saddle now, or why the search ended."""
        self.sides: dict[str, tuple[Prediction, ...]] = {}
        self.calls: Counter[str] = Counter()

    @property
    def names(self) -> list[str]:
        """What is to be relaxed: all minima, then all saddles, in the order of ``scripts``."""
        return [*self.catalogue.minima, *self.catalogue.saddles]

    def scripts(self) -> list[Script]:
        """A walker for each of ``names``."""

        def script_of(name: str) -> Script:
            return lambda evaluate: self.relax_again(name, evaluate)

        return [script_of(name) for name in self.names]

    def relax_again(self, name: str, evaluate: Evaluator) -> None:
        """Relax one minimum, or search one saddle from where it was and verify it, and keep the outcome."""
        before = evaluate.calls
        minimum = name in self.catalogue.minima
        try:
            if minimum:
                self.relaxed[name] = self._relaxed(self.catalogue.minima[name], evaluate)
            else:
                self.verdicts[name] = self._verified(self.catalogue.saddles[name], evaluate)
        except (SearchEnded, NotFiniteError) as ended:
            reason = ended.reason if isinstance(ended, SearchEnded) else "not_finite"
            if minimum:
                self.relaxed[name] = reason
            else:
                self.verdicts[name] = reason
        self.calls[name] = evaluate.calls - before

    def _rng(self, name: str, kind: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, RENEWAL_STREAM, kind, number_of(name)])

    def _relaxed(self, minimum: CataloguedMinimum, evaluate: Evaluator) -> Quenched:
        roles = self.catalogue.roles
        structure = _kicked(minimum.structure, roles.movable, self._rng(minimum.name, 0))
        prediction = evaluate(structure)
        watch = Watch(roles, structure, prediction.energy, self.config.limits)
        options = self.config.verify.quench
        found = quench(structure, roles.movable, prediction, evaluate, options, lambda step, *at: watch(*at))
        return replace(found, structure=round_positions(found.structure))

    def _verified(self, saddle: CataloguedSaddle, evaluate: Evaluator) -> Verdict:
        structure = saddle.verdict.structure
        first: list[Watch] = []

        def watch(found: Structure, prediction: Prediction) -> None:
            if not first:
                first.append(Watch(self.catalogue.roles, structure, prediction.energy, self.config.limits))
            first[0](found, prediction)

        roles = self.catalogue.roles
        surface = Surface(evaluate, roles.movable, roles, self._rng(saddle.name, 1), watch, self.conservative)
        guess = Guess(structure, saddle.verdict.mode, start=saddle.start, end=saddle.end, proposal="renewal")
        verdict = verify(self.search.run(guess, surface), surface, self.config.verify)
        if verdict.rejection is not None or verdict.ends is None or verdict.sides is None:
            return verdict
        verdict = rounded_verdict(verdict)
        self.sides[saddle.name] = tuple(evaluate(list(verdict.sides or ())))
        return verdict

    def finish(self, model_sha256: str | None = None) -> tuple[Catalogue, list[Change]]:
        """The catalogue by the new model, once every script has come to its end.

        Parameters
        ----------
        model_sha256 : str, optional
            The new model's digest.

        Returns
        -------
        tuple of Catalogue and list of Change
            Minima have no frequencies; saddles have those of verification's Hessian, and are ``connected``. What
            became of each point comes in the order of ``names``.
        """
        old = self.catalogue
        new = Catalogue(old.options, old.roles, old.template, taken=old.taken, model_sha256=model_sha256)
        changes: dict[str, Change] = {}
        for name in self._nearest_first(old.minima, lambda name: self._moved_minimum(name)):
            changes[name] = self._enter_minimum(new, name)
        for name in self._nearest_first(old.saddles, lambda name: self._moved_saddle(name)):
            changes[name] = self._enter_saddle(new, name)
        new.minima = {name: new.minima[name] for name in sorted(new.minima, key=number_of)}
        new.saddles = {name: new.saddles[name] for name in sorted(new.saddles, key=number_of)}
        for (start, end), count in old.pairs.items():
            both = [new.minima[name].merged_into or name for name in (start, end)]
            pair = min(both, key=number_of), max(both, key=number_of)
            new.pairs[pair] = new.pairs.get(pair, 0) + count
        for name, minimum in new.minima.items():
            if name in changes and changes[name].status is Status.VANISHED and minimum.status is Status.PRESENT:
                changes[name] = Change(name, Status.PRESENT)  # what a saddle leads down to
        ordered = [changes[name] for name in self.names]
        log.info(told(ordered))
        return new, ordered

    @staticmethod
    def _nearest_first(names: Mapping[str, object], moved: Callable[[str], float | None]) -> list[str]:
        def order(name: str) -> tuple[float, int]:
            by = moved(name)
            return (np.inf if by is None else by, number_of(name))

        return sorted(names, key=order)

    def _moved(self, before: Structure, after: Structure) -> float:
        movable = self.catalogue.roles.movable
        return furthest(before, after, movable, bool(movable.all()))

    def _moved_minimum(self, name: str) -> float | None:
        relaxed = self.relaxed[name]
        return (
            None if isinstance(relaxed, str) else self._moved(self.catalogue.minima[name].structure, relaxed.structure)
        )

    def _moved_saddle(self, name: str) -> float | None:
        verdict = self.verdicts[name]
        if isinstance(verdict, str):
            return None
        return self._moved(self.catalogue.saddles[name].verdict.structure, verdict.structure)

    def _enter_minimum(self, new: Catalogue, name: str) -> Change:
        old, relaxed, moved = self.catalogue.minima[name], self.relaxed[name], self._moved_minimum(name)
        if isinstance(relaxed, str) or not relaxed.converged:
            reason = relaxed if isinstance(relaxed, str) else "not_converged"
            new.keep_minimum(replace(old, status=Status.VANISHED, merged_into=None, reason=reason))
            return Change(name, Status.VANISHED, reason=reason)
        assert moved is not None
        changed = partial(Change, name, moved=moved, energy_change=relaxed.energy - old.energy)
        known = new.minimum_of(relaxed.structure, relaxed.energy)
        if known is not None:
            new.keep_minimum(replace(old, status=Status.MERGED, merged_into=known, reason=None))
            if old.status is Status.PRESENT:
                new.minima[known].found += old.found
            return changed(Status.MERGED, merged_into=known)
        if moved > FAR:  # another minimum, which nobody knew
            into = new.add_minimum(relaxed.structure, relaxed.energy, relaxed.fmax)
            new.keep_minimum(replace(old, status=Status.MERGED, merged_into=into, reason=None))
            return changed(Status.MERGED, merged_into=into)
        renewed = replace(
            old,
            structure=relaxed.structure,
            energy=relaxed.energy,
            fmax=relaxed.fmax,
            frequencies=None,
            status=Status.PRESENT,
            merged_into=None,
            reason=None,
        )
        new.keep_minimum(renewed)
        return changed(Status.PRESENT)

    def _enter_saddle(self, new: Catalogue, name: str) -> Change:
        old, verdict, moved = self.catalogue.saddles[name], self.verdicts[name], self._moved_saddle(name)
        start, end = (new.minima[one].merged_into or one for one in (old.start, old.end))
        gone = replace(old, start=start, end=end, status=Status.VANISHED, merged_into=None)
        if isinstance(verdict, str) or verdict.rejection is not None:
            reason = verdict if isinstance(verdict, str) else verdict.rejection
            new.keep_saddle(replace(gone, reason=reason))
            return Change(name, Status.VANISHED, reason=reason)
        assert moved is not None
        assert verdict.ends is not None
        changed = partial(Change, name, moved=moved, energy_change=verdict.energy - old.verdict.energy)
        first, second = (
            new.minimum_of(one.structure, one.energy) or new.add_minimum(one.structure, one.energy, one.fmax)
            for one in verdict.ends
        )
        if self._turned(verdict, (first, second), old.verdict, (start, end)):
            verdict, first, second = turned_round(verdict), second, first
            self.sides[name] = self.sides[name][::-1]
        known = new.saddle_of(verdict.structure, verdict.energy, (first, second))
        if known is not None:
            new.keep_saddle(replace(gone, status=Status.MERGED, merged_into=known, reason=None))
            if old.status is Status.PRESENT:
                new.saddles[known].found += old.found
            return changed(Status.MERGED, merged_into=known)
        renewed = self._described(replace(old, start=first, end=second), verdict, moved)
        if {first, second} != {start, end} and moved > FAR:  # another saddle, which nobody knew
            into = new.add_saddle(
                verdict,
                first,
                second,
                frequencies=renewed.frequencies,
                degeneracy=renewed.degeneracy,
                degeneracy_back=renewed.degeneracy_back,
                evidence=renewed.evidence,
            )
            new.keep_saddle(replace(gone, status=Status.MERGED, merged_into=into, reason=None))
            self.sides[into] = self.sides[name]
            return changed(Status.MERGED, merged_into=into)
        new.keep_saddle(renewed)
        return changed(Status.PRESENT)

    def _described(self, old: CataloguedSaddle, verdict: Verdict, moved: float) -> CataloguedSaddle:
        """A saddle with its frequencies and degeneracies by the new model."""
        movable = self.catalogue.roles.movable
        assert verdict.ends is not None
        start, end = (one.structure for one in verdict.ends)
        there, back = degeneracies(start, verdict.structure, end, movable, self.catalogue.operations)
        of_hessian = None if verdict.hessian is None else vibrations(verdict.structure, movable, verdict.hessian)
        return replace(
            old,
            verdict=verdict,
            frequencies=None if of_hessian is None else of_hessian.frequencies,
            degeneracy=there,
            degeneracy_back=back,
            evidence={"proposal": "renewal", "calls": self.calls[old.name], "moved": moved},
            status=Status.PRESENT,
            merged_into=None,
            reason=None,
        )

    @staticmethod
    def _turned(verdict: Verdict, ends: tuple[str, str], old: Verdict, before: tuple[str, str]) -> bool:
        """Whether the way back is the way that was known."""
        if before[0] != before[1]:
            return ends == (before[1], before[0])
        assert verdict.mode is not None
        assert old.mode is not None
        return bool((verdict.mode * old.mode).sum() < 0)


def turned_round(verdict: Verdict) -> Verdict:
    """The same saddle from its second end to its first."""
    assert verdict.mode is not None
    assert verdict.sides is not None
    assert verdict.ends is not None
    return replace(verdict, mode=-verdict.mode, sides=verdict.sides[::-1], ends=verdict.ends[::-1])


def _kicked(structure: Structure, movable: Mask, rng: np.random.Generator) -> Structure:
    """Displaced a little at random, mostly along soft directions, so that no symmetry keeps it on a ridge."""
    kick = np.linalg.solve(model_hessian(structure, movable), rng.normal(size=3 * int(movable.sum())))
    return structure.displaced(movable, KICK * kick / np.linalg.norm(kick))


def renew(
    catalogue: Catalogue, hub: Hub, search: Search, config: PathsConfig, seed: int
) -> tuple[Catalogue, list[Change], dict[str, tuple[Prediction, ...]]]:
    """Relax everything that a catalogue has with another model, and compute the frequencies anew.

    The same catalogue, model, search, config and seed give the same result: a run that is killed meanwhile begins it
    again.

    Parameters
    ----------
    catalogue : Catalogue
        By the model before. It is not changed.
    hub : Hub
        Of the new model.
    search, config, seed
        See ``Renewal``.

    Returns
    -------
    tuple of Catalogue, list of Change, and dict
        By the new model; what became of each minimum and saddle; and by name of a saddle the predictions of
        ``verdict.sides``.
    """
    renewal = Renewal(catalogue, search, config, seed, hub.model.conservative)
    hub.run(renewal.scripts())
    new, changes = renewal.finish(hub.model.digest or None)
    add_frequencies(new, hub, config.verify.hessian_step)
    return new, changes, renewal.sides


def add_frequencies(catalogue: Catalogue, hub: Hub, step: float) -> None:
    """Frequencies of all minima that steps with frequencies join, in one batch; such steps become ``rate_ready``.

    Parameters
    ----------
    catalogue : Catalogue
        Is changed.
    hub : Hub
    step : float
        Å, of the Hessian's displacements.
    """
    movable = catalogue.roles.movable
    steps = [saddle for saddle in catalogue.present_saddles if saddle.frequencies is not None]
    names = sorted({name for saddle in steps for name in (saddle.start, saddle.end)}, key=number_of)
    bare = [catalogue.minima[name] for name in names if catalogue.minima[name].frequencies is None]

    def script_of(minimum: CataloguedMinimum) -> Script:
        def compute(evaluate: Evaluator) -> None:
            with suppress(NotFiniteError):
                hessian = numerical_hessian(minimum.structure, movable, evaluate, step)
                minimum.frequencies = vibrations(minimum.structure, movable, hessian).frequencies

        return compute

    hub.run([script_of(minimum) for minimum in bare])
    for saddle in steps:
        ends = [catalogue.minima[name] for name in (saddle.start, saddle.end)]
        if _imaginary(saddle.verdict.structure, saddle.frequencies) == 1 and not any(
            _imaginary(end.structure, end.frequencies) for end in ends
        ):
            saddle.verdict = replace(saddle.verdict, state=State.RATE_READY)


def _imaginary(structure: Structure, frequencies: Floats | None) -> int:
    """How many imaginary modes there are; one if nobody knows, so that no minimum passes for one."""
    return 1 if frequencies is None else len(modes(structure, frequencies).imaginary)


def renewing_search(searches: Mapping[str, Search]) -> Search:
    """The first of a run's searches that begins from one structure; the default one if there is none."""
    for search in searches.values():
        if not search.double_ended:
            return search
    kind = SEARCHES[DEFAULT]
    return kind(kind.Options())


def told(changes: list[Change]) -> str:
    """One line for people: how much stayed, and what became of the rest."""
    parts = []
    for kind, prefix in (("minima", "B"), ("saddles", "TS")):
        of_kind = [change for change in changes if change.name.startswith(prefix)]
        if of_kind:
            stayed = [change for change in of_kind if change.status is Status.PRESENT]
            furthest_move = max((change.moved or 0.0 for change in stayed), default=0.0)
            parts.append(f"{len(stayed)} of {len(of_kind)} {kind} stay (moved by {furthest_move:.2f} Å at most)")
    for change in changes:
        if change.status is Status.MERGED:
            parts.append(f"{change.name} became {change.merged_into}")
        elif change.status is Status.VANISHED:
            parts.append(f"{change.name} vanished ({change.reason})")
    return f"the new model: {'; '.join(parts) or 'nothing was known before'}"
