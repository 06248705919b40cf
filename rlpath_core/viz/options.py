"""What ``python -m flows.visualize`` takes: which run, which renderer, how the pictures look."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rlpath_core.config import Section


class Look(Section):
    """How one picture looks; every value is part of a frame's key, so that a changed one renders it anew."""

    width: int = Field(800, ge=160, le=7680, multiple_of=2)
    """The width in pixels. It must be even, because H.264 requires it."""
    height: int = Field(600, ge=120, le=4320, multiple_of=2)
    """The height in pixels, an even number."""
    samples: int = Field(16, ge=1, le=4096)
    """Rays per pixel; OpenGL uses the number for antialiasing."""
    radius: float = Field(0.6, gt=0, le=3)
    """The scale of the spheres; 1 is about the covalent radius."""
    colour: Literal["element", "tag", "force"] = "element"
    """What the colour of an atom shows: its element, its tag, or the force on it."""


class VisualizeSpec(Look):
    """``run_dir``: a film of its trajectories; ``campaign``: contact sheet and graph of its basins; ``network``: its
    picture and an energy diagram; or several of them."""

    run_dir: Path | None = None
    """The output of a sampling run, or a campaign: a film of all its rounds is made."""
    campaign: Path | None = None
    """The folder of a campaign, or of a sampling run with its rlpath.db: a contact sheet and a graph of its basins are
    made."""
    network: Path | None = None
    """The folder of a run of `flows.paths`, or its network.json: the network and an energy diagram are drawn."""
    start: str | None = None
    """The minimum of `network` where the energy diagram begins; null takes the lowest."""
    end: str | None = None
    """The minimum where it ends; null draws the lowest ways from `start` to others, three at most."""
    temperature: float = Field(300.0, gt=0)
    """The temperature, in K, at which the fastest way from `start` to `end` is found."""
    round: int | None = Field(None, ge=0)
    """Only this round of the campaign is shown."""
    renderer: Literal["ovito", "blender"] = "ovito"
    """The program that draws the frames."""
    out: Path | None = None
    """The folder for the results; null takes viz/ in `run_dir`, `campaign` or the folder of `network`."""
    stride: int = Field(1, ge=1)
    """Only every N-th frame of the trajectories is drawn."""
    fps: float = Field(8.0, gt=0, le=120)
    """Frames per second of the film."""
    max_frames: int = Field(600, ge=1)
    """The largest number of frames in the film, and of basins on the contact sheet."""
    gif: bool = False
    """Also write an animated GIF, for places that show no mp4."""

    @model_validator(mode="after")
    def _has_input(self) -> VisualizeSpec:
        if self.run_dir is None and self.campaign is None and self.network is None:
            raise ValueError(
                "--run_dir (a film), --campaign (contact sheet and basin graph) or --network (saddles) is required"
            )
        return self

    @property
    def look(self) -> Look:
        return Look(**{key: getattr(self, key) for key in Look.model_fields})
