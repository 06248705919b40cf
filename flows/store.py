"""The database of a campaign or a run: ``python -m flows.store ACTION --run_dir campaigns/default``.

``ls [WHAT]`` lists rows, ``show ID`` prints everything about one id, ``why LABEL`` what made a label, ``export OUT``
writes labels to a file, ``queue FILE`` imports a queue, ``check`` compares files with rows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.cli import run_command, show
from rlpath_core.errors import InputError
from rlpath_core.store import Store, find_store, queries

LISTS: dict[str, Callable[[Store, int | None], Sequence[Any]]] = {
    "rounds": lambda store, k: [_scalars(r.metrics) for r in queries.rounds(store) if k in (None, r.round)],
    "runs": lambda store, k: [r for r in queries.runs(store) if k in (None, r.round)],
    "models": lambda store, k: queries.models(store),
    "basins": queries.basins,
    "transitions": queries.transitions,
    "attempts": queries.attempts,
    "actions": queries.action_counts,
    "queue": queries.queue,
    "states": queries.job_states,
    "failures": queries.failures,
    "labels": queries.labels,
    "origins": lambda store, k: queries.label_origins(store),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rlpath store", description="Look into the database of a campaign.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--run_dir", default=".", help="a campaign's or a sampling run's folder; default: this one")
    actions = parser.add_subparsers(dest="action", required=True)

    def action(name: str, run: Callable[[Any], int | None], text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(run=run)
        return made

    listing = action("ls", ls, "list rows; without WHAT, how many there are")
    listing.add_argument("what", nargs="?", choices=list(LISTS))
    listing.add_argument("--limit", type=int, help="print at most this many rows")
    listing.add_argument("--json", action="store_true", help="whole rows as JSON")
    showing = action("show", show_id, "everything about a structure, job, model or run")
    showing.add_argument("id", help="an id or its beginning")
    asking = action("why", why, "which attempt, model and calculation made a label")
    asking.add_argument("label", help="id of its structure or job, or the beginning of it")
    exporting = action("export", export, "write labels to a new file")
    exporting.add_argument("out", type=Path, help="*.xyz, *.lmdb or *.db (of ASE)")
    for made in (listing, exporting):
        made.add_argument("--round", type=int, dest="round_index", help="only this round of the campaign")
    queueing = action("queue", queue, "import a dft_queue.jsonl that was written by hand, for the outbox of --run_dir")
    queueing.add_argument("file", type=Path)
    action("check", check, "compare files with rows; exit code 1 if something is missing, damaged or different")
    given = parser.parse_args(argv)
    return run_command(lambda: given.run(given))


def ls(given: Any) -> None:
    with Store(find_store(given.run_dir)) as store:
        if given.what is None:
            show(queries.counts(store))
            return
        found = LISTS[given.what](store, given.round_index)[: given.limit]
    rows = [row if isinstance(row, dict) else asdict(row) for row in found]
    from rlpath_core.dft.status import table

    print(json.dumps(rows, indent=2, default=str) if given.json else table([_short(row) for row in rows]))


def show_id(given: Any) -> None:
    with Store(find_store(given.run_dir)) as store:
        found = queries.find(store, given.id)
        if not found:
            raise InputError(f"no structure, job, model or run has an id that starts with {given.id!r}", store.folder)
    for table, rows in found.items():
        for row in rows:
            print(f"[{table}]")
            show(row)


def why(given: Any) -> None:
    with Store(find_store(given.run_dir)) as store:
        stories = queries.label_story(store, given.label)
        if not stories:
            raise InputError(f"no label has a structure or job id that starts with {given.label!r}", store.folder)
    for story in stories:
        show(asdict(story))


def export(given: Any) -> None:
    from rlpath_core.data import write_labelled
    from rlpath_core.dft.labels import read_labels

    with Store(find_store(given.run_dir)) as store:
        print(f"{given.out}: {write_labelled(given.out, read_labels(store, given.round_index))} labels")


def queue(given: Any) -> None:
    from rlpath_core.outbox import import_queue

    folder = Path(given.run_dir)
    try:
        folder = find_store(folder)
    except InputError as error:  # a new database, beside the structures
        if not (folder / "structures").is_dir():
            raise InputError("holds no structures/<id>.npz and is in no campaign", folder, "run_dir") from error
    with Store(folder) as store:
        show(asdict(import_queue(store, given.file, given.run_dir)))


def check(given: Any) -> int:
    from rlpath_core.store.check import check as differences

    with Store(find_store(given.run_dir)) as store:
        found = differences(store)
    print("\n".join(found) or "files and rows agree")
    return int(bool(found))


def _scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not isinstance(value, dict)}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Digests cut to 12 characters, mappings as JSON."""
    cells = {}
    for key, value in row.items():
        if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
            value = value[:12]
        elif isinstance(value, float):
            value = f"{value:.6g}"
        cells[key] = json.dumps(value) if isinstance(value, dict | list) else value
    return cells


if __name__ == "__main__":
    sys.exit(main())
