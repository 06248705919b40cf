"""model.json of a FairChem network: its name and arguments, of known networks only. Loads neither torch nor fairchem.

FairChem's registry imports whatever dotted path a name holds, and a few arguments name files that it opens. Neither
reaches it from here: names are looked up in the tables below, and such arguments are left out or refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rlpath_core.config import Section, check, read_mapping
from rlpath_core.errors import InputError, nearest
from rlpath_core.files import write_json

Backend = Literal["equiformer_v2", "gemnet_oc"]

_EQV2, _GEMNET = "fairchem.core.models.equiformer_v2", "fairchem.core.models.gemnet_oc.gemnet_oc"
NETWORKS: dict[str, tuple[Backend, str]] = {
    "equiformer_v2": ("equiformer_v2", f"{_EQV2}.equiformer_v2_deprecated:EquiformerV2"),
    "gemnet_oc": ("gemnet_oc", f"{_GEMNET}:GemNetOC"),
}
"""Networks with energy and forces in one: FairChem's name, its backend here, where the class is."""
BACKBONES: dict[str, tuple[Backend, str]] = {
    "equiformer_v2_backbone": ("equiformer_v2", f"{_EQV2}.equiformer_v2:EquiformerV2Backbone"),
    "gemnet_oc_backbone": ("gemnet_oc", f"{_GEMNET}:GemNetOCBackbone"),
}
HEADS: dict[str, tuple[Backend, str]] = {
    "equiformer_v2_energy_head": ("equiformer_v2", f"{_EQV2}.equiformer_v2:EquiformerV2EnergyHead"),
    "equiformer_v2_force_head": ("equiformer_v2", f"{_EQV2}.equiformer_v2:EquiformerV2ForceHead"),
    "equiformerV2_scalar_head": ("equiformer_v2", f"{_EQV2}.heads.scalar:EqV2ScalarHead"),
    "equiformerV2_vector_head": ("equiformer_v2", f"{_EQV2}.heads.vector:EqV2VectorHead"),
    "rank2_symmetric_head": ("equiformer_v2", f"{_EQV2}.heads.rank2:Rank2SymmetricTensorHead"),
    "gemnet_oc_energy_and_grad_force_head": ("gemnet_oc", f"{_GEMNET}:GemNetOCEnergyAndGradForceHead"),
    "gemnet_oc_force_head": ("gemnet_oc", f"{_GEMNET}:GemNetOCForceHead"),
}
HYDRA = "hydra"
FORCES_ONLY = frozenset({"equiformer_v2_force_head", "equiformerV2_vector_head", "gemnet_oc_force_head"})
UNUSED = frozenset({"rank2_symmetric_head"})
"""Heads whose output (stress) is not asked for here."""
FILES = frozenset({"scale_file", "scale_factors"})
"""Arguments that name files or hold what the state_dict holds: left out."""


class Network(Section):
    """A network: ``name`` of NETWORKS with its arguments, or ``hydra`` with ``backbone`` and ``heads`` among them."""

    schema_version: Literal[1] = 1
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name != HYDRA:
            _known_name(self.name, [*NETWORKS, HYDRA], "network")
        else:
            backbone, heads = self.arguments.get("backbone"), self.arguments.get("heads")
            if not isinstance(backbone, dict) or not isinstance(heads, dict) or not heads:
                raise ValueError(
                    "hydra without backbone and heads takes them from another checkpoint; give one that has them itself"
                )
            _known_name(backbone.get("model"), BACKBONES, "backbone")
            for head in heads.values():
                module = head.get("module") if isinstance(head, dict) else None
                _known_name(module, HEADS, "head")
                if HEADS[str(module)][0] != BACKBONES[backbone["model"]][0]:
                    raise ValueError(f"head {module!r} does not belong to backbone {backbone['model']!r}")
            if self.arguments.get("finetune_config") is not None:
                raise ValueError("finetune_config names a checkpoint to start from: not part of a network")
        if self.backbone.get("use_pbc", True) is False:
            raise ValueError("use_pbc: false (a graph without images, made by torch_cluster) is not supported")
        if not self.backbone.get("regress_forces", True):
            raise ValueError("regress_forces: false: this network predicts no forces")
        return self

    @property
    def backbone(self) -> dict[str, Any]:
        """Arguments of the part that makes embeddings."""
        found: dict[str, Any] = self.arguments["backbone"] if self.name == HYDRA else self.arguments
        return found

    @property
    def backend(self) -> Backend:
        return BACKBONES[self.backbone["model"]][0] if self.name == HYDRA else NETWORKS[self.name][0]

    @property
    def conservative(self) -> bool:
        """Whether forces are the gradient of the energy: GemNet-OC without ``direct_forces``."""
        return self.backend == "gemnet_oc" and not self.backbone.get("direct_forces", False)

    @property
    def cutoff(self) -> float:
        """Å: how far an atom's neighbours may be."""
        key, default = ("max_radius", 5.0) if self.backend == "equiformer_v2" else ("cutoff", 6.0)
        return float(self.backbone.get(key) or default)


def _known_name(name: Any, known: Any, kind: str) -> None:
    if name not in known:
        raise ValueError(f"no {kind} is called {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}")


def plain(value: Any, where: str | Path | None = None, key: str = "") -> Any:
    """Numbers, strings, lists and mappings alone, as JSON has them; InputError that names anything else."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v, where, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, where, f"{key}[{n}]") for n, v in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy and torch numbers and arrays
        return plain(value.tolist(), where, key)
    raise InputError(f"expected plain data, found a {type(value).__name__}", where, key)


def network_of(config: Mapping[str, Any], where: str | Path) -> Network:
    """The network of a FairChem config, of today's form (``model`` a mapping) or of before 2.0 (``model`` a name,
    ``model_attributes`` its arguments). InputError for a network that is not known here."""
    found = config.get("model")
    if isinstance(found, str):
        found = {"name": found, **dict(config.get("model_attributes") or {})}
    if not isinstance(found, Mapping) or "name" not in found:
        raise InputError("names no network", where, "config.model")
    arguments = plain({k: v for k, v in found.items() if k not in FILES}, where, "config.model")
    name = arguments.pop("name")
    if isinstance(arguments.get("backbone"), dict):
        arguments["backbone"] = {k: v for k, v in arguments["backbone"].items() if k not in FILES}
    if arguments.get("backbone") and arguments.get("heads"):
        arguments.pop("finetune_config", None)  # where it started; its own weights are in the checkpoint
    return check(Network, {"name": name, "arguments": arguments}, where)


def read_network(path: str | Path) -> Network:
    """Raises InputError naming file and key."""
    return check(Network, read_mapping(path), path)


def write_network(path: str | Path, network: Network) -> None:
    write_json(path, network.model_dump(mode="json"))
