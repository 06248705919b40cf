"""The sampling config: action magnitudes, the pipeline of an attempt, the walk, and when to stop.

The keys of the action blocks and of ``pipeline`` are the documented interface (configs/sampling.yaml shows all of
them with their defaults). Lengths are Å, angles degrees, energies eV, forces eV/Å.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rlpath_core.config import Section, check
from rlpath_core.errors import InputError, nearest
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.registry import installed

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class ActionOptions(Section):
    """``weight`` is the action's share of the draws; 0 switches it off."""

    weight: NotNegative = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> ActionOptions:
        for name in type(self).model_fields:
            upper = "max_" + name.removeprefix("min_")
            if (
                name.startswith("min_")
                and upper in type(self).model_fields
                and getattr(self, name) > getattr(self, upper)
            ):
                raise ValueError(f"{name} is larger than {upper}")
        return self


class RigidTranslateOptions(ActionOptions):
    """Move a fragment as one by a length between the two, Å, in a random direction."""

    min_step: NotNegative = 0.05
    max_step: Positive = 0.30


class RigidRotateOptions(ActionOptions):
    """Turn a fragment about a random axis through its centre of mass, degrees."""

    min_deg: NotNegative = 2.0
    max_deg: Positive = 15.0


class PushPullOptions(ActionOptions):
    """Change one distance by a length between the two, Å."""

    min_delta: NotNegative = 0.05
    max_delta: Positive = 0.25


class DihedralTwistOptions(ActionOptions):
    """Turn one side of a bond about it, degrees. Bonded: nearer than bond_factor x the covalent radii's sum."""

    min_deg: NotNegative = 5.0
    max_deg: Positive = 25.0
    bond_factor: Positive = 1.25
    bond_cap: Positive | None = Field(None, description="no bond is longer than this, Å")


class JitterOptions(ActionOptions):
    """Gaussian displacement of every movable atom, Å."""

    sigma: Positive = 0.03


class MDOptions(ActionOptions):
    """A short run of molecular dynamics."""

    weight: NotNegative = 0.25

    enabled: bool = True
    integrator: Literal["langevin", "bussi", "nve"] = "langevin"
    min_temp_K: NotNegative = 50.0
    max_temp_K: Positive = 400.0
    min_steps: int = Field(5, ge=1)
    max_steps: int = Field(30, ge=1)
    dt_fs: Positive = 0.5
    friction: NotNegative = Field(0.02, description="1/fs; langevin alone")
    taut_fs: Positive = Field(50.0, description="time constant of the velocities' rescaling; bussi alone")


class SiteHopOptions(ActionOptions):
    """Put an adsorbate fragment above another surface atom, ``min_height`` to ``max_height`` Å along the normal."""

    weight: NotNegative = 0.5
    min_height: Positive = 2.0
    max_height: Positive = 4.0


class NoiseOptions(Section):
    """Gaussian noise on top of every action, Å, each coordinate clipped."""

    sigma: NotNegative = 0.02
    clip: Positive = 0.06
    movable_only: bool = True


class MinDistOptions(Section):
    """No two atoms nearer than max(min_factor x sum of covalent radii, hard_min Å)."""

    min_factor: NotNegative = 0.7
    hard_min: NotNegative = 0.7


class FixedOptions(Section):
    """Fixed atoms have not moved by more than ``tol`` Å."""

    tol: NotNegative = 1e-3


class BondOptions(Section):
    """No bond within the adsorbate is stretched past max_factor x the sum of covalent radii."""

    max_factor: Positive = 1.5


class DetachedOptions(Section):
    """No adsorbate atom's fragment is further than ``max_distance`` Å from the surface."""

    max_distance: Positive = 6.0


class SlabStrainOptions(Section):
    """No length between nearest neighbours in the slab is off the given structure's by more than this share of it."""

    max_strain: Positive = 0.25


class QualityOptions(Section):
    """The gate after the model's forces: force / max_force, and magnitude / its limit, against the threshold."""

    force_source: Literal["force_pre"] = "force_pre"
    max_force: Positive = 5.0
    min_force: NotNegative | None = None
    score_threshold: Positive = 1.0
    magnitude: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="per action, the allowed range of the largest displacement of an atom, Å"
    )

    @model_validator(mode="after")
    def _something_passes(self) -> QualityOptions:
        for name, (least, most) in self.magnitude.items():
            if least > most:
                raise ValueError(f"magnitude.{name}: {least} is larger than {most}")
        if self.min_force is not None and self.min_force > self.max_force * self.score_threshold:
            raise ValueError("min_force is larger than max_force x score_threshold: nothing would pass")
        return self


ACTION_OPTIONS: dict[str, type[ActionOptions]] = {
    "rigid_translate": RigidTranslateOptions,
    "rigid_rotate": RigidRotateOptions,
    "push_pull": PushPullOptions,
    "dihedral_twist": DihedralTwistOptions,
    "jitter": JitterOptions,
    "md": MDOptions,
    "site_hop": SiteHopOptions,
}
PLUGIN_OPTIONS: dict[str, type[Section]] = {"noise": NoiseOptions}
VALIDATOR_OPTIONS: dict[str, type[Section]] = {
    "min_dist": MinDistOptions,
    "fixed": FixedOptions,
    "bond": BondOptions,
    "detached": DetachedOptions,
    "slab_strain": SlabStrainOptions,
    "quality": QualityOptions,
}


class VizOptions(Section):
    """Frames for pictures: of each attempt that is kept the displaced structure, quench steps and the minimum."""

    keep: Literal["new_basin", "accepted"] = Field(
        "accepted", description="new_basin: only attempts that found one, so what it costs grows with the basins"
    )
    every: int = Field(1, ge=1, description="of these, the attempts whose number is a multiple of it")
    stride: int = Field(10, ge=0, description="quench steps between two frames; 0: none of the quench")


RECORDER_OPTIONS: dict[str, type[Section]] = {
    "step_trace": Section,
    "basin_registry": Section,
    "dft_queue": Section,
    "viz": VizOptions,
}


def _mapping(value: Any) -> Any:
    """``[a, {b: {...}}, {name: c, ...}]`` as the mapping ``{a: {}, b: {...}, c: {...}}``; order is kept."""
    if not isinstance(value, list):
        return value
    out: dict[str, Any] = {}
    for entry in value:
        if isinstance(entry, dict) and "name" in entry:
            out[str(entry["name"])] = {key: v for key, v in entry.items() if key != "name"}
        elif isinstance(entry, dict):
            out.update(entry)
        else:
            out[str(entry)] = {}
    return out


def _known(kind: str, sections: dict[str, type[Section]], value: dict[str, Any]) -> dict[str, Any]:
    """Options of the built-in plug-ins checked and completed; those of others are checked by themselves."""
    out: dict[str, Any] = {}
    for name, options in value.items():
        if options is None or options is False:
            continue
        if ":" not in name and name not in sections and name not in installed(f"rlpath.{kind}s"):
            raise ValueError(f"no {kind} is called {name!r}.{nearest(name, sections)} Known: {', '.join(sections)}")
        options = {} if options is True else options
        if not isinstance(options, dict):
            raise ValueError(f"{kind} {name!r} takes a mapping of its options")
        if name in sections:
            try:
                options = check(sections[name], options, name).model_dump(mode="json")
            except InputError as error:
                raise ValueError(str(error)) from error
        out[name] = options
    return out


class TriggerOptions(Section):
    """Which structures are worth a label.

    A structure triggers when the largest force on a movable atom is above ``max_force`` or the mean of the largest
    ``top_k`` is above ``top_k_mean`` (with mode ``all``: when everything that is configured is above its limit), and
    nothing is above ``upper``: exploded structures teach nothing.
    """

    name: str = "force"
    force_source: Literal["force_pre"] = "force_pre"
    mode: Literal["any", "all"] = "any"
    max_force: NotNegative = 0.7
    top_k: int = Field(5, ge=1)
    top_k_mean: NotNegative = 0.35
    energy_rise: NotNegative | None = Field(None, description="energy above the minimum that the attempt left, eV")
    spread: NotNegative | None = Field(None, description="a movable atom's force over a committee: deviation, eV/Å")
    upper: Positive = 15.0
    stages: tuple[Literal["sample", "quench_step"], ...] = Field(("sample", "quench_step"), min_length=1)
    stride: int = Field(8, ge=1, description="of the quench, every so many steps")
    per_attempt: int = Field(3, ge=1, description="candidates of one attempt at most")
    min_move: NotNegative = Field(0.1, description="between two candidates of one attempt an atom moved so far, Å")


class PipelineOptions(Section):
    """What an attempt goes through. A null value switches a plug-in off; a list replaces the defaults."""

    action_plugins: Annotated[dict[str, Any], BeforeValidator(_mapping)] = {"noise": {}}
    validators: Annotated[dict[str, Any], BeforeValidator(_mapping)] = {"min_dist": {}, "detached": {}, "quality": {}}
    trigger: TriggerOptions | None = TriggerOptions()
    recorders: Annotated[dict[str, Any], BeforeValidator(_mapping)] = {
        "step_trace": {},
        "basin_registry": {},
        "dft_queue": {},
    }

    @field_validator("action_plugins")
    @classmethod
    def _plugins(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _known("plugin", PLUGIN_OPTIONS, value)

    @field_validator("validators")
    @classmethod
    def _validators(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _known("validator", VALIDATOR_OPTIONS, value)

    @field_validator("recorders")
    @classmethod
    def _recorders(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _known("recorder", RECORDER_OPTIONS, value)


class BasinOptions(Section):
    """When two minima are one: energies within the window, and every atom's surroundings within the tolerance."""

    name: str = "histogram"
    bin: Positive = 0.1
    cutoff: Positive = 6.0
    energy_window: Positive = 0.1
    tolerance: Positive = Field(0.15, description="mean shift of an atom's distances to its neighbours, Å")
    look_ahead: int | None = Field(
        None,
        ge=1,
        description="every so many steps a quench is compared with the known basins, and ends where it has come into "
        "one from above: fewer calls, but one in ten would have gone on elsewhere; null: all go on to their end",
    )
    refine_fmax: Positive | None = Field(
        0.03, description="what seems a new minimum is relaxed on to this (eV/Å) before it counts; null: as it is"
    )


class WalkOptions(Section):
    """Where the next attempt starts.

    ``origin`` always the given structure; ``accept`` the last minimum; ``metropolis`` the same, accepted with
    min(1, exp(-dE / kT)); ``frontier`` the least-visited known basin within ``energy_range`` of the lowest.
    """

    policy: str = "frontier"
    options: dict[str, Any] = Field(default_factory=dict, description="the policy's own options, if it has any")
    kT: Positive = Field(0.1, description="eV")
    energy_range: Positive = Field(2.0, description="eV")
    growth: float = Field(
        2.0,
        ge=1,
        description="amplitudes grow by this when an attempt falls back into the basin that it left, and shrink by "
        "its fourth root when it finds a new one (all of them) or dies at the model's gate (that action's own)",
    )
    max_scale: float = Field(
        12.0, ge=1, description="and are never past this many times the configured ones; 1: never grow"
    )
    relax_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="of the displaced structures that pass all validators, the share with the least force is relaxed; "
        "the others are candidates for a label at most; 1: all are relaxed",
    )
    redraw: int = Field(
        8, ge=1, description="a move that leads where attempts have been is drawn anew, so many times in all; 1: never"
    )
    apart: NotNegative = Field(
        0.5, description="mean shift of an atom's distances to its neighbours, Å: less than this is where one has been"
    )
    learn: bool = Field(True, description="actions that find more new basins per force call are drawn more often")


class SamplingConfig(Section):
    """Everything that decides what a sampling run does, but for the model, the start and the seed."""

    rigid_translate: RigidTranslateOptions = RigidTranslateOptions()
    rigid_rotate: RigidRotateOptions = RigidRotateOptions()
    push_pull: PushPullOptions = PushPullOptions()
    dihedral_twist: DihedralTwistOptions = DihedralTwistOptions()
    jitter: JitterOptions = JitterOptions()
    md: MDOptions = MDOptions()
    site_hop: SiteHopOptions = SiteHopOptions()
    actions: dict[str, dict[str, Any]] = Field(default_factory=dict, description="further ones, by module:Name")
    pipeline: PipelineOptions = PipelineOptions()
    quench: QuenchOptions = QuenchOptions()
    basin: BasinOptions = BasinOptions()
    walk: WalkOptions = WalkOptions()
    walkers: int | Literal["auto"] = "auto"
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="attempts after which all walkers rest and a checkpoint is made; null: they never wait for each "
        "other, and a checkpoint after every 4 x walkers attempts keeps those on their way as they are",
    )
    steps: int = Field(256, ge=0, description="attempts in all, rejected ones included")
    target_basins: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1, description="stop after so many attempts in a row without a new basin")
    max_candidates: int | None = Field(None, ge=1)
    max_force_calls: int | None = Field(None, ge=1)
    max_seconds: Positive | None = None

    @model_validator(mode="after")
    def _limits_of_known_actions(self) -> SamplingConfig:
        magnitude = self.pipeline.validators.get("quality", {}).get("magnitude", {})
        known = [*ACTION_OPTIONS, *self.actions]
        for name in magnitude:
            if name not in known:
                raise ValueError(
                    f"pipeline.validators.quality.magnitude: no action is called {name!r}."
                    f"{nearest(name, known)} Known: {', '.join(known)}"
                )
        return self

    @field_validator("quench", mode="before")
    @classmethod
    def _method_alone(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @field_validator("walkers")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("needs at least one walker")
        return value

    @model_validator(mode="after")
    def _an_action(self) -> SamplingConfig:
        for name in self.actions:
            if ":" not in name and name not in installed("rlpath.actions"):
                raise ValueError(
                    f"actions takes module:Name and names of entry points; {name!r} has its own block, if it exists"
                )
        on = [n for n in ACTION_OPTIONS if getattr(self, n).weight > 0 and (n != "md" or self.md.enabled)]
        if not on and not any(o.get("weight", 1) for o in self.actions.values()):
            raise ValueError("every action is switched off")
        return self
