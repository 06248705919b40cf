"""The command ``rlpath``: ``rlpath NAME`` is ``python -m flows.NAME``. A command is imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from rlpath_core import __version__
from rlpath_core.errors import nearest

COMMANDS = {
    "init": ("flows.init", "write a campaign file for a structure and a model of yours"),
    "loop": ("flows.al_loop", "run or continue an active-learning campaign"),
    "sample": ("flows.sample", "explore a potential energy surface from a structure"),
    "paths": ("flows.paths", "find saddles, barriers and rates: verified elementary steps"),
    "outbox": ("flows.outbox", "drop near-duplicates, choose what is worth a label"),
    "check": ("flows.check", "what rlpath sees in structures, data sets and models, and what looks wrong"),
    "dft": ("flows.dft_submit", "reference calculations of what the outbox chose"),
    "run": ("flows.run", "any task of a run.yaml: train, finetune, resume, evaluate, infer, export"),
    "train": ("flows.train", "train, fine-tune or resume as a run.yaml describes"),
    "evaluate": ("flows.evaluate", "errors of a model on a labelled set"),
    "action-quality": ("flows.action_quality", "acceptance, forces and new basins by action of a sampling run"),
    "visualize": ("flows.visualize", "films, contact sheets and basin graphs"),
    "store": ("flows.store", "list, explain, export, import and check what the database holds"),
    "services": ("flows.services.__main__", "the local Prefect server and workers: up, down, status"),
}
"""Name, module with a ``main(argv)``, and one line for ``rlpath --help``."""


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        ["usage: rlpath COMMAND ...", "", *lines, "", "rlpath COMMAND --help lists the options of a command."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"rlpath {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"error: no command {name!r}.{nearest(name, COMMANDS)} Known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    code: int = import_module(COMMANDS[name][0]).main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
