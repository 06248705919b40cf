"""A renderer's process: scenes go in as lines of JSON, pictures come out as files.

The process reads its standard input and ends when that is closed, which the kernel does however this one ends: a
``kill -9`` leaves no renderer behind for longer than one picture.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rlpath_core.errors import FatalError, InputError
from rlpath_core.registry import Registry

HERE = Path(__file__).resolve().parent
START_SECONDS = 180.0
FRAME_SECONDS = 1800.0
MARK = "RLPATH "


class Renderer(ABC):
    """Knows how its program is started. ``version`` is part of a frame's key: raised when pictures change."""

    name: str
    version = 1

    @abstractmethod
    def command(self) -> tuple[list[str], dict[str, str]]:
        """Words and environment of the process; InputError that says what to install where it is missing."""


RENDERERS: Registry[type[Renderer]] = Registry("renderer", "rlpath.renderers")


@RENDERERS.register("ovito")
class Ovito(Renderer):
    """Tachyon where there is no display, OpenGL where there is one."""

    name = "ovito"

    def command(self) -> tuple[list[str], dict[str, str]]:
        if importlib.util.find_spec("ovito") is None:
            raise InputError(
                "needs the package ovito, which is not installed here: pip install 'rlpath[ovito]' "
                "(or -r requirements/viz.lock), or choose blender",
                "--renderer",
                "ovito",
            )
        env = dict(os.environ)
        # With Qt's offscreen or minimal platforms OVITO finds no Vulkan; without a display it needs neither.
        env.pop("QT_QPA_PLATFORM", None)
        return [sys.executable, "-P", str(HERE / "ovito_worker.py")], env


@RENDERERS.register("blender")
class Blender(Renderer):
    """Cycles, on a GPU where there is one; the program ``blender``, else the package ``bpy``."""

    name = "blender"

    def command(self) -> tuple[list[str], dict[str, str]]:
        program, worker = shutil.which("blender"), str(HERE / "blender_worker.py")
        # A virtual environment's variables would send Blender's own Python to the wrong packages.
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        if program is not None:
            return [program, "-b", "--factory-startup", "--python-exit-code", "3", "-P", worker], env
        if importlib.util.find_spec("bpy") is not None:
            return [sys.executable, "-P", worker], dict(os.environ)
        raise InputError(
            "needs the program blender (apt-get install blender) or the package bpy (pip install bpy), "
            "and neither is here; or choose ovito",
            "--renderer",
            "blender",
        )


class RenderProcess:
    """A running renderer; a context manager. ``about`` says what draws, as ``OVITO 3.17.2 Tachyon``."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        words, env = renderer.command()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=env, cwd=HERE.anchor
            )
        except OSError as error:
            self._log.close()
            raise FatalError(f"{words[0]} cannot be started: {error}") from error
        self._buffer = b""
        self._chatter: list[str] = []
        self._select = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._select.register(self._process.stdout, selectors.EVENT_READ)
        try:
            self.about = self._answer(START_SECONDS).removeprefix("ready ")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RenderProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def draw(self, scene: dict[str, Any], out: Path) -> None:
        """Renders ``scene`` into the PNG file ``out``. Raises FatalError with the renderer's last words."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"scene": scene, "out": str(out.resolve())}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._answer(FRAME_SECONDS)
        if answer.startswith("error "):
            if "Vulkan" in answer:
                raise _no_vulkan()
            raise FatalError(f"{self.renderer.name} could not draw a frame: {answer.removeprefix('error ')}")
        if not out.is_file():
            raise FatalError(f"{self.renderer.name} says that it drew {out}, but wrote no file")

    def close(self) -> None:
        """Ends the process, kindly first."""
        self._select.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _answer(self, seconds: float) -> str:
        """The next marked line; what else the program prints is kept for an error."""
        deadline = time.monotonic() + seconds
        assert self._process.stdout is not None
        while True:
            line, found, rest = self._buffer.partition(b"\n")
            if found:
                self._buffer = rest
                text = line.decode(errors="replace").strip()
                if text.startswith(MARK):
                    return text.removeprefix(MARK)
                self._chatter = [*self._chatter[-20:], text]
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not self._select.select(left):
                self._process.kill()
                raise FatalError(f"{self.renderer.name} has not answered for {seconds:.0f} s and was ended")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise self._ended()
            self._buffer += part

    def _ended(self) -> FatalError | InputError:
        self._process.wait(timeout=30)
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().splitlines() or self._chatter or ["no word"]
        last = words[-1].strip()
        if "libvulkan" in last or "Vulkan" in last:
            return _no_vulkan()
        return FatalError(f"{self.renderer.name} ended with code {self._process.returncode}: {last}")


def _no_vulkan() -> InputError:
    return InputError(
        "needs Vulkan, which is not installed here: apt-get install libvulkan1 mesa-vulkan-drivers, or choose blender",
        "--renderer",
        "ovito",
    )
