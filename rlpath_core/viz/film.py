"""From the trajectories of a run to frames and a film."""

from __future__ import annotations

import time
from dataclasses import dataclass

from PIL import Image

from rlpath_core.locks import exclusive
from rlpath_core.progress import Progress
from rlpath_core.viz import encode
from rlpath_core.viz.basins import open_database, read_basins
from rlpath_core.viz.caption import bands, framed
from rlpath_core.viz.frames import render_frames
from rlpath_core.viz.options import VisualizeSpec
from rlpath_core.viz.renderers import RENDERERS
from rlpath_core.viz.saddle_network import ways
from rlpath_core.viz.scene import Picture, pictures
from rlpath_core.viz.trajectory import read_shots, trajectories


@dataclass(frozen=True)
class FilmSummary:
    """``drawn`` frames now, ``kept`` from an earlier call; ``renderer`` is empty where nothing was left to draw."""

    movie: str
    gif: str | None
    frames: int
    drawn: int
    kept: int
    renderer: str
    seconds: float


def ready(spec: VisualizeSpec) -> None:
    """InputError for whatever would keep ``spec`` from being drawn: no or broken input, a program that is missing."""
    if spec.campaign is not None:
        with open_database(spec.campaign) as store:
            read_basins(store, spec.round)
    if spec.run_dir is not None:
        _pictures(spec)
        encode.ffmpeg()
    if spec.network is not None:
        ways(spec)
    if spec.campaign is not None or spec.run_dir is not None:
        RENDERERS[spec.renderer]().command()


def film(spec: VisualizeSpec, progress: Progress | None = None) -> FilmSummary:
    """Render the trajectories under ``spec.run_dir``; frames and movie.mp4 land in ``viz/<renderer>``.

    Called again after an interruption, it draws only the frames that are missing. Raises InputError for a folder
    without trajectories, a broken one, and for a renderer or an ffmpeg that is not there, before anything is drawn.
    """
    began = time.monotonic()
    assert spec.run_dir is not None
    size = (spec.width, spec.height)
    drawn = _pictures(spec)
    encode.ffmpeg()
    renderer = RENDERERS[spec.renderer]()
    renderer.command()
    folder = (spec.out or spec.run_dir / "viz") / spec.renderer

    def dress(raw: Image.Image, picture: Picture) -> Image.Image:
        return framed(raw, picture, *size)

    with exclusive(folder / ".lock", "a rendering"):
        rendered = render_frames(drawn, folder / "frames", renderer, size, dress, progress)
        movie, animation = folder / "movie.mp4", folder / "movie.gif"
        encode.mp4(folder / "frames", len(drawn), spec.fps, movie)
        if spec.gif:
            encode.gif(folder / "frames", len(drawn), spec.fps, animation, spec.width)
    return FilmSummary(
        movie=str(movie),
        gif=str(animation) if spec.gif else None,
        frames=len(rendered.paths),
        drawn=rendered.drawn,
        kept=rendered.kept,
        renderer=rendered.about,
        seconds=round(time.monotonic() - began, 1),
    )


def _pictures(spec: VisualizeSpec) -> list[Picture]:
    """What each frame shows. Raises InputError for trajectories that are missing or broken, or lack forces."""
    assert spec.run_dir is not None
    shots = read_shots(trajectories(spec.run_dir), spec.stride, spec.max_frames)
    return pictures(shots, spec.look, spec.width, spec.height - sum(bands(spec.width, spec.height)))
