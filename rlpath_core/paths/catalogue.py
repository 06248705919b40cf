"""The catalogue: minima and saddles under names that stay, whatever the model and the round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.symmetry import Symmetry
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.paths.identity import StationaryPoints
from rlpath_core.paths.proposals.base import KnownMinimum, KnownSaddle, Landscape
from rlpath_core.paths.verdict import Verdict
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure

SADDLE_WINDOW = 0.02
"""eV: saddles whose energies differ by more are different."""
ANY = 1e9
"""eV: the window for points of earlier models, whose energies tell nothing."""


class Status(StrEnum):
    """Whether the present model has a known point."""

    PRESENT = "present"
    MERGED = "merged"
    """It relaxed into another one, see ``merged_into``."""
    VANISHED = "vanished"
    """The model has no such point, and none that it became."""


@dataclass(eq=False)
class CataloguedMinimum:
    """A minimum.

    Attributes
    ----------
    name
        ``B001`` and so on.
    structure, energy, fmax
        As the present model has it: eV and eV/Å. If it has none, as the last model that had it.
    found
        How often searches ended in it.
    searches
        How often searches began from it.
    frequencies
        [n_modes], cm⁻¹; None if not computed.
    status, merged_into, reason
        See ``Status``; the name of the minimum that it became; why it vanished.
    """

    name: str
    structure: Structure
    energy: float
    fmax: float = 0.0
    found: int = 1
    searches: int = 0
    frequencies: Floats | None = None
    status: Status = Status.PRESENT
    merged_into: str | None = None
    reason: str | None = None


@dataclass(eq=False)
class CataloguedSaddle:
    """A saddle and what verification says of it.

    Attributes
    ----------
    name
        ``TS001`` and so on.
    verdict
        By the present model; if it has no such saddle, by the last model that had it.
    start, end
        Names of the minima on the sides of ``verdict.ends``, in this order.
    found
        How often searches found it.
    frequencies, degeneracy, degeneracy_back
        As of ``kinetics.network.Saddle``.
    evidence
        Plain values that show the state.
    status, merged_into, reason
        As of a minimum.
    """

    name: str
    verdict: Verdict
    start: str
    end: str
    found: int = 1
    frequencies: Floats | None = None
    degeneracy: int = 1
    degeneracy_back: int = 1
    evidence: dict[str, Any] = field(default_factory=dict)
    status: Status = Status.PRESENT
    merged_into: str | None = None
    reason: str | None = None


class Catalogue:
    """Minima and saddles of one surface by one model.

    Symmetry copies and copies with exchanged like atoms are one. Names count up and are never given twice; the points
    that the present model does not have keep theirs, and those that vanished get them back when they are found again.

    Parameters
    ----------
    options : BasinOptions
        When two minima are one. Saddles must agree to ``SADDLE_WINDOW`` and join the same minima.
    roles : Roles
    template : Structure
        The atoms that do not move.
    minima, saddles
        What is known already, by the present model.
    taken : tuple of int
        The highest numbers that names of minima and saddles have had, if that is more than here.
    model_sha256 : str, optional
        The model's digest.

    Attributes
    ----------
    minima, saddles : dict
        By name, in the order in which they were found.
    pairs : dict
        See ``Landscape.pairs``.
    new : set of str
        Names that were given since it was made.
    """

    def __init__(
        self,
        options: BasinOptions,
        roles: Roles,
        template: Structure,
        minima: Iterable[CataloguedMinimum] = (),
        saddles: Iterable[CataloguedSaddle] = (),
        taken: tuple[int, int] = (0, 0),
        model_sha256: str | None = None,
    ) -> None:
        self.options, self.roles, self.template = options, roles, template
        self.model_sha256 = model_sha256
        self.new: set[str] = set()
        self.minima: dict[str, CataloguedMinimum] = {}
        self.saddles: dict[str, CataloguedSaddle] = {}
        self.taken = taken
        self.pairs: dict[tuple[str, str], int] = {}
        self._minima = StationaryPoints(options, template, roles)
        self._window = options.model_copy(update={"energy_window": SADDLE_WINDOW})
        self._any = options.model_copy(update={"energy_window": ANY})
        self._gone = StationaryPoints(self._any, template, roles, self._minima.copies)
        self._saddles: dict[tuple[str, str], StationaryPoints] = {}
        self._gone_saddles: dict[tuple[str, str], StationaryPoints] = {}
        for minimum in minima:
            self.keep_minimum(minimum)
        for saddle in saddles:
            self.keep_saddle(saddle)

    def keep_minimum(self, minimum: CataloguedMinimum) -> None:
        """Enter a minimum under the name that it has already."""
        number = number_of(minimum.name)
        self.taken = (max(number, self.taken[0]), self.taken[1])
        self.minima[minimum.name] = minimum
        if minimum.status is Status.PRESENT:
            self._minima.add(number, minimum.structure, minimum.energy)
        elif minimum.status is Status.VANISHED:
            self._gone.add(number, minimum.structure, minimum.energy)

    def keep_saddle(self, saddle: CataloguedSaddle) -> None:
        """Enter a saddle under the name that it has already. Its Hessian is not kept."""
        number = number_of(saddle.name)
        self.taken = (self.taken[0], max(number, self.taken[1]))
        saddle.verdict = replace(saddle.verdict, hessian=None)
        self.saddles[saddle.name] = saddle
        verdict, pair = saddle.verdict, _pair(saddle.start, saddle.end)
        if saddle.status is Status.PRESENT:
            self._between(self._saddles, pair, self._window).add(number, verdict.structure, verdict.energy)
        elif saddle.status is Status.VANISHED:
            self._between(self._gone_saddles, pair, self._any).add(number, verdict.structure, verdict.energy)

    @property
    def present_minima(self) -> list[CataloguedMinimum]:
        """Those that the present model has."""
        return [minimum for minimum in self.minima.values() if minimum.status is Status.PRESENT]

    @property
    def operations(self) -> Symmetry | None:
        """Of the atoms that do not move; None where there is no group to search."""
        return self._minima.copies.operations

    @property
    def present_saddles(self) -> list[CataloguedSaddle]:
        """Those that the present model has."""
        return [saddle for saddle in self.saddles.values() if saddle.status is Status.PRESENT]

    def minimum_of(self, structure: Structure, energy: float) -> str | None:
        """The name of a relaxed structure if it is a known minimum or a copy of one. Counts nothing."""
        number = self._minima.find(structure, energy)
        return None if number is None else minimum_name(number)

    def add_minimum(self, structure: Structure, energy: float, fmax: float = 0.0) -> str:
        """Enter a minimum that is not known; returns its name: a new one, or that of a copy which had vanished."""
        gone = (minimum_name(number) for number in self._gone.all_of(structure, energy))
        back = next((self.minima[name] for name in gone if self.minima[name].status is Status.VANISHED), None)
        if back is not None:
            found = back.found + 1
            self.keep_minimum(CataloguedMinimum(back.name, structure, energy, fmax, found, back.searches))
            return back.name
        name = minimum_name(self.taken[0] + 1)
        self.new.add(name)
        self.keep_minimum(CataloguedMinimum(name, structure, energy, fmax))
        return name

    def enter_minimum(self, structure: Structure, energy: float, fmax: float = 0.0) -> tuple[str, bool]:
        """The name of a relaxed structure and whether it is new; counts that it was found."""
        name = self.minimum_of(structure, energy)
        if name is None:
            return self.add_minimum(structure, energy, fmax), True
        self.minima[name].found += 1
        return name, False

    def saddle_of(self, structure: Structure, energy: float, ends: tuple[str, str]) -> str | None:
        """The name of a saddle between two minima, in either order, if it is a known one or a copy of one."""
        index = self._saddles.get(_pair(*ends))
        number = None if index is None else index.find(structure, energy)
        return None if number is None else saddle_name(number)

    def known_saddle(self, structure: Structure, energy: float) -> str | None:
        """``saddle_of`` for a saddle whose ends are not known yet."""
        found = (index.find(structure, energy) for index in self._saddles.values())
        number = next((number for number in found if number is not None), None)
        return None if number is None else saddle_name(number)

    def add_saddle(
        self,
        verdict: Verdict,
        start: str,
        end: str,
        *,
        frequencies: Floats | None = None,
        degeneracy: int = 1,
        degeneracy_back: int = 1,
        evidence: dict[str, Any] | None = None,
    ) -> str:
        """Enter a saddle that is not known; returns its name: a new one, or that of a copy which had vanished.

        Parameters
        ----------
        verdict : Verdict
            Connected at least. Its Hessian is not kept.
        start, end : str
            Names of the minima that ``verdict.ends`` are, in this order.
        frequencies, degeneracy, degeneracy_back, evidence
            See ``CataloguedSaddle``.

        Returns
        -------
        str
        """
        index = self._gone_saddles.get(_pair(start, end))
        gone = (
            [] if index is None else [saddle_name(number) for number in index.all_of(verdict.structure, verdict.energy)]
        )
        back = next((self.saddles[name] for name in gone if self.saddles[name].status is Status.VANISHED), None)
        name = saddle_name(self.taken[1] + 1) if back is None else back.name
        if back is None:
            self.new.add(name)
        saddle = CataloguedSaddle(
            name,
            verdict,
            start,
            end,
            found=1 if back is None else back.found + 1,
            frequencies=frequencies,
            degeneracy=degeneracy,
            degeneracy_back=degeneracy_back,
            evidence=dict(evidence or {}),
        )
        self.keep_saddle(saddle)
        return name

    def join(self, start: str, end: str) -> None:
        """Count that an action or a search led from one minimum to the other."""
        pair = _pair(start, end)
        self.pairs[pair] = self.pairs.get(pair, 0) + 1

    def landscape(self) -> Landscape:
        """What proposals may look at: what the present model has."""
        minima = [KnownMinimum(m.name, m.structure, m.energy, m.searches) for m in self.present_minima]
        saddles = []
        for saddle in self.present_saddles:
            verdict = saddle.verdict
            assert verdict.mode is not None
            saddles.append(
                KnownSaddle(saddle.name, verdict.structure, verdict.energy, verdict.mode, saddle.start, saddle.end)
            )
        return Landscape(self.roles, minima, saddles, dict(self.pairs))

    def network(self, theory: str = "") -> ReactionNetwork:
        """Minima and saddles that the present model has, for rates, files and pictures."""
        minima = tuple(Minimum(m.name, m.structure, m.energy, m.frequencies) for m in self.present_minima)
        return ReactionNetwork(minima, tuple(_step(saddle) for saddle in self.present_saddles), theory)

    def _between(
        self, indexes: dict[tuple[str, str], StationaryPoints], pair: tuple[str, str], options: BasinOptions
    ) -> StationaryPoints:
        """The index of the saddles between two minima; an empty one if there is none yet."""
        if pair not in indexes:
            indexes[pair] = StationaryPoints(options, self.template, self.roles, self._minima.copies)
        return indexes[pair]


def minimum_name(number: int) -> str:
    """``B001`` for 1."""
    return f"B{number:03d}"


def saddle_name(number: int) -> str:
    """``TS001`` for 1."""
    return f"TS{number:03d}"


def number_of(name: str) -> int:
    """1 for ``B001`` and ``TS001``."""
    return int(name.lstrip("BTS"))


def _pair(start: str, end: str) -> tuple[str, str]:
    return (start, end) if number_of(start) <= number_of(end) else (end, start)


def _step(saddle: CataloguedSaddle) -> Saddle:
    verdict = saddle.verdict
    assert verdict.mode is not None
    return Saddle(
        saddle.name,
        verdict.structure,
        verdict.energy,
        verdict.mode,
        saddle.start,
        saddle.end,
        saddle.frequencies,
        saddle.degeneracy,
        saddle.degeneracy_back,
        str(verdict.state),
        saddle.evidence,
    )
