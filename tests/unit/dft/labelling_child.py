"""Labels the queue of a store in a process of its own, and kills itself with SIGKILL at a named step.

python labelling_child.py FOLDER [STEP [COUNT]]
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlpath_core.data import S2EFWriter
from rlpath_core.dft import hook
from rlpath_core.dft.engines.base import Engine
from rlpath_core.dft.launchers.local import LocalLauncher
from rlpath_core.spec.dft import DftConfig
from rlpath_core.store import Store

STEPS: dict[str, tuple[type, str, str]] = {
    "after intent": (hook._Hook, "work", "before"),
    "inputs half written": (Engine, "write_inputs", "after"),
    "before submit": (hook._Hook, "_submit", "before"),
    "after submit": (hook._Hook, "_submit", "after"),
    "while running": (LocalLauncher, "wait", "after"),
    "before judging": (hook._Hook, "_ended", "before"),
    "after judging": (hook._Hook, "_ended", "after"),
    "before the LMDB": (S2EFWriter, "add", "before"),
    "between LMDB and database": (S2EFWriter, "add", "after"),
    "in the label's transaction": (hook._Hook, "_label_row", "after"),
    "after labelling": (hook._Hook, "_enter", "after"),
}


def killing(function: Callable[..., Any], when: str, count: int) -> Callable[..., Any]:
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        value = function(*args, **kwargs)
        if calls == count and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    return wrapped


def main(folder: Path, step: str | None = None, count: int = 1) -> None:
    if step is not None:
        owner, name, when = STEPS[step]
        setattr(owner, name, killing(getattr(owner, name), when, count))
    with Store(folder) as store:
        print(hook.label(store, DftConfig(workers=2), round=1, lmdb=folder / "labels" / "round-1.lmdb"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:4]))
