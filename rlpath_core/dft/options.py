"""The ``dft`` section: which engine makes the labels, with which settings, on which machine, at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from rlpath_core.config import Section


class Budget(Section):
    """What labels may cost; the loop stops at it. Null: no limit.

    Core-hours are counted with the time limits of what still runs, so that they are never overrun.
    """

    labels: int | None = Field(None, ge=1)
    """The largest number of labels in this store."""
    labels_per_round: int | None = Field(None, ge=1)
    """The largest number of labels in one round."""
    core_hours: float | None = Field(None, gt=0)
    """The largest sum of wall time x cores over all calculations in this store."""
    core_hours_per_round: float | None = Field(None, gt=0)
    """The largest sum of wall time x cores in one round."""


class DftConfig(Section):
    """Reference calculations. ``engine`` and ``settings`` are part of a job's identity, the rest is not."""

    engine: str = "tblite"
    """The program of the calculations: tblite, gpaw, espresso, vasp, ase, model, or `module:Class`."""
    settings: dict[str, Any] = {}
    """The engine's own keys; those left out have its defaults."""
    launcher: str = "local"
    """The machine that calculates: local, slurm, or `module:Class`."""
    launcher_options: dict[str, Any] = {}
    """The launcher's own keys; those left out have its defaults."""
    hook: str | None = None
    """In place of a launcher, a `module:function` or a shell command that is given the folders of the jobs."""
    workers: int | None = Field(None, ge=1)
    """Calculations at a time; null runs as many as the machine takes."""
    threads: int = Field(1, ge=1)
    """OpenMP threads of each calculation."""
    wall_seconds: float = Field(600.0, gt=0)
    """The time limit of one calculation, in seconds."""
    memory_mb: int | None = Field(None, ge=1)
    """The memory limit of one calculation, in MB; null sets none."""
    max_force: float = Field(100.0, gt=0)
    """A calculation with a larger force, in eV/Å, counts as failed: the method does not describe such a structure."""
    retries: int = Field(2, ge=0)
    """How often a calculation is repeated that its machine failed (time limit, memory, node), with `retry_factor` times
    the time or memory that ran out."""
    retry_factor: float = Field(2.0, ge=1)
    """The factor on the time or memory of a repeated calculation."""
    safer: bool = True
    """Repeat a calculation once whose electronic steps ran out, with the engine's safer settings."""
    retry_failed: bool = False
    """Calculate the failed jobs of the round once more."""
    max_failed_fraction: float = Field(1.0, ge=0, le=1)
    """A round in which a larger fraction of the calculations has failed submits no more."""
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _hook_is_a_launcher(self) -> DftConfig:
        if self.hook is not None and self.launcher != "local":
            raise ValueError("a hook takes the place of a launcher: leave `launcher` out if `hook` is given")
        return self


class DftSpec(Section):
    """What ``flows.dft_submit`` takes."""

    run_dir: Path
    """The folder of a sampling run or of a campaign."""
    config: Path | None = None
    """A YAML with the keys of the calculations (configs/dft.yaml), or a campaign's config with its section `dft`.
    Without one, a campaign's own settings are used."""
    dft: DftConfig = DftConfig()
    """Keys of the calculations, laid over those of `config`."""
    round: int | None = None
    """Only what this round of the campaign selected."""
    lmdb: Path | None = None
    """Where the labels are written; `labels/` beside the database if not given."""
