"""What ``python -m flows.visualize`` takes: which run, which renderer, how the pictures look."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rlpath_core.config import Section


class Look(Section):
    """How one picture looks; every value is part of a frame's key, so that a changed one renders it anew."""

    width: int = Field(800, ge=160, le=7680, multiple_of=2, description="pixels, even: H.264 wants it")
    height: int = Field(600, ge=120, le=4320, multiple_of=2, description="pixels, even")
    samples: int = Field(16, ge=1, le=4096, description="rays a pixel; OpenGL takes it for antialiasing")
    radius: float = Field(0.6, gt=0, le=3, description="scale of the spheres; 1: about the covalent radius")
    colour: Literal["element", "tag", "force"] = "element"


class VisualizeSpec(Look):
    """``run_dir``: a film of its trajectories; ``campaign``: contact sheet and graph of its basins; or both."""

    run_dir: Path | None = Field(
        None, description="output of a sampling run, or a campaign: all its rounds in one film"
    )
    campaign: Path | None = Field(None, description="folder of a campaign or of a sampling run with its rlpath.db")
    round: int | None = Field(None, ge=0, description="of the campaign's rounds only this one")
    renderer: Literal["ovito", "blender"] = "ovito"
    out: Path | None = Field(None, description="folder for the results; default viz/ in run_dir or campaign")
    stride: int = Field(1, ge=1, description="every so many frames of the trajectories")
    fps: float = Field(8.0, gt=0, le=120, description="frames a second")
    max_frames: int = Field(600, ge=1, description="frames of the film, or basins of the contact sheet, at most")
    gif: bool = Field(False, description="also an animated GIF, for where no mp4 is shown")

    @model_validator(mode="after")
    def _something(self) -> VisualizeSpec:
        if self.run_dir is None and self.campaign is None:
            raise ValueError("--run_dir (a film) or --campaign (contact sheet and basin graph) is required")
        return self

    @property
    def look(self) -> Look:
        return Look(**{key: getattr(self, key) for key in Look.model_fields})
