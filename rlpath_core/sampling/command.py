"""What ``flows.sample`` and ``flows.action_quality`` take: flags and params files, checked before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlpath_core.config import ModelReference, Section, check, located, merge, nested, read_mapping
from rlpath_core.errors import InputError
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.sampling.preflight import check_plugins


class SampleShorthand(Section):
    """Flags of ``flows.sample`` that stand for keys of ``sampling``, and lie on top of them."""

    config: Path | None = None
    """A sampling YAML (configs/sampling.yaml shows every key); what is given under `sampling` lies on top of it."""
    steps: int | None = None
    """`sampling.steps`: attempts in all."""
    target_basins: int | None = None
    """`sampling.target_basins`: stop after this number of basins."""
    walkers: int | Literal["auto"] | None = None
    """`sampling.walkers`: walkers in lockstep."""
    quench: Literal["none", "fire", "cg", "bfgs", "lbfgs"] | QuenchOptions | None = None
    """`sampling.quench.method`, or the whole section `sampling.quench`."""
    quench_fmax: float | None = None
    """`sampling.quench.fmax`: eV/Å."""
    quench_steps: int | None = None
    """`sampling.quench.steps`: steps of a relaxation at most."""


class SampleSpec(Section):
    """One run of ``flows.sample``: the documented flags, as they stand in a params file."""

    shorthand = SampleShorthand

    run_dir: Path
    """The output folder. A run that is already in it is continued with `resume` and refused without."""
    structure_json: Path
    """Where every walker starts: JSON with numbers, positions, cell, fixed and tags, or any file that ASE reads."""
    manifest: ModelReference
    """The model: manifest.json or its folder, or `ase:package.module.Class(key=value, ...)`."""
    weights: Path | None = None
    """A state_dict in place of the manifest's own weights."""
    committee: list[ModelReference] = []
    """Further models; their disagreement can trigger a label (`sampling.pipeline.trigger.spread`)."""
    device: Literal["cuda", "cpu", "auto"] = "cpu"
    """The device of the models; auto takes a GPU if there is one."""
    head: str | None = None
    """The head of a model with several; null takes the manifest's."""
    amp: bool = False
    """bfloat16 inference on a GPU; it has no effect on a CPU."""
    seed: int = Field(0, ge=0)
    """The seed of everything random in the run."""
    resume: bool = False
    """Continue the run that is in `run_dir`."""
    sampling: SamplingConfig = SamplingConfig()


class QualitySpec(Section):
    """What ``flows.action_quality`` takes."""

    run_dir: Path
    """The output folder of a sampling run; the report is written there too."""


SHORT = {
    "steps": "steps",
    "target_basins": "target_basins",
    "walkers": "walkers",
    "quench": "quench.method",
    "quench_fmax": "quench.fmax",
    "quench_steps": "quench.steps",
}


def resolve_sample(params: dict[str, Any], source: Path | None = None) -> SampleSpec:
    """The flags of ``python -m flows.sample`` and its params file as one checked section.

    ``config`` names a sampling YAML; keys under ``sampling`` lie on top of it, the short flags (steps,
    target_basins, walkers, quench, quench_fmax, quench_steps) on top of both. Relative paths are read against the
    folder of ``source``, without one against the working directory. Raises InputError.
    """
    value = located(params, SampleSpec, source.resolve().parent if source else None)
    value = {key: entry for key, entry in value.items() if entry is not None}
    config = value.pop("config", None)
    where: str | Path = source or "--params"
    if not isinstance(config, str | None):
        raise InputError(f"expected the path of a sampling YAML, got {config!r}", where, "config")
    over = value.pop("sampling", {})
    if not isinstance(over, dict):
        raise InputError(f"expected a mapping of keys to values, got {over!r}", where, "sampling")
    if config:
        check_plugins(check(SamplingConfig, read_mapping(config), config), config, "")
    sampling = merge(read_mapping(config) if config else {}, over)
    for flag, path in SHORT.items():
        if flag in value:
            given: Any = value.pop(flag)
            if flag == "quench" and isinstance(given, dict):
                path = "quench"
            sampling = merge(sampling, nested(path, given))
    spec = check(SampleSpec, value | {"sampling": sampling}, where)
    check_plugins(spec.sampling, where, "sampling.")
    trigger = spec.sampling.pipeline.trigger
    if trigger is not None and trigger.spread is not None and not spec.committee:
        key = "sampling.pipeline.trigger.spread"
        raise InputError("needs a committee: give `committee`, manifests of further models", where, key)
    return spec
