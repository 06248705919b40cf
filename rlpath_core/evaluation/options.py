"""What ``flows.evaluate`` takes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from rlpath_core.config import ModelReference, Section


class EvaluateSpec(Section):
    """Errors of a model on a labelled set."""

    manifest: ModelReference
    """The model: manifest.json or its folder, or `ase:package.module.Class(key=value, ...)`."""
    data: Path
    """Labelled structures: an LMDB, a folder of LMDBs, an ASE database, or a file with energies and forces that ASE
    reads."""
    energy_key: str | None = None
    """The name of the energies in `data`; null takes the usual ones, as `data.energy_key` of a run.yaml does."""
    forces_key: str | None = None
    """The name of the forces in `data`; null takes the usual ones."""
    weights: Path | None = None
    """A state_dict in place of the manifest's own weights."""
    device: str = "auto"
    """cuda, cuda:N, cpu, or auto, which takes a GPU if there is one."""
    head: str | None = None
    """The head of a model with several; null takes the manifest's."""
    energy_only: bool = False
    """Leave out the forces, which need no labels then."""
    batch_size: int = Field(32, ge=1)
    """Structures in one forward pass."""
