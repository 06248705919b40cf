"""The ``dft`` section: which engine makes the labels, with which settings, on which machine."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from rlpath_core.errors import InputError
from rlpath_core.spec.load import Section


class DftConfig(Section):
    """Reference calculations. ``engine`` and ``settings`` are part of a job's identity, the rest is not."""

    engine: str = Field("tblite", description="tblite, ase, model, or `module:Class`")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the engine's own keys; what is left out is filled with its defaults"
    )
    launcher: str = Field("local", description="local, or `module:Class`")
    workers: int | None = Field(None, ge=1, description="calculations at a time; default: as many as cores")
    threads: int = Field(1, ge=1, description="OpenMP threads of each")
    wall_seconds: float = Field(600.0, gt=0, description="time limit of one calculation")
    max_force: float = Field(
        100.0, gt=0, description="eV/Å; a calculation with larger forces is failed: the method is out of its depth"
    )
    retry_failed: bool = Field(False, description="calculate failed jobs of the round once more")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, name: str) -> str:
        from rlpath_core.dft.engines import ENGINES

        return _checked(lambda: ENGINES[name] and name)

    @field_validator("launcher")
    @classmethod
    def _known_launcher(cls, name: str) -> str:
        from rlpath_core.dft.launchers import LAUNCHERS

        return _checked(lambda: LAUNCHERS[name] and name)

    @field_validator("settings")
    @classmethod
    def _resolved(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        from rlpath_core.dft.engines import ENGINES

        if "engine" not in info.data:  # its own error says enough
            return settings
        return _checked(lambda: ENGINES[info.data["engine"]](settings).resolved())


def _checked(ask: Any) -> Any:
    """``ask()``, its InputError as the ValueError that pydantic collects."""
    try:
        return ask()
    except InputError as error:
        raise ValueError(f"{error.key}: {error.what}" if error.key else error.what) from error
