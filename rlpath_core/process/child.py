"""A process that answers calls, started and ended by this one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rlpath_core.errors import FatalError, InputError, RlpathError, TransientError
from rlpath_core.process import worker
from rlpath_core.process.wire import Arrays, BadMessage, read_message, write_message

EXIT_GRACE = 5.0
"""Seconds in which a process that was asked to end does so by itself."""
PLAIN_WORKER = Path(worker.__file__)
"""What a Python without rlpath runs: see ``worker``."""


class Child:
    """A process that ``worker.serve`` runs in, one call at a time.

    It ends with this object, or with this process however that ends. Calls and answers have a channel that nothing else
    uses: whatever the process prints goes to its log. In a fork of this process the object has ``ended``, and the
    process and its channel stay with the parent.

    Parameters
    ----------
    command
        Starts the process.
    name
        Its name in errors, such as "the process of model.json".
    env
        Its environment; this process's by default.
    log
        The file to which it adds what it prints. By default a file that appears only if an error names it.
    cwd
        The folder in which it starts.
    stop_seconds
        If a call is interrupted, the process gets SIGTERM and has so long to end by itself.

    Raises
    ------
    FatalError
        If it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        cwd: str | Path | None = None,
        stop_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self._stop_seconds = stop_seconds
        self._has_answered = False
        self._log = _Log(log)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log.stream,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    env={**(os.environ if env is None else env), worker.CHANNEL: str(theirs.fileno())},
                    cwd=cwd,
                )
            except OSError as error:
                ours.close()
                self._log.stream.close()
                raise FatalError(f"{command[0]} cannot be started: {error}") from error
        self._channel: IO[bytes] = open(ours.detach(), "r+b", buffering=0)  # noqa: SIM115
        self._finalizer = weakref.finalize(self, _kill, self._process, self._channel, self._log.stream)
        _LIVE.add(self)

    @property
    def ended(self) -> bool:
        return not self._finalizer.alive

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """For ``select``: readable when ``receive`` would not wait."""
        return self._channel.fileno()

    def ask(
        self,
        call: str,
        header: Mapping[str, Any] | None = None,
        arrays: Arrays | None = None,
        *,
        seconds: float | None = None,
        report: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[dict[str, Any], Arrays]:
        """Call a handler of the process and return its answer.

        Parameters
        ----------
        call, header, arrays
            The handler's name and its arguments.
        seconds
            After so long without a message the process is ended.
        report
            Called with what the handler reports before it answers.

        Raises
        ------
        InputError, TransientError, FatalError
            As raised by the handler; FatalError for anything else that it raises.
        TransientError, FatalError
            If the process ends; both name its log. Fatal if it ended by itself before it ever answered.
        """
        if self.ended:
            raise TransientError(f"{self.name} has ended")
        try:
            with contextlib.suppress(BrokenPipeError):  # and there is nothing to receive
                self.send(call, header, arrays)
            message = self.receive(seconds)
            while message is not None and "report" in message[0]:
                if report is not None:
                    report(message[0]["report"])
                message = self.receive(seconds)
            if message is None:
                raise self._exit_error()
        except BaseException:
            if self._stop_seconds:
                self.terminate()
            self.end(self._stop_seconds)  # a later call would get the answer to this one
            raise
        self._has_answered = True
        if "error" in message[0]:
            raise self.unpack_error(message[0]["error"])
        return message[0]["answer"], message[1]

    def send(self, call: str, header: Mapping[str, Any] | None = None, arrays: Arrays | None = None) -> None:
        """Call a handler; ``receive`` has its answer. Raises BrokenPipeError if the process has ended."""
        if self.ended:
            raise BrokenPipeError
        try:
            write_message(self._channel, {"call": call, "header": dict(header or {})}, arrays)
        except ConnectionResetError as error:
            raise BrokenPipeError from error

    def receive(self, seconds: float | None = None) -> tuple[dict[str, Any], Arrays] | None:
        """The next message, whose header has the key ``report``, ``answer`` or ``error``; None if the process ended."""
        if seconds is not None:
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            if not poll.poll(1000 * seconds):
                self.end()
                raise FatalError(f"{self.name} has not answered for {seconds:g} s and was ended")
        try:
            return read_message(self._channel)
        except (OSError, ValueError, BadMessage):  # ValueError: another thread has ended it
            return None

    def unpack_error(self, packed: Mapping[str, Any]) -> RlpathError:
        """The error that the process answers with, as ``worker`` packs it."""
        for kind in (InputError, TransientError, FatalError):
            if packed["kind"] == kind.__name__:
                return kind(*packed["arguments"])
        text = " ".join(packed["text"].split())
        return FatalError(f"{self.name} raised {text}; its log is {self._log.keep()}")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; waits for ``EXIT_GRACE``, and is None if the process still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_GRACE)
        return self._process.returncode

    def last_line(self) -> str:
        """The last line that it printed."""
        return last_line_of(self._log.read(1 << 12))

    def request_exit(self) -> None:
        """Close the channel: the process ends after the call that it may be in."""
        self._channel.close()

    def end(self, grace: float = 0.0) -> None:
        """End the process; with a ``grace`` it is asked to, and killed after so many seconds if it still runs."""
        if grace and self._finalizer.alive:
            self.request_exit()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(EXIT_GRACE)

    def detach_after_fork(self) -> None:
        """Close this fork's copies of what belongs to the parent."""
        self._finalizer.detach()
        for stream in (self._channel, self._log.stream):
            with contextlib.suppress(OSError):
                stream.close()

    def _exit_error(self) -> TransientError | FatalError:
        code = self.exit_code()
        if code is None:
            how = "no longer answers"
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        line = self.last_line()
        text = f"{self.name} {how}; its log is {self._log.keep()}{f', which ends: {line}' if line else ''}"
        return TransientError(text) if self._has_answered or code is None or code < 0 else FatalError(text)


class _Log:
    """What a process prints: in the file ``path``, or in a temporary one that has no name until an error needs it."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._is_temporary = path, path is None
        self.stream: IO[bytes] = tempfile.TemporaryFile() if path is None else open(path, "a+b")  # noqa: SIM115

    def read(self, size: int | None = None) -> bytes:
        """Its last ``size`` bytes, or all; nothing after ``end``. The place where the process writes does not move."""
        if self.stream.closed:
            return b""
        length = os.fstat(self.stream.fileno()).st_size
        start = 0 if size is None else max(0, length - size)
        return os.pread(self.stream.fileno(), length - start, start)

    def keep(self) -> Path:
        """The path; that of a temporary log is made by the first call."""
        if self._path is None:
            handle, name = tempfile.mkstemp(prefix="rlpath-", suffix=".log")
            os.close(handle)
            self._path = Path(name)
        if self._is_temporary and not self.stream.closed:
            self._path.write_bytes(self.read())
        return self._path


def last_line_of(content: bytes) -> str:
    """The last line with anything printable on it, at most 300 characters; empty if there is none."""
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in content.decode(errors="replace"))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


_LIVE: weakref.WeakSet[Child] = weakref.WeakSet()


def _detach_all() -> None:
    for child in list(_LIVE):
        child.detach_after_fork()
    _LIVE.clear()


os.register_at_fork(after_in_child=_detach_all)


def _kill(process: subprocess.Popen[bytes], channel: IO[bytes], log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    channel.close()
    log.close()
