"""The record of a run: its rows in the database and its files, so that the two agree after any kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.files import AppendedFiles
from rlpath_core.paths.catalogue import Catalogue, CataloguedMinimum
from rlpath_core.paths.catalogue_rows import save_catalogue
from rlpath_core.paths.search_run import SearchResult
from rlpath_core.paths.state import FORMAT
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.sampling.plain import line, rounded
from rlpath_core.sampling.queueing import Queued, Queueing, queue_text
from rlpath_core.sampling.run_row import open_run
from rlpath_core.sampling.triggers import Candidate
from rlpath_core.store import Store, orm, saddles
from rlpath_core.structure import Structure

SEARCHES, QUEUE = "saddles.jsonl", "dft_queue.jsonl"
FILES = (SEARCHES, QUEUE)
SCORES = {"saddle": 3.0, "mode": 2.0, "end": 1.0}
"""Of candidates for labels, by their stage: saddles come first."""
RENEWAL = "renewal"
"""What stands for a proposal where a new model has moved a known saddle."""


@dataclass(frozen=True)
class Finished:
    """A search that has ended, and what the catalogue makes of it.

    Attributes
    ----------
    result
        What the search came to.
    saddle, new
        The name of the saddle that it verified or met again, and whether nobody knew that before.
    ends
        Names of its minima.
    candidates
        Structures that are worth a label.
    """

    result: SearchResult
    saddle: str | None = None
    new: bool = False
    ends: tuple[str, str] | None = None
    candidates: tuple[Candidate, ...] = ()

    @property
    def n(self) -> int:
        """Number of the search."""
        return self.result.plan.n

    @property
    def structure(self) -> Structure | None:
        """Where it ended, if that is a stationary point."""
        verdict = self.result.verdict
        return None if verdict is None or verdict.state == State.GUESS else verdict.structure

    def line(self) -> str:
        """Its line of ``saddles.jsonl``."""
        result, plan, verdict = self.result, self.result.plan, self.result.verdict
        curvatures = None if verdict is None else verdict.curvatures
        return line(
            {
                "n": plan.n,
                "walker": plan.walker,
                "proposal": plan.guess.proposal,
                "parameters": rounded(plan.guess.parameters),
                "start": plan.guess.start,
                "end": plan.guess.end,
                "search": plan.search,
                "state": str(result.state),
                "rejection": result.rejection,
                "figure": rounded(result.figure),
                "limit": rounded(result.limit),
                "energy": None if verdict is None else rounded(verdict.energy),
                "fmax": None if verdict is None else rounded(verdict.fmax),
                "curvatures": None if curvatures is None else rounded(curvatures),
                "asymmetry": None if verdict is None else rounded(verdict.asymmetry),
                "prefactor": None if verdict is None else rounded(verdict.prefactor),
                "disagreement": None if verdict is None else rounded(verdict.disagreement),
                "saddle": self.saddle,
                "new": self.new,
                "ends": None if self.ends is None else list(self.ends),
                "structure_id": None if self.structure is None else self.structure.id,
                "candidates": [candidate.structure.id for candidate in self.candidates],
                "steps": result.steps,
                "calls": result.calls,
            }
        )


def candidates_of(
    verdict: Verdict, sides: Sequence[Prediction], name: str, ends: Sequence[CataloguedMinimum]
) -> list[Candidate]:
    """The structures of a saddle that are worth a label: itself, both sides along its mode, the minima it joins.

    A minimum stands for all its copies: several saddles need one label of it. ``sides`` are the model's predictions of
    ``verdict.sides``.
    """
    assert verdict.sides is not None

    def candidate(stage: str, structure: Structure, fmax: float, energy: float) -> Candidate:
        return Candidate(structure, stage, name, SCORES[stage], fmax, energy)

    found = [candidate("saddle", verdict.structure, verdict.fmax, verdict.energy)]
    for side, prediction in zip(verdict.sides, sides, strict=True):
        found.append(candidate("mode", side, prediction.largest_force(~side.fixed), prediction.energy))
    found += [candidate("end", end.structure, end.fmax, end.energy) for end in ends]
    return found


def evidence_of(result: SearchResult) -> dict[str, Any]:
    """The figures and the ids of the structures that show a saddle's state: plain values."""
    verdict = result.verdict
    assert verdict is not None
    told: dict[str, Any] = {"search": result.plan.n, "method": result.plan.search, "fmax": verdict.fmax}
    if verdict.curvatures is not None:
        told["curvatures"] = [float(value) for value in verdict.curvatures]
    for key in ("asymmetry", "prefactor", "disagreement"):
        if getattr(verdict, key) is not None:
            told[key] = getattr(verdict, key)
    if verdict.sides is not None:
        told["sides"] = [side.id for side in verdict.sides]
    if verdict.ends is not None:
        told["ends"] = [end.structure.id for end in verdict.ends]
    return told


class PathsRecord:
    """A run's rows and files; ``commit`` makes one block of searches durable, all or nothing.

    Parameters
    ----------
    store
        Database and structures.
    run_dir
        Folder of the files.
    run_id
        Name of the run in the database.
    """

    def __init__(self, store: Store, run_dir: Path, run_id: str) -> None:
        self.store, self.run_dir, self.run_id = store, run_dir.resolve(), run_id

    def open(
        self, config: dict[str, Any], model: Model, starts: Sequence[Structure], round_index: int | None, resume: bool
    ) -> dict[str, Any]:
        """Begin the run, or continue it: what the last checkpoint saved. See ``sampling.run_row.open_run``."""
        saved = open_run(
            self.store,
            self.run_id,
            "paths",
            self.run_dir,
            FILES,
            config,
            format=FORMAT,
            changeable="max_searches, max_force_calls, max_seconds, unseen",
            model=model,
            starts=starts,
            round_index=round_index,
            resume=resume,
        )
        self.config = config
        self.files = AppendedFiles(self.run_dir, FILES, saved.get("lengths", {}))
        self.queue = Queueing(self.store, self.run_id, saved.get("queue_lines", 0))
        return saved

    def to_label_again(self, catalogue: Catalogue, sides: Mapping[str, Sequence[Prediction]]) -> list[Queued]:
        """Candidates of the saddles in ``sides``, which a new model has moved, but for those that were confirmed.

        Parameters
        ----------
        catalogue
            By the new model.
        sides
            Its predictions of ``verdict.sides``, by name of a saddle.
        """
        confirmed = {step.name for step in saddles.confirmed_steps(self.store)}
        found: list[Candidate] = []
        for saddle in catalogue.present_saddles:
            if saddle.name in sides and saddle.name not in confirmed:
                ends = [catalogue.minima[saddle.start], catalogue.minima[saddle.end]]
                found += candidates_of(saddle.verdict, sides[saddle.name], saddle.name, ends)
        return [Queued(0, RENEWAL, candidate) for candidate in self.queue.keep_new(found)]

    def commit(
        self,
        searches: Sequence[Finished],
        catalogue: Catalogue,
        saved: dict[str, Any],
        finished: bool,
        renewed: Sequence[Queued] = (),
    ) -> None:
        """Structures, rows, files and state of one block: files are on disk before the transaction commits.

        Parameters
        ----------
        searches
            Those of the block, in the order of their numbers.
        catalogue
            All that is known.
        saved
            The run's state, see ``lockstep.checkpoint.save``.
        finished
            Whether the run has reached a limit.
        renewed
            Candidates that no search of this run found.
        """
        with self.store.session() as session:
            queued = [*renewed]
            queued += [Queued(s.n, s.result.plan.guess.proposal, c) for s in searches for c in s.candidates]
            queued = self.queue.not_queued_by_others(session, queued)
            keep = [entry.candidate.structure for entry in queued]
            keep += [s for search in searches for s in (search.result.plan.guess.structure, search.structure) if s]
            self.store.put(keep, session)
            ids = save_catalogue(session, self.store, self.run_id, catalogue)
            self._put_searches(session, searches, ids)
            self.queue.put(session, queued)
            row = session.get_one(orm.RunRow, self.run_id)
            texts = {
                SEARCHES: "".join(search.line() for search in searches),
                QUEUE: queue_text(queued, self.run_id, self.queue.lines + 1),
            }
            lengths = self.files.append(texts)
            row.state = saved | {"lengths": lengths, "queue_lines": self.queue.lines + len(queued)}
            row.config = self.config
            row.status = "finished" if finished else "running"
            row.finished_at = datetime.now(UTC) if finished else None
        self.queue.lines += len(queued)

    def _put_searches(self, session: Session, searches: Sequence[Finished], ids: dict[str, int]) -> None:
        rows = []
        for search in searches:
            result, plan = search.result, search.result.plan
            figures = {"figure": rounded(result.figure), "limit": rounded(result.limit), "steps": result.steps}
            if result.verdict is not None:
                figures |= {"energy": rounded(result.verdict.energy), "fmax": rounded(result.verdict.fmax)}
                if result.verdict.curvatures is not None:
                    figures["curvatures"] = rounded(result.verdict.curvatures)
                for key in ("asymmetry", "prefactor", "disagreement"):
                    figures[key] = rounded(getattr(result.verdict, key))
            rows.append(
                {
                    "run_id": self.run_id,
                    "n": plan.n,
                    "proposal": plan.guess.proposal,
                    "search": plan.search,
                    "parameters": rounded(plan.guess.parameters),
                    "guess_id": plan.guess.structure.id,
                    "result_id": None if search.structure is None else search.structure.id,
                    "state": str(result.state),
                    "rejection": result.rejection,
                    "figures": figures,
                    "calls": result.calls,
                    "saddle_id": None if search.saddle is None else ids[search.saddle],
                }
            )
        if rows:
            session.execute(sa.insert(orm.SearchRow), rows)
