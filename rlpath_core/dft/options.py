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

    labels: int | None = Field(None, ge=1, description="labels in all, in this store")
    labels_per_round: int | None = Field(None, ge=1, description="labels in one round")
    core_hours: float | None = Field(None, gt=0, description="wall time x cores of all calculations in this store")
    core_hours_per_round: float | None = Field(None, gt=0, description="the same in one round")


class DftConfig(Section):
    """Reference calculations. ``engine`` and ``settings`` are part of a job's identity, the rest is not."""

    engine: str = Field("tblite", description="tblite, ase, model, ..., or `module:Class`")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the engine's own keys; what is left out is filled with its defaults"
    )
    launcher: str = Field("local", description="local, slurm, or `module:Class`")
    launcher_options: dict[str, Any] = Field(default_factory=dict, description="the launcher's own keys")
    hook: str | None = Field(
        None, description="in place of a launcher: `module:function`, or a shell command, that is given job folders"
    )
    workers: int | None = Field(None, ge=1, description="calculations at a time; default: as many as the machine takes")
    threads: int = Field(1, ge=1, description="OpenMP threads of each")
    wall_seconds: float = Field(600.0, gt=0, description="time limit of one calculation")
    memory_mb: int | None = Field(None, ge=1, description="memory limit of one calculation; null: none")
    max_force: float = Field(
        100.0, gt=0, description="eV/Å; a calculation with larger forces is failed: the method is out of its depth"
    )
    retries: int = Field(
        2,
        ge=0,
        description="times that a calculation which its machine failed (time limit, memory, node) is tried again, with "
        "`retry_factor` times the time or the memory that ran out",
    )
    retry_factor: float = Field(2.0, ge=1)
    safer: bool = Field(
        True, description="try a calculation whose electronic steps ran out once more, with the engine's safer settings"
    )
    retry_failed: bool = Field(False, description="calculate failed jobs of the round once more")
    max_failed_fraction: float = Field(
        1.0, ge=0, le=1, description="a round with more failed calculations than this submits no more"
    )
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
