"""A model in a process of its own, which answers over a pipe: in another interpreter, or while this one goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlpath_core.backends.base import Model, Pending, Prediction
from rlpath_core.backends.exchange import pack_structures, unpack_error, unpack_predictions
from rlpath_core.backends.frames import Arrays, NotAMessage, message, read_message
from rlpath_core.backends.interpreters import child_environment
from rlpath_core.errors import FatalError, TransientError
from rlpath_core.structure import Structure

SERVE = ("-P", "-m", "rlpath_core.backends.serve")
LAST_WORDS_SECONDS = 5.0
PIPE_BYTES = 1 << 20


class RemoteModel(Model):
    """The bundle ``manifest`` loaded by ``python``, another environment's interpreter.

    Its process ends with this object, or with this process however that ends. A fork starts one of its own. Threads
    may share a model: their calls wait for each other. Raises the errors that ``load_model`` and ``predict`` raise
    there; TransientError, which names the log, where the process dies: the next call starts another. ``threads``: of
    torch, there; None for as many as here.
    """

    background = True

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
        threads: int | None = None,
    ) -> None:
        self.manifest_path: Path = manifest
        self._python, self._threads = python, threads
        options: dict[str, Any] = {"weights": weights and str(Path(weights).resolve()), "device": device}
        self._options = options | {"head": head, "amp": amp, "dtype": dtype}
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._process, about = self._start()
        self.digest, self.weights_sha256 = about["digest"], about["weights_sha256"]
        self.backend = about["backend"]  # type: ignore[misc]
        self.elements, self.device = frozenset(about["elements"]), about["device"]
        self.conservative = about["conservative"]

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if not structures:
            return []
        return self.submit(structures, forces=forces, embeddings=embeddings).result()

    def submit(self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False) -> Pending:
        asked = pack_structures(structures)
        if self._owner != os.getpid():  # a fork: whoever holds the lock has stayed behind
            self._lock, self._owner = threading.Lock(), os.getpid()
        with self._lock:
            process = self._running()
            question = process.send({"forces": forces, "embeddings": embeddings}, asked)
        return _Underway(self._lock, process, question, asked["ends"])

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
                raise FatalError(f"{self.manifest_path} is not the bundle any more that this model was loaded from")
            self._process = process
        return self._process

    def _start(self) -> tuple[Process, dict[str, Any]]:
        threads, torch = self._threads, sys.modules.get("torch")
        if threads is None and torch is not None:
            threads = torch.get_num_threads()
        process = Process(self._python, str(self.manifest_path))
        wish = {"manifest": str(self.manifest_path.resolve()), "options": self._options, "threads": threads}
        try:
            return process, process.ask(wish, {})[0]
        except BaseException:
            process.end()
            raise


@dataclass
class _Underway(Pending):
    lock: threading.Lock
    process: Process
    question: Question
    ends: Any

    def result(self) -> list[Prediction]:
        with self.lock:
            header, found = self.process.answer(self.question)
        self.seconds = header["seconds"]
        return unpack_predictions(found, self.ends)


@dataclass(eq=False)
class Question:
    """``size``: in bytes, as it was sent."""

    size: int
    answer: tuple[dict[str, Any], Arrays] | Exception | None = None


class Process:
    """The other interpreter; it answers questions in the order they come in. ``what`` names the model in errors."""

    def __init__(self, python: Path, what: str) -> None:
        self._what = what
        self._open: deque[Question] = deque()
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
        self._room = min(_widen(self._popen.stdin), _widen(self._popen.stdout))
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
        return self.answer(self.send(header, arrays))

    def send(self, header: Mapping[str, Any], arrays: Arrays) -> Question:
        """Returns at once, as long as what is on its way fits into the pipe."""
        assert self._popen.stdin is not None
        sent = message(header, arrays)
        # both sides would wait for ever for the other to read
        while self._open and len(sent) + sum(question.size for question in self._open) > self._room:
            self._read()
        question = Question(len(sent))
        self._open.append(question)
        try:
            self._popen.stdin.write(sent)
            self._popen.stdin.flush()
        except OSError:
            self._give_up(self._obituary())
        except BaseException:
            self._interrupted()
            raise
        return question

    def answer(self, question: Question) -> tuple[dict[str, Any], Arrays]:
        """The answer to ``question``; raises the error that the other process answers with."""
        while question.answer is None:
            self._read()
        if isinstance(question.answer, Exception):
            raise question.answer
        return question.answer

    def _read(self) -> None:
        """The next answer, for the question that has waited longest."""
        assert self._popen.stdout is not None
        try:
            answer = read_message(self._popen.stdout)
        except (OSError, NotAMessage):
            answer = None
        except BaseException:
            self._interrupted()
            raise
        if answer is None:
            self._give_up(self._obituary())
            return
        question = self._open.popleft()
        if "error" in answer[0]:
            question.answer = unpack_error(answer[0]["error"], str(self._log.path))
            self._log.kept |= isinstance(question.answer, FatalError)
        else:
            self._greeted = True
            question.answer = answer

    def _interrupted(self) -> None:
        """A later question would get this one's answer."""
        self.end()
        self._give_up(TransientError(f"the process of {self._what} was ended in the middle of a question"))

    def _give_up(self, why: Exception) -> None:
        while self._open:
            self._open.popleft().answer = why

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


def _widen(pipe: IO[bytes] | None) -> int:
    """Bytes that ``pipe`` holds while nobody reads: more than by default, where the system lets it."""
    assert pipe is not None
    room = 4096
    with contextlib.suppress(OSError, AttributeError):
        room = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        room = fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return room


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
