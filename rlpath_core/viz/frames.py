"""Numbered pictures in a folder: each carries the key of what it shows, so that a finished one is never drawn twice."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from rlpath_core.files import atomic_write
from rlpath_core.progress import Progress
from rlpath_core.viz.renderers import Renderer, RenderProcess
from rlpath_core.viz.scene import Picture

Dress = Callable[[Image.Image, Picture], Image.Image]

KEY = "rlpath-key"
RAW = ".raw-"
LAYOUT = 1
"""Raised when captions change: part of every key."""
NAME = re.compile(r"frame_\d{5,}\.png")


@dataclass(frozen=True)
class Rendered:
    """``drawn`` now and ``kept`` from before add up to the frames; ``about`` is empty where nothing was drawn."""

    paths: list[Path]
    drawn: int
    kept: int
    about: str


def key_of(picture: Picture, renderer: Renderer, size: tuple[int, int]) -> str:
    """sha256 of everything that a frame's pixels depend on."""
    parts = [LAYOUT, renderer.name, renderer.version, size, picture.scene, picture.info, picture.legend, picture.bar]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def key_in(path: Path) -> str | None:
    """The key that a finished frame carries; None where there is none, or no whole picture."""
    try:
        with Image.open(path) as image:
            key = image.info.get(KEY)
            image.load()
    except (OSError, SyntaxError, ValueError):
        return None
    return key if isinstance(key, str) else None


def render_frames(
    pictures: Sequence[Picture],
    folder: Path,
    renderer: Renderer,
    size: tuple[int, int],
    dress: Dress,
    progress: Progress | None = None,
) -> Rendered:
    """``frame_00000.png`` on, one per picture, in ``folder``; frames of that name beyond the last are removed.

    Each appears whole, by a rename, and carries its key: after a kill only what is missing is drawn, and a frame that
    shows something else (other settings, other data) is drawn anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"frame_{k:05d}.png" for k in range(len(pictures))]
    wanted = {path.name for path in paths}
    for path in folder.iterdir():
        if (NAME.fullmatch(path.name) and path.name not in wanted) or path.name.endswith(".part"):
            path.unlink()
    keys = [key_of(picture, renderer, size) for picture in pictures]
    missing = [k for k, path in enumerate(paths) if not path.exists() or key_in(path) != keys[k]]
    done, about = len(paths) - len(missing), ""
    for left in folder.glob(f"{RAW}*"):
        shutil.rmtree(left, ignore_errors=True)
    if missing:
        # one's own: the renderer of a killed call may still be at its last frame
        raw_folder = Path(tempfile.mkdtemp(prefix=RAW, dir=folder))
        try:
            with RenderProcess(renderer) as process:
                about = process.about
                for k in missing:
                    raw = raw_folder / f"{k:05d}.png"
                    process.draw(pictures[k].scene, raw)
                    with Image.open(raw) as image:
                        _save(dress(image, pictures[k]), paths[k], keys[k])
                    raw.unlink()
                    done += 1
                    if progress is not None:
                        progress({"done": done, "total": len(paths)})
        finally:
            shutil.rmtree(raw_folder, ignore_errors=True)
    return Rendered(paths, len(missing), len(paths) - len(missing), about)


def _save(image: Image.Image, path: Path, key: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, key)
    with atomic_write(path, "wb") as stream:
        image.save(stream, format="PNG", pnginfo=text)
