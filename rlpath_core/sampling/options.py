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
    """Options that every action has."""

    weight: NotNegative = 1.0
    """The action's share of the draws; 0 switches it off."""

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
    """Move a fragment as a whole in a random direction."""

    min_step: NotNegative = 0.05
    """The shortest step, in Å."""
    max_step: Positive = 0.30
    """The longest step, in Å."""


class RigidRotateOptions(ActionOptions):
    """Rotate a fragment about a random axis through its centre of mass."""

    min_deg: NotNegative = 2.0
    """The smallest angle, in degrees."""
    max_deg: Positive = 15.0
    """The largest angle, in degrees."""


class PushPullOptions(ActionOptions):
    """Change one distance: within a fragment, or between a fragment and other atoms."""

    min_delta: NotNegative = 0.05
    """The smallest change of the distance, in Å."""
    max_delta: Positive = 0.25
    """The largest change of the distance, in Å."""


class DihedralTwistOptions(ActionOptions):
    """Rotate the atoms on one side of a bond about it."""

    min_deg: NotNegative = 5.0
    """The smallest angle, in degrees."""
    max_deg: Positive = 25.0
    """The largest angle, in degrees."""
    bond_factor: Positive = 1.25
    """Atoms closer than this factor times the sum of their covalent radii are bonded."""
    bond_cap: Positive | None = None
    """No bond is longer than this, in Å; null sets no limit."""


class JitterOptions(ActionOptions):
    """Displace every movable atom by Gaussian noise."""

    sigma: Positive = 0.03
    """The standard deviation of each coordinate, in Å."""


class MDOptions(ActionOptions):
    """A short run of molecular dynamics."""

    weight: NotNegative = 0.25
    """The action's share of the draws; 0 switches it off."""

    enabled: bool = True
    """Whether the action is used."""
    integrator: Literal["langevin", "bussi", "nve"] = "langevin"
    """The thermostat, or nve for none."""
    min_temp_K: NotNegative = 50.0
    """The lowest temperature, in K."""
    max_temp_K: Positive = 400.0
    """The highest temperature, in K."""
    min_steps: int = Field(5, ge=1)
    """The smallest number of time steps."""
    max_steps: int = Field(30, ge=1)
    """The largest number of time steps."""
    dt_fs: Positive = 0.5
    """The time step, in fs."""
    friction: NotNegative = 0.02
    """The friction of langevin, in 1/fs."""
    taut_fs: Positive = 50.0
    """The time constant of the velocities' rescaling by bussi, in fs."""


class SiteHopOptions(ActionOptions):
    """Move an adsorbate fragment above another surface atom."""

    weight: NotNegative = 0.5
    """The action's share of the draws; 0 switches it off."""
    min_height: Positive = 2.0
    """The smallest height above the surface atom, in Å."""
    max_height: Positive = 4.0
    """The largest height above the surface atom, in Å."""


class NoiseOptions(Section):
    """Add Gaussian noise to the result of every action."""

    sigma: NotNegative = 0.02
    """The standard deviation of each coordinate, in Å."""
    clip: Positive = 0.06
    """The largest change of a coordinate, in Å."""
    movable_only: bool = True
    """Leave fixed atoms where they are."""


class MinDistOptions(Section):
    """No two atoms are closer than min_factor times the sum of their covalent radii, or hard_min."""

    min_factor: NotNegative = 0.7
    """The smallest distance as a fraction of the sum of the covalent radii."""
    hard_min: NotNegative = 0.7
    """The smallest distance between any two atoms, in Å."""


class FixedOptions(Section):
    """Fixed atoms stay where they are."""

    tol: NotNegative = 1e-3
    """The largest displacement of a fixed atom, in Å."""


class BondOptions(Section):
    """No bond within the adsorbate is overstretched."""

    max_factor: Positive = 1.5
    """The longest bond as a multiple of the sum of the covalent radii."""


class DetachedOptions(Section):
    """No fragment of the adsorbate has left the surface."""

    max_distance: Positive = 6.0
    """The largest distance of a fragment from the surface, in Å."""


class SlabStrainOptions(Section):
    """The distances between nearest neighbours in the slab are close to those of the given structure."""

    max_strain: Positive = 0.25
    """The largest relative change of a distance between nearest neighbours in the slab."""


class QualityOptions(Section):
    """The quality check: the model's largest force and the size of the displacement must be within their limits."""

    force_source: Literal["force_pre"] = "force_pre"
    """The forces that are judged: those of the displaced structure before its relaxation."""
    max_force: Positive = 5.0
    """The force that counts as 1 in the score, in eV/Å."""
    min_force: NotNegative | None = None
    """A structure with a smaller largest force, in eV/Å, is rejected; null sets no limit."""
    score_threshold: Positive = 1.0
    """The largest score that passes."""
    magnitude: dict[str, tuple[float, float]] = {}
    """The allowed range of the largest displacement of an atom, in Å, for each action."""

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
    """Frames for pictures: the displaced structure, steps of the relaxation, and the minimum of an attempt."""

    keep: Literal["new_basin", "accepted"] = "accepted"
    """new_basin keeps frames only of attempts that found a basin, so that the cost grows with the number of basins."""
    every: int = Field(1, ge=1)
    """Frames are kept of attempts whose number is a multiple of this."""
    stride: int = Field(10, ge=0)
    """Relaxation steps between two frames; 0 keeps none of the relaxation."""


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
    """The trigger: force, or `module:Name`."""
    force_source: Literal["force_pre"] = "force_pre"
    """The forces that are judged: those of the displaced structure before its relaxation."""
    mode: Literal["any", "all"] = "any"
    """Whether any limit or all limits must be exceeded."""
    max_force: NotNegative = 0.7
    """The limit of the largest force on a movable atom, in eV/Å."""
    top_k: int = Field(5, ge=1)
    """The number of forces whose mean `top_k_mean` limits."""
    top_k_mean: NotNegative = 0.35
    """The limit of the mean of the `top_k` largest forces, in eV/Å."""
    energy_rise: NotNegative | None = None
    """The limit of the energy above the minimum that the attempt left, in eV; null does not use it."""
    spread: NotNegative | None = None
    """The limit of the standard deviation of a movable atom's force over a committee, in eV/Å; null does not use it."""
    upper: Positive = 15.0
    """A structure with a larger force, in eV/Å, or score has exploded and never triggers."""
    stages: tuple[Literal["sample", "quench_step"], ...] = Field(("sample", "quench_step"), min_length=1)
    """Which structures are judged: the displaced one (sample), and those of the relaxation (quench_step)."""
    stride: int = Field(8, ge=1)
    """Relaxation steps between two structures that are judged."""
    per_attempt: int = Field(3, ge=1)
    """The largest number of candidates of one attempt."""
    min_move: NotNegative = 0.1
    """Between two candidates of one attempt some atom has moved by at least this, in Å."""


class PipelineOptions(Section):
    """What an attempt goes through. A null value switches a plug-in off; a list replaces the defaults."""

    action_plugins: Annotated[dict[str, Any], BeforeValidator(_mapping)] = {"noise": {}}
    """What is done to the result of every action before it is judged."""
    validators: Annotated[dict[str, Any], BeforeValidator(_mapping)] = {"min_dist": {}, "detached": {}, "quality": {}}
    """The checks that a displaced structure must pass."""
    trigger: TriggerOptions | None = TriggerOptions()
    """Which structures are candidates for a label; null queues none."""
    recorders: Annotated[dict[str, Any], BeforeValidator(_mapping)] = {
        "step_trace": {},
        "basin_registry": {},
        "dft_queue": {},
    }
    """The files that the run writes."""

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
    """When two minima are the same: their energies and the surroundings of every atom agree."""

    name: str = "histogram"
    """How minima are compared: histogram, or `module:Name`."""
    bin: Positive = 0.1
    """The bin width of the distance histogram, in Å."""
    cutoff: Positive = 6.0
    """The cutoff of the distance histogram, in Å."""
    energy_window: Positive = 0.1
    """Minima whose energies differ by more than this, in eV, are different."""
    tolerance: Positive = 0.15
    """Minima are different if the mean shift of an atom's distances to its neighbours exceeds this, in Å."""
    look_ahead: int | None = Field(None, ge=1)
    """A relaxation is compared with the known basins every this number of steps and stopped once it has entered one
    from above. This saves calls, but one in ten would have ended elsewhere; null relaxes all to their end."""
    refine_fmax: Positive | None = 0.03
    """What seems to be a new minimum is relaxed further to this largest force, in eV/Å, before it counts; null takes it
    as it is."""


class WalkOptions(Section):
    """Where the next attempt starts.

    ``origin`` always the given structure; ``accept`` the last minimum; ``metropolis`` the same, accepted with
    min(1, exp(-dE / kT)); ``frontier`` the least-visited known basin within ``energy_range`` of the lowest.
    """

    renamed = {"redraw": "max_draws", "apart": "min_distance"}

    policy: str = "frontier"
    """Where the next attempt starts: frontier, origin, accept, metropolis, or `module:Name`."""
    options: dict[str, Any] = {}
    """The policy's own options, if it has any."""
    kT: Positive = 0.1
    """The temperature of metropolis, in eV."""
    energy_range: Positive = 2.0
    """frontier starts from basins within this energy of the lowest, in eV."""
    growth: float = Field(2.0, ge=1)
    """Amplitudes are multiplied by this when an attempt falls back into the basin that it left. They shrink by its
    fourth root when an attempt finds a new basin (all actions) or fails the quality check (its own action)."""
    max_scale: float = Field(12.0, ge=1)
    """The largest multiple of the configured amplitudes; 1 never increases them."""
    relax_share: float = Field(0.2, gt=0, le=1)
    """Of the displaced structures that pass all validators, this fraction with the smallest forces is relaxed. The
    others can only become candidates for a label; 1 relaxes all."""
    max_draws: int = Field(8, ge=1)
    """The largest number of draws of a trial, which is drawn again if it is closer than `min_distance` to an earlier
    trial or basin."""
    min_distance: NotNegative = 0.5
    """The smallest distance from earlier trials and basins, as the mean shift of an atom's distances to its neighbours,
    in Å."""
    learn: bool = True
    """Draw actions that find more new basins per force call more often."""


def _atoms_or_formula(value: Any) -> Any:
    """One word after a flag is a formula. YAML reads NO as false."""
    if isinstance(value, bool):
        raise ValueError('YAML takes the bare word for yes or no: put the formula in quotes, as in "NO"')
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) and not value[0].isdigit():
        return value[0]
    return value


AdsorbateName = Annotated[list[int] | str | None, BeforeValidator(_atoms_or_formula)]


Direction = Literal["x", "y", "z", "-x", "-y", "-z", "a", "b", "c", "-a", "-b", "-c"]


class SamplingConfig(Section):
    """Everything that decides what a sampling run does, but for the model, the start and the seed."""

    adsorbate: AdsorbateName = None
    """The adsorbate: its atoms, counted from 0, or its formula, such as H2O; [] for none. null takes it from the tags
    or guesses it, and the run's first line says how."""
    normal: Direction | tuple[float, float, float] | None = None
    """The direction out of the surface: a Cartesian axis, a lattice direction, or three numbers. null takes the side
    that the adsorbate is on."""

    rigid_translate: RigidTranslateOptions = RigidTranslateOptions()
    rigid_rotate: RigidRotateOptions = RigidRotateOptions()
    push_pull: PushPullOptions = PushPullOptions()
    dihedral_twist: DihedralTwistOptions = DihedralTwistOptions()
    jitter: JitterOptions = JitterOptions()
    md: MDOptions = MDOptions()
    site_hop: SiteHopOptions = SiteHopOptions()
    actions: dict[str, dict[str, Any]] = {}
    """Further actions, by `module:Name` or the name of an entry point, with their options."""
    pipeline: PipelineOptions = PipelineOptions()
    quench: QuenchOptions = QuenchOptions()
    basin: BasinOptions = BasinOptions()
    walk: WalkOptions = WalkOptions()
    walkers: int | Literal["auto"] = "auto"
    """Walkers that run in lockstep; auto decides by device and system size."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Attempts after which all walkers wait for each other and a checkpoint is made. null: they never wait; a
    checkpoint is made after every 4 x walkers attempts and includes the attempts in flight."""
    steps: int = Field(256, ge=0)
    """The number of attempts, rejected ones included."""
    target_basins: int | None = Field(None, ge=1)
    """Stop once this number of basins is known; null sets no target."""
    patience: int | None = Field(None, ge=1)
    """Stop after this number of attempts in a row without a new basin; null never does."""
    max_candidates: int | None = Field(None, ge=1)
    """Stop once this number of candidates is queued; null sets no limit."""
    max_force_calls: int | None = Field(None, ge=1)
    """Stop after this number of force calls; null sets no limit."""
    max_seconds: Positive | None = None
    """Stop after this time, in seconds; null sets no limit."""

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
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("needs at least one walker")
        return value

    @model_validator(mode="after")
    def _some_action_is_on(self) -> SamplingConfig:
        for name in self.actions:
            if ":" not in name and name not in installed("rlpath.actions"):
                raise ValueError(
                    f"actions takes module:Name and names of entry points; {name!r} has its own block, if it exists"
                )
        on = [n for n in ACTION_OPTIONS if getattr(self, n).weight > 0 and (n != "md" or self.md.enabled)]
        if not on and not any(o.get("weight", 1) for o in self.actions.values()):
            raise ValueError("every action is switched off")
        return self
