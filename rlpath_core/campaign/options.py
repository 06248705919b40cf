"""A campaign's config: one loop on one system. Defaults are numbers: a structure, models and data have none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_serializer, field_validator, model_validator

from rlpath_core.backends.registry import BACKENDS, BackendName
from rlpath_core.config import ModelReference, Section, merge, wrong
from rlpath_core.dft.options import DftConfig
from rlpath_core.errors import nearest
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.paths.options import PathsConfig
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.training.options import Training, training_options

NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
"""A campaign's name, which is also the name of its folders."""


class BackendConfig(Section):
    """The starting model of one backend, and how a round fine-tunes it."""

    model: ModelReference
    """The starting model: manifest.json or its folder."""
    train: SerializeAsAny[Training] = Training()
    """The section `train` of run.yaml. Each round sets the seed and, with `update_steps`, the epochs."""
    update_steps: int | None = Field(None, ge=1)
    """Update steps of each round's fine-tuning, for few labels and for many; null leaves it to the number of epochs."""
    replay_ratio: float = Field(2.0, ge=0)
    """Replayed structures per new one, in each epoch."""
    backend_args: list[str] = []
    """`backend_args` of run.yaml: overrides of FairChem's configuration."""
    backend_env: dict[str, str] = {}
    """Environment variables of FairChem's process."""

    @field_serializer("train")
    def _as_given(self, train: Training) -> dict[str, Any]:
        """Defaults stay out: whether a seed or a number of epochs was given decides what a round sets."""
        return train.model_dump(mode="json", exclude_unset=True)


class CampaignShorthand(Section):
    """Keys of a campaign's file that stand for others."""

    model: ModelReference | None = None
    """`backends.NAME.model` of a campaign with one backend."""
    train: dict[str, Any] | None = None
    """`backends.NAME.train` of a campaign with one backend."""
    update_steps: int | None = Field(None, ge=1)
    """`backends.NAME.update_steps` of every backend."""
    replay_ratio: float | None = Field(None, ge=0)
    """`backends.NAME.replay_ratio` of every backend."""
    sampling_config: Path | None = None
    """A sampling YAML (configs/sampling.yaml shows every key); what is given under `sampling` lies on top of it."""


class CampaignConfig(Section):
    """Every key of a campaign. Paths are absolute here; in a YAML file they are relative to that file."""

    shorthand = CampaignShorthand

    campaign: str = "default"
    """The campaign's name. Its folder is `campaigns_dir/<name>`."""
    campaigns_dir: Path = Path("campaigns")
    """The folder of all campaigns."""
    models_dir: Path = Path("models")
    """The folder of all models. Round K is trained in `models_dir/<name>/round-K`."""
    seed: int = Field(1, ge=0)
    """The seed of everything random. Two campaigns with the same seed and settings give the same results."""
    rounds: int = Field(3, ge=1)
    """The number of rounds; round 0 is the starting model and not counted."""
    labels_per_round: int = Field(16, ge=1)
    """The largest number of structures that are labelled in one round."""
    execution: Literal["pools", "inline"] = "pools"
    """pools gives each stage to a worker of its Prefect pool; inline runs the stages in the loop's own process."""
    backend: BackendName | list[BackendName] = "mace"
    """The kind of model that the rounds fine-tune; if several are given they take turns, one a round."""
    backends: dict[BackendName, BackendConfig]
    """The starting model and the settings of each backend. Those of backends not in use are left out."""
    committee: bool = False
    """Sample with the newest models of all backends together, as `sampling.pipeline.trigger.spread` needs it."""
    device: Literal["cuda", "cpu", "auto"] = "auto"
    """The device of all models; auto takes a GPU if there is one."""
    structure: Path
    """Where every walker starts: JSON with numbers, positions, cell, fixed and tags, or any file that ASE reads."""
    heldout: Path | None = None
    """Labelled structures on which the model of each round is evaluated; no round ever trains on them. Without them
    the error on new labels, before they are trained on, is what a campaign reports."""
    near: Path | None = None
    """Labelled structures near equilibrium, on which the model of each round is evaluated too: it must not forget."""
    replay: Path | None = None
    """Older labelled structures of the same level of theory, mixed into every fine-tuning."""
    sampling: SamplingConfig = SamplingConfig()
    paths: PathsConfig | None = PathsConfig()
    """Saddle searches with the model of the round before; null leaves them out."""
    saddle_share: float = Field(0.5, ge=0, le=1)
    """The largest share of a round's labels that goes to saddles and to what proves them, before other candidates."""
    outbox: OutboxConfig = OutboxConfig()
    dft: DftConfig = DftConfig()
    max_failed_fraction: float = Field(0.5, ge=0, le=1)
    """The loop stops if a larger fraction of a round's calculations has failed."""

    @classmethod
    def chosen(cls, value: Mapping[str, Any]) -> dict[str, type[Section]]:
        used, given = value.get("backend", "mace"), value.get("backends")
        names = {name for name in (given if isinstance(given, dict) else ()) if name in BACKENDS}
        found: dict[str, type[Section]] = {f"backends.{name}.train": training_options(name) for name in names}
        return found | ({"train": training_options(used)} if isinstance(used, str) and used in BACKENDS else {})

    @model_validator(mode="before")
    @classmethod
    def _by_backend(cls, value: Any) -> Any:
        """Expand the shorthand, and leave out backends that no round uses."""
        if not isinstance(value, dict):
            return value
        used, given = value.get("backend", "mace"), value.get("backends") or {}
        used = used if isinstance(used, list) else [used]
        if not isinstance(given, dict) or not all(isinstance(backend, str) for backend in used):
            return value  # the check of the fields reports it
        for backend in used:
            if backend not in BACKENDS:
                raise wrong("backend", str(BACKENDS.unknown(backend)))
        for name in given:
            if name not in BACKENDS:
                what = f"no such backend.{nearest(name, BACKENDS)} Known: {', '.join(BACKENDS)}"
                raise wrong(f"backends.{name}", what)
        given = {backend: given.get(backend) or {} for backend in used}
        own = {key: value[key] for key in ("model", "train") if value.get(key) is not None}
        if own and len(used) > 1:
            key = next(iter(own))
            raise ValueError(f"{key} belongs to one backend, this campaign has several: give backends.{used[0]}.{key}")
        own |= {key: value[key] for key in ("update_steps", "replay_ratio") if value.get(key) is not None}
        given = {
            name: merge({"train": {}}, merge(own_of, own)) if isinstance(own_of, dict) else own_of
            for name, own_of in given.items()
        }
        return {k: v for k, v in value.items() if k not in CampaignShorthand.model_fields} | {"backends": given}

    @model_validator(mode="after")
    def _committee_has_members(self) -> Self:
        trigger = self.sampling.pipeline.trigger
        if self.committee and len(self.backends) < 2:
            raise wrong("committee", "needs several backends, such as backend=[mace,equiformer_v2]")
        if trigger is not None and trigger.spread is not None and not self.committee:
            raise wrong("sampling.pipeline.trigger.spread", "needs committee: true and several backends")
        return self

    @field_validator("backend")
    @classmethod
    def _not_empty(cls, value: BackendName | list[BackendName]) -> BackendName | list[BackendName]:
        if value == []:
            raise ValueError(f"name one at least: {', '.join(BACKENDS)}")
        return value

    @field_validator("campaign")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if not re.fullmatch(NAME, name):
            raise ValueError("a campaign's name is letters, digits, '.', '_' and '-'")
        return name

    @property
    def order(self) -> list[str]:
        """The backends in the order in which the rounds from 1 on use them."""
        return self.backend if isinstance(self.backend, list) else [self.backend]

    def backend_of(self, round_index: int) -> str:
        """The backend of the model that a round fine-tunes. Round 0, which evaluates, has that of round 1."""
        return self.order[max(0, round_index - 1) % len(self.order)]


CHANGEABLE = ("rounds", "execution", "device", "max_failed_fraction") + tuple(
    f"dft.{key}"
    for key in (
        *("launcher", "hook", "workers", "threads", "wall_seconds", "memory_mb", "retries", "retry_factor"),
        *("retry_failed", "max_failed_fraction", "budget"),
    )
)
"""Prefixes of the keys that may change when a campaign is continued."""
