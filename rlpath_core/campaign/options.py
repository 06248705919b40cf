"""A campaign's config: one loop on one system, as ``configs/al_loop.yaml`` and ``--params`` give it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlpath_core.backends.registry import BACKENDS, BackendName
from rlpath_core.config.load import Section, check, located, merge, read_mapping
from rlpath_core.dft.options import DftConfig
from rlpath_core.errors import InputError, nearest
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.sampling.options import SamplingConfig

DEFAULTS = Path("configs") / "al_loop.yaml"
PATH_KEYS = (
    *("structure", "model", "heldout", "near", "replay", "campaigns_dir", "models_dir", "sampling_config"),
    *("train.config_yml", "train.input_json"),
    *("backends.*.model", "backends.*.train.config_yml", "backends.*.train.input_json"),
)


class BackendConfig(Section):
    """What a campaign has of its own for each backend."""

    model: Path = Field(description="manifest.json of the starting model")
    train: dict[str, Any] = Field(default_factory=dict, description="the `train` section of run.yaml")
    update_steps: int | None = Field(
        None,
        ge=1,
        description="update steps of each round's fine-tuning, few labels or many, where no number of epochs is given",
    )
    replay_ratio: float = Field(2.0, ge=0, description="replayed structures per new one and epoch")
    backend_args: list[str] = Field([], description="more arguments for FairChem's trainer; `backend_args` of run.yaml")
    backend_env: dict[str, str] = Field({}, description="environment variables of FairChem's trainer")


class CampaignConfig(Section):
    """Every key of a campaign. Paths are absolute here; in a YAML file they are relative to that file."""

    campaign: str = Field("default", description="name; its folder is campaigns_dir/<name>")
    campaigns_dir: Path = Path("campaigns")
    models_dir: Path = Path("models")
    seed: int = Field(1, ge=0)
    rounds: int = Field(3, ge=1, description="rounds after the starting model, which is round 0")
    labels_per_round: int = Field(16, ge=1)
    execution: Literal["pools", "inline"] = "pools"
    backend: BackendName | list[BackendName] = Field(
        "mace", description="of the models that the rounds fine-tune; several are used in turn, one a round"
    )
    backends: dict[BackendName, BackendConfig] = Field(description="settings by backend; only those in use are kept")
    committee: bool = Field(
        False, description="sample with the newest models of all backends, for sampling.pipeline.trigger.spread"
    )
    device: Literal["cuda", "cpu", "auto"] = "auto"
    structure: Path = Field(description="where every walker starts: the documented JSON or anything ASE reads")
    model: Path | None = Field(None, exclude=True, description="backends.NAME.model, where there is one backend")
    heldout: Path = Field(description="labelled structures that no round ever trains on")
    near: Path | None = Field(None, description="labelled near-equilibrium structures: nothing may be forgotten there")
    replay: Path | None = Field(None, description="older labelled structures, mixed into every fine-tuning")
    replay_ratio: float | None = Field(
        None, ge=0, exclude=True, description="backends.NAME.replay_ratio of all backends"
    )
    sampling: SamplingConfig = SamplingConfig()
    outbox: OutboxConfig = OutboxConfig()
    dft: DftConfig = DftConfig()
    train: dict[str, Any] | None = Field(
        None, exclude=True, description="backends.NAME.train, where there is one backend"
    )
    update_steps: int | None = Field(
        None, ge=1, exclude=True, description="backends.NAME.update_steps, of every backend"
    )
    max_failed_fraction: float = Field(0.5, ge=0, le=1, description="a round with more failed labels stops the loop")

    @model_validator(mode="before")
    @classmethod
    def _by_backend(cls, value: Any) -> Any:
        """``model`` and ``train`` of a campaign with one backend belong to that one, ``update_steps`` and
        ``replay_ratio`` to all; what no round uses is left out."""
        if not isinstance(value, dict):
            return value
        used, given = value.get("backend", "mace"), value.get("backends") or {}
        used = used if isinstance(used, list) else [used]
        if not isinstance(given, dict) or any(backend not in BACKENDS for backend in used):
            return value  # the fields say what is wrong with it
        for name in given:
            if name not in BACKENDS:
                raise ValueError(
                    f"backends.{name}: no such backend.{nearest(name, BACKENDS)} Known: {', '.join(BACKENDS)}"
                )
        given = {backend: given.get(backend) or {} for backend in used}
        own = {key: value[key] for key in ("model", "train") if value.get(key) is not None}
        if own and len(used) > 1:
            key = next(iter(own))
            raise ValueError(f"{key} belongs to one backend, this campaign has several: give backends.{used[0]}.{key}")
        own |= {key: value[key] for key in ("update_steps", "replay_ratio") if value.get(key) is not None}
        given = {name: merge(own_of, own) if isinstance(own_of, dict) else own_of for name, own_of in given.items()}
        return {k: v for k, v in value.items() if k not in (*own, "model", "train")} | {"backends": given}

    @model_validator(mode="after")
    def _committee_has_members(self) -> Self:
        trigger = self.sampling.pipeline.trigger
        if self.committee and len(self.backends) < 2:
            raise ValueError("committee needs several backends, such as backend=[mace,equiformer_v2]")
        if trigger is not None and trigger.spread is not None and not self.committee:
            raise ValueError("sampling.pipeline.trigger.spread needs committee: true and several backends")
        return self

    @field_validator("backend")
    @classmethod
    def _some(cls, value: BackendName | list[BackendName]) -> BackendName | list[BackendName]:
        if value == []:
            raise ValueError(f"name one at least: {', '.join(BACKENDS)}")
        return value

    @field_validator("campaign")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("a campaign's name is letters, digits, '.', '_' and '-'")
        return name

    @property
    def order(self) -> list[str]:
        """The backends in the order in which rounds use them, one a round, from round 1 on."""
        return self.backend if isinstance(self.backend, list) else [self.backend]

    def backend_of(self, round: int) -> str:
        """Of the model that a round fine-tunes; of round 0, that of the model that it measures: the first round's."""
        return self.order[max(0, round - 1) % len(self.order)]


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
    from rlpath_core.campaign.fine_tuning import fine_tuning

    defaults = root / DEFAULTS
    value = located(read_mapping(defaults), defaults.parent, PATH_KEYS)
    value = merge(value, located(params, source.resolve().parent if source else Path.cwd(), PATH_KEYS))
    where = source or "--params"
    if "sampling_config" in value:
        value["sampling"] = merge(read_mapping(value.pop("sampling_config")), value.get("sampling", {}))
    config = check(CampaignConfig, value, where)
    paths = {key: getattr(config, key) for key in ("structure", "heldout", "near", "replay")}
    for backend, settings in config.backends.items():
        paths[f"backends.{backend}.model"] = settings.model
    for key, path in paths.items():
        if path is not None and not path.exists():
            raise InputError(f"no such file: {path}", where, key)
    for backend in config.backends:
        fine_tuning(config, backend, source=where)
    return config
