"""A campaign's config: one loop on one system, as ``configs/al_loop.yaml`` and ``--params`` give it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from rlpath_core.errors import InputError
from rlpath_core.spec.dft import DftConfig
from rlpath_core.spec.load import Section, check, located, merge, read_mapping
from rlpath_core.spec.outbox import OutboxConfig
from rlpath_core.spec.sampling import SamplingConfig

DEFAULTS = Path("configs") / "al_loop.yaml"
PATH_KEYS = ("structure", "model", "heldout", "near", "replay", "campaigns_dir", "models_dir", "sampling_config")


class CampaignConfig(Section):
    """Every key of a campaign. Paths are absolute here; in a YAML file they are relative to that file."""

    campaign: str = Field("default", description="name; its folder is campaigns_dir/<name>")
    campaigns_dir: Path = Path("campaigns")
    models_dir: Path = Path("models")
    seed: int = Field(1, ge=0)
    rounds: int = Field(3, ge=1, description="rounds after the starting model, which is round 0")
    labels_per_round: int = Field(16, ge=1)
    execution: Literal["pools", "inline"] = "pools"
    backend: Literal["mace", "equiformer_v2", "gemnet_oc"] = "mace"
    device: Literal["cuda", "cpu", "auto"] = "auto"
    structure: Path = Field(description="where every walker starts: the documented JSON or anything ASE reads")
    model: Path = Field(description="manifest.json of the starting model")
    heldout: Path = Field(description="labelled structures that no round ever trains on")
    near: Path | None = Field(None, description="labelled near-equilibrium structures: nothing may be forgotten there")
    replay: Path | None = Field(None, description="older labelled structures, mixed into every fine-tuning")
    replay_ratio: float = Field(2.0, ge=0, description="replayed structures per new one and epoch")
    sampling: SamplingConfig = SamplingConfig()
    outbox: OutboxConfig = OutboxConfig()
    dft: DftConfig = DftConfig()
    train: dict[str, Any] = Field(default_factory=dict, description="the `train` section of run.yaml")
    update_steps: int | None = Field(
        None,
        ge=1,
        description="update steps of each round's fine-tuning, few labels or many, where train.epochs is not given",
    )
    max_failed_fraction: float = Field(0.5, ge=0, le=1, description="a round with more failed labels stops the loop")

    @field_validator("campaign")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("a campaign's name is letters, digits, '.', '_' and '-'")
        return name


CHANGEABLE = ("rounds", "execution", "device", "max_failed_fraction") + tuple(
    f"dft.{key}"
    for key in (
        *("launcher", "hook", "workers", "threads", "wall_seconds", "memory_mb", "retries", "retry_factor"),
        *("retry_failed", "max_failed_fraction", "budget"),
    )
)
"""What may differ when a campaign is continued."""


def resolve_campaign(params: dict[str, Any], source: Path | None = None) -> CampaignConfig:
    """``params`` laid on the defaults of configs/al_loop.yaml.

    Paths in the defaults are relative to their file, and so are those in ``params`` when they came from the file
    ``source``; otherwise they are relative to the working directory. Raises InputError.
    """
    root = Path(__file__).resolve().parents[2]
    defaults = root / DEFAULTS
    value = located(read_mapping(defaults), defaults.parent, PATH_KEYS)
    value = merge(value, located(params, source.resolve().parent if source else Path.cwd(), PATH_KEYS))
    where = source or "--params"
    if "sampling_config" in value:
        value["sampling"] = merge(read_mapping(value.pop("sampling_config")), value.get("sampling", {}))
    config = check(CampaignConfig, value, where)
    for key in ("structure", "model", "heldout", "near", "replay"):
        path = getattr(config, key)
        if path is not None and not path.exists():
            raise InputError(f"no such file: {path}", where, key)
    return config
