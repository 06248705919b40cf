"""The renderers, and their processes: a scene goes in, a picture comes out as a file.

A renderer runs in a Python that may have nothing of rlpath, as a plain file: see ``process.worker``. It ends when this
process does, also by ``kill -9``, at the latest after the picture that it draws.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any

from rlpath_core.errors import FatalError, InputError, TransientError
from rlpath_core.process.child import EXIT_GRACE, PLAIN_WORKER, Child
from rlpath_core.registry import Registry

HERE = Path(__file__).resolve().parent
START_SECONDS = 180.0
FRAME_SECONDS = 1800.0


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
        return _python("ovito_worker.py"), env


@RENDERERS.register("blender")
class Blender(Renderer):
    """Cycles, on a GPU where there is one; the program ``blender``, else the package ``bpy``."""

    name = "blender"

    def command(self) -> tuple[list[str], dict[str, str]]:
        program = shutil.which("blender")
        # A virtual environment's variables would send Blender's own Python to the wrong packages.
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        if program is not None:
            options = ["-b", "--factory-startup", "--python-exit-code", "3", "-P", str(PLAIN_WORKER), "--"]
            return [program, *options, str(HERE / "blender_worker.py")], env
        if importlib.util.find_spec("bpy") is not None:
            return _python("blender_worker.py"), dict(os.environ)
        raise InputError(
            "needs the program blender (apt-get install blender) or the package bpy (pip install bpy), "
            "and neither is here; or choose ovito",
            "--renderer",
            "blender",
        )


def _python(worker: str) -> list[str]:
    return [sys.executable, "-P", str(PLAIN_WORKER), str(HERE / worker)]


class RenderProcess:
    """A running renderer; a context manager. ``about`` is what it renders with, such as ``OVITO 3.17.2 Tachyon``."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        command, env = renderer.command()
        self._child = Child(command, renderer.name, env=env, cwd=HERE.anchor)
        try:
            self.about: str = self._ask("about", START_SECONDS)["about"]
        except BaseException:
            self._child.end()
            raise

    def __enter__(self) -> RenderProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def draw(self, scene: dict[str, Any], out: Path) -> None:
        """Render ``scene`` into the PNG file ``out``. Raises FatalError, which names the renderer's log."""
        self._ask("draw", FRAME_SECONDS, scene=scene, out=str(out.resolve()))
        if not out.is_file():
            raise FatalError(f"{self.renderer.name} wrote no file {out}")

    def close(self) -> None:
        """End the process; it may finish the picture that it draws."""
        self._child.end(EXIT_GRACE)

    def _ask(self, call: str, seconds: float, **header: Any) -> dict[str, Any]:
        try:
            return self._child.ask(call, header, seconds=seconds)[0]
        except (FatalError, TransientError) as error:
            if "ulkan" in str(error):
                raise InputError(
                    "needs Vulkan, which is not installed here: apt-get install libvulkan1 mesa-vulkan-drivers, "
                    "or choose blender",
                    "--renderer",
                    "ovito",
                ) from error
            raise FatalError(str(error)) from error  # a picture that crashes the renderer does so again
