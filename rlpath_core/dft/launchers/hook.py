"""A user's hook in place of a launcher: a function or a shell command is given job folders, results come back by file.

The contract is in the README. In short: each folder holds ``request.json`` and gets a ``result.json``, whenever and by
whatever means, renamed into place whole. A folder may be handed over again after a crash: ``job_id`` is its key.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from rlpath_core.config import Section
from rlpath_core.dft.engines.base import RESULT
from rlpath_core.dft.faultpoints import Step, faultpoint
from rlpath_core.dft.launchers import script
from rlpath_core.dft.launchers.base import Event, Launcher, Submission
from rlpath_core.errors import FatalError
from rlpath_core.registry import import_name

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
POLL = 0.2


class HookOptions(Section):
    call: str
    """`module:function`, which is called with a list of folders, or a shell command, which is given them as JSON on
    stdin."""


class HookLauncher(Launcher):
    """``handed.<attempt>`` in a folder marks that the hook has taken it."""

    Options: ClassVar[type[Section]] = HookOptions
    detached: ClassVar[bool] = True

    def prepare(self) -> None:
        call = self.options.call
        self._function: Callable[[list[str]], Any] | None = (
            import_name(call, "hook") if FUNCTION.fullmatch(call) else None
        )
        self._open: dict[str, Submission] = {}

    def submit(self, submissions: Sequence[Submission]) -> dict[str, str]:
        if not submissions:
            return {}
        for submission in submissions:
            submission.folder.mkdir(parents=True, exist_ok=True)
        faultpoint(Step.SUBMITTING)
        self._call([str(submission.folder) for submission in submissions])
        now = time.time()
        for submission in submissions:
            mark = submission.folder / f"handed.{submission.attempt}"
            mark.touch()
            os.utime(mark, (now, now))  # by our clock, whatever that of the file server says
        self._open |= {submission.name: submission for submission in submissions}
        return {submission.name: "" for submission in submissions}

    def _call(self, folders: list[str]) -> None:
        call = self.options.call
        if self._function is not None:
            try:
                self._function(folders)
            except Exception as error:
                raise FatalError(f"hook {call} raised {type(error).__name__}: {error}") from error
            return
        done = subprocess.run(["sh", "-c", call], input=json.dumps(folders).encode(), capture_output=True)
        if done.returncode:
            printed = script.last_line_of(done.stderr or done.stdout)  # in whatever encoding
            raise FatalError(f"hook {call!r} ended with exit code {done.returncode}{': ' + printed if printed else ''}")

    def find(self, submissions: Sequence[Submission]) -> dict[str, str]:
        known = {
            submission.name: submission
            for submission in submissions
            if (submission.folder / f"handed.{submission.attempt}").exists()
        }
        self._open |= known
        return dict.fromkeys(known, "")

    def wait(self, timeout: float) -> list[Event]:
        until = time.monotonic() + timeout
        while True:
            events: list[Event] = []
            for name, submission in list(self._open.items()):
                handed = (submission.folder / f"handed.{submission.attempt}").stat().st_mtime
                if (submission.folder / RESULT).exists():
                    events += [Event(name, "started"), Event(name, "ended")]
                elif time.time() > handed + self.wall_of(submission):
                    reason = f"no {RESULT} within {self.wall_of(submission):g} s of the hook's call"
                    events += [Event(name, "started"), Event(name, "ended", reason, "exit")]
                else:
                    continue
                del self._open[name]
            if events or not self._open or time.monotonic() >= until:
                return events
            time.sleep(min(POLL, max(0.0, until - time.monotonic())))

    def cancel(self, names: Iterable[str]) -> None:
        for name in names:
            self._open.pop(name, None)

    def close(self) -> None:
        self._open.clear()
