"""A model whose backend is not in this interpreter: its process answers from the other one, over a pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.backends.environments import child_environment
from rlpath_core.backends.exchange import pack_structures, unpack_error, unpack_predictions
from rlpath_core.backends.frames import Arrays, NotAMessage, read_message, write_message
from rlpath_core.errors import FatalError, TransientError
from rlpath_core.structure import Structure

SERVE = ("-P", "-m", "rlpath_core.backends.serve")
LAST_WORDS_SECONDS = 5.0


class RemoteModel(Model):
    """The bundle ``manifest`` loaded by ``python``, another environment's interpreter.

    Its process ends with this object, or with this process however that ends. A fork starts one of its own. Threads
    may share a model: their calls wait for each other. Raises the errors that ``load_model`` and ``predict`` raise
    there; TransientError, which names the log, where the process dies: the next call starts another.
    """

    def __init__(
        self,
        manifest: Path,
        *,
        python: Path,
        weights: str | Path | None = None,
        device: str = "cpu",
        head: str | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> None:
        self.reference = str(manifest.absolute())
        self._python = python
        options: dict[str, Any] = {"weights": weights and str(Path(weights).resolve()), "device": device}
        self._options = options | {"head": head, "amp": amp, "dtype": dtype}
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._process, about = self._start()
        self.digest, self.weights_sha256 = about["digest"], about["weights_sha256"]
        self.backend = about["backend"]
        self.elements, self.device = frozenset(about["elements"]), about["device"]
        self.conservative = about["conservative"]

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if not structures:
            return []
        asked = pack_structures(structures)
        if self._owner != os.getpid():  # a fork: whoever holds the lock has stayed behind
            self._lock, self._owner = threading.Lock(), os.getpid()
        with self._lock:
            _, found = self._running().ask({"forces": forces, "embeddings": embeddings}, asked)
        return unpack_predictions(found, asked["ends"])

    def close(self) -> None:
        """End the process now; a further ``predict`` starts another."""
        self._process.end()

    @property
    def pid(self) -> int:
        """The process that answers."""
        return self._process.pid

    def _running(self) -> Process:
        if self._process.ended:
            process, about = self._start()
            if about["digest"] != self.digest:
                process.end()
                raise FatalError(f"{self.reference} is not the bundle any more that this model was loaded from")
            self._process = process
        return self._process

    def _start(self) -> tuple[Process, dict[str, Any]]:
        torch = sys.modules.get("torch")
        threads = None if torch is None else torch.get_num_threads()
        process = Process(self._python, self.reference)
        wish = {"manifest": self.reference, "options": self._options, "threads": threads}
        try:
            return process, process.ask(wish, {})[0]
        except BaseException:
            process.end()
            raise


class Process:
    """The other interpreter, one question at a time. ``what`` names the model in errors."""

    def __init__(self, python: Path, what: str) -> None:
        self._what = what
        self._greeted = False
        handle, name = tempfile.mkstemp(prefix="rlpath-model-", suffix=".log")
        self._log = Log(Path(name))
        command = [str(python), *SERVE, "--parent", str(os.getpid()), "--log", name]
        try:
            self._popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=handle, env=child_environment()
            )
        except OSError as error:
            self._log.path.unlink()
            raise FatalError(f"{python} cannot be started: {error}") from error
        finally:
            os.close(handle)
        self._ends = weakref.finalize(self, _end, self._popen, self._log)
        _LIVE.add(self)

    @property
    def ended(self) -> bool:
        return not self._ends.alive

    @property
    def pid(self) -> int:
        return self._popen.pid

    def end(self) -> None:
        """It holds nothing but a loaded model: there is nothing to wait for."""
        self._ends()

    def ask(self, header: Mapping[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
        """Raises the error that the other process answers with."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            write_message(self._popen.stdin, header, arrays)
            answer = read_message(self._popen.stdout)
        except (OSError, NotAMessage):
            answer = None
        except BaseException:
            self.end()  # a later question would get this one's answer
            raise
        if answer is None:
            raise self._obituary()
        if "error" in answer[0]:
            error = unpack_error(answer[0]["error"], str(self._log.path))
            self._log.kept |= isinstance(error, FatalError)
            raise error
        self._greeted = True
        return answer

    def forget(self) -> None:
        """In a fork: let go of the parent's pipes, unflushed."""
        self._ends.detach()
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):
                pipe.raw.close()  # type: ignore[union-attr]

    def _obituary(self) -> TransientError | FatalError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(LAST_WORDS_SECONDS)
        code = self._popen.poll()
        self._log.kept = True
        self.end()
        if code is None:
            how = "answers no more"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = f"the process of {self._what} {how}; its log is {self._log.path}"
        if self._greeted or code is None or code < 0:
            return TransientError(words)
        lines = self._log.path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return FatalError(f"{words}{', which ends: ' + lines[-1] if lines else ''}")


@dataclass
class Log:
    """Standard error of the process; removed with it unless an error has named it."""

    path: Path
    kept: bool = False


_LIVE: weakref.WeakSet[Process] = weakref.WeakSet()


def _forget_all() -> None:
    for process in list(_LIVE):
        process.forget()
    _LIVE.clear()


os.register_at_fork(after_in_child=_forget_all)


def _end(popen: subprocess.Popen[bytes], log: Log) -> None:
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    if not log.kept:
        log.path.unlink(missing_ok=True)
