"""What a checkpoint of saddle searches keeps: searches in flight, and the catalogue to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rlpath_core.lockstep.checkpoint import Codec, Codecs
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.lockstep.replay import Journal
from rlpath_core.paths.catalogue import Catalogue, CataloguedMinimum, CataloguedSaddle, Status
from rlpath_core.paths.search_run import Plan
from rlpath_core.paths.searches import Guess
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.structure import Structure

FORMAT = 1
"""Of a run's state: another number for every change of it. A run of another format is not resumed."""


@dataclass
class InFlight:
    """A search between its plan and its result; see ``lockstep.replay``."""

    plan: Plan
    journal: Journal = field(default_factory=Journal)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        plan = self.plan
        return {
            "n": plan.n,
            "walker": plan.walker,
            "guess": plan.guess,
            "search": plan.search,
            "journal": self.journal.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> InFlight:
        """The search that ``state`` described."""
        plan = Plan(state["n"], state["walker"], state["guess"], state["search"])
        return cls(plan, Journal.from_state(state["journal"]))


def codecs(template: Structure) -> Codecs:
    """For ``lockstep.checkpoint``; all structures have the atoms and the cell of ``template``."""
    return {
        "Structure": Codec(Structure, lambda structure: structure.positions, template.moved),
        "Guess": _by_fields(Guess, path=tuple),
        "Quenched": _by_fields(Quenched),
        "Verdict": _by_fields(Verdict, state=State, curvatures=_pair, sides=_pair, ends=_pair),
        "Minimum": _by_fields(CataloguedMinimum, status=Status),
        "Saddle": _by_fields(CataloguedSaddle, status=Status),
    }


def _pair(value: list[Any] | None) -> tuple[Any, ...] | None:
    return None if value is None else tuple(value)


def _by_fields(kind: type[Any], **made: Any) -> Codec:
    """A dataclass by its fields; what JSON has no word for is ``made`` again from what it has."""
    names = [one.name for one in fields(kind)]

    def plain(one: Any) -> dict[str, Any]:
        return {name: getattr(one, name) for name in names}

    def again(value: dict[str, Any]) -> Any:
        return kind(**{name: made[name](entry) if name in made else entry for name, entry in value.items()})

    return Codec(kind, plain, again)


def state_of(catalogue: Catalogue) -> dict[str, Any]:
    """For the checkpoint."""
    return {
        "minima": list(catalogue.minima.values()),
        "saddles": list(catalogue.saddles.values()),
        "taken": catalogue.taken,
        "pairs": [[*pair, count] for pair, count in catalogue.pairs.items()],
    }


def catalogue_from(state: Mapping[str, Any], empty: Catalogue) -> Catalogue:
    """The catalogue that ``state`` described, on the surface of ``empty``."""
    taken = (int(state["taken"][0]), int(state["taken"][1]))
    options, roles, template = empty.options, empty.roles, empty.template
    catalogue = Catalogue(options, roles, template, state["minima"], state["saddles"], taken, empty.model_sha256)
    catalogue.pairs = {(start, end): count for start, end, count in state["pairs"]}
    return catalogue
