"""Frames to mp4 (H.264) and GIF by ffmpeg; the film appears whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from rlpath_core.errors import FatalError, InputError

SECONDS = 3600
GIF_WIDTH = 480


def ffmpeg() -> str:
    """The program; InputError that says how to get it."""
    found = shutil.which("ffmpeg")
    if found is None:
        raise InputError("ffmpeg is not on the PATH, and a film needs it: apt-get install ffmpeg", "ffmpeg")
    return found


def mp4(folder: Path, count: int, fps: float, out: Path) -> None:
    """``count`` frames of ``folder`` as H.264 in yuv420p with the index in front: every browser plays it."""
    code = ["-c:v", "libx264", "-preset", "slow", "-crf", "20", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    _encode(folder, count, fps, out, [*code, "-f", "mp4"])


def gif(folder: Path, count: int, fps: float, out: Path, width: int) -> None:
    """The same as an animated GIF with its own palette, at most GIF_WIDTH pixels wide."""
    scale = f"scale='min({width},{GIF_WIDTH})':-1:flags=lanczos"
    palette = f"{scale},split[a][b];[a]palettegen=max_colors=128[p];[b][p]paletteuse=dither=none:diff_mode=rectangle"
    _encode(folder, count, fps, out, ["-filter_complex", palette, "-f", "gif"])


def _encode(folder: Path, count: int, fps: float, out: Path, how: list[str]) -> None:
    part = out.with_name(f".{out.name}.part")
    source = ["-framerate", f"{fps:g}", "-start_number", "0", "-i", str(folder / "frame_%05d.png")]
    words = [ffmpeg(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *source, "-frames:v", str(count)]
    # no -r: a frame in is a frame out
    words += ["-fps_mode", "passthrough", *how, "-progress", "pipe:1", str(part)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        counted = re.findall(r"^frame=\s*(\d+)", done.stdout, re.MULTILINE)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise FatalError(f"ffmpeg ended with code {done.returncode}: {last}")
        if not counted or int(counted[-1]) != count:
            raise FatalError(f"ffmpeg wrote {counted[-1] if counted else 'no'} frames of {count} into {out}")
        os.replace(part, out)
    except subprocess.TimeoutExpired as error:
        raise FatalError(f"ffmpeg has not ended within {SECONDS} s") from error
    finally:
        part.unlink(missing_ok=True)
