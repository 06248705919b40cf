"""What ``flows.check`` takes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rlpath_core.config import ModelReference, Section


class CheckSpec(Section):
    """Files to look at, and a model to hold them against."""

    files: list[ModelReference] = Field(min_length=1)
    """Structures, data sets and models, in any order: whatever sampling, training and evaluation read."""
    manifest: ModelReference | None = None
    """A model to compare with: its elements, and its energies and forces for labelled structures. manifest.json or its
    folder, or `ase:package.module.Class(key=value, ...)`."""
    head: str | None = None
    """The head of a model with several; null takes the model's own."""
    device: str = "auto"
    """cuda, cuda:N, cpu, or auto, which takes a GPU if there is one."""
    adsorbate: str | list[int] | None = None
    """The adsorbate, as in sampling.yaml: indices of atoms or a formula."""
    normal: str | list[float] | None = None
    """The direction out of the surface, as in sampling.yaml."""
    energy_key: str | None = None
    """The name of energies in the files, as `data.energy_key` of run.yaml."""
    forces_key: str | None = None
    """The name of forces in the files, as `data.forces_key` of run.yaml."""
    max_structures: int = Field(1000, ge=1)
    """The largest number of structures of a set that are looked at, spread evenly over it; all of them are counted."""
    max_predictions: int = Field(200, ge=1)
    """The largest number of structures that the model predicts."""
    json_output: Path | None = None
    """A file for the same findings as JSON."""
