"""Options of saddle searches, proposals and verification. Lengths are Å, energies eV, forces eV/Å, curvatures eV/Å²."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rlpath_core.config import Section
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.lockstep.options import Positive, QuenchOptions


def by_name(value: Any) -> Any:
    """``[minmode, band]`` and ``{minmode: null}`` as mappings from names to options."""
    if isinstance(value, list):
        value = dict.fromkeys(value)
    if isinstance(value, dict):
        return {name: {} if options is None else options for name, options in value.items()}
    return value


Named = Annotated[dict[str, dict[str, Any]], BeforeValidator(by_name)]


class SearchOptions(Section):
    """What every saddle search has."""

    weight: float = Field(1.0, ge=0)
    """How often it is drawn among the searches that fit a guess."""
    fmax: Positive = 0.01
    """A search converges when the largest force on a movable atom is below this, in eV/Å."""
    max_calls: int = Field(300, ge=1)
    """Structures that one search may evaluate."""


class MinModeOptions(SearchOptions):
    """Up along the lowest mode, by a Hessian that learns."""

    trust: Positive = 0.1
    """The longest displacement of an atom in the first step, in Å."""
    max_step: Positive = 0.3
    """The longest displacement of an atom in any step, in Å."""
    probe: Positive = 0.005
    """Displacement, in Å (norm over all atoms), by which the curvature along a direction is probed."""
    angle: float = Field(0.2, gt=0, lt=1)
    """A mode is known well enough when it is expected within this angle (its sine) of what was probed."""
    max_probes: int = Field(8, ge=1)
    """Structures at most that one look for the mode may evaluate."""


class SellaOptions(SearchOptions):
    """The library Sella."""

    hessian: Literal["lindh", "unit"] = "unit"
    """The curvatures that it starts from: those of a model force field (lindh), or one for all directions (unit)."""
    trust: Positive = 0.1
    """The longest displacement of an atom in the first step, in Å."""
    probe: Positive = 1e-3
    """Displacement, in Å, by which it probes the curvature along a direction."""
    gamma: Positive = 0.1
    """How well it converges a mode: the largest residual as a fraction of the curvature."""


class DimerOptions(SearchOptions):
    """ASE's dimer."""

    separation: Positive = 0.01
    """Distance, in Å, by which the curvature along the mode is probed."""
    rotations: int = Field(1, ge=1)
    """Rotations of the mode per step."""
    max_step: Positive = 0.1
    """The longest step, in Å (norm over all atoms), and the length of each while the curvature is positive."""


class BandOptions(SearchOptions):
    """ASE's nudged elastic band."""

    images: int = Field(3, ge=1)
    """Images between two minima; a guess that has images keeps its own."""
    start: Literal["idpp", "linear"] = "idpp"
    """How the images are drawn: so that distances between near atoms change evenly, or on the straight line."""
    spring: Positive = 0.1
    """Spring constant, in eV/Å²."""
    max_step: Positive = 0.2
    """The longest step of one atom, in Å."""
    hand_over: str | None = "minmode"
    """The search that goes on from the highest point of the band; null lets the climbing image converge."""
    hand_over_force: Positive = 10.0
    """The band hands over when the largest force on its climbing image is below this, in eV/Å."""
    then: dict[str, Any] = {}
    """Options of that search; fmax and max_calls are those of the band."""
    reach: Positive = 1.5
    """That search may go so far from the band at first, in mean distances between two images."""
    split: Positive | None = 0.05
    """An image this much lower than both its neighbours, in eV, is relaxed and may end the band; null never looks."""
    quench: QuenchOptions = QuenchOptions(method="bfgs", fmax=0.02, steps=100)
    """How it is relaxed."""


class ProposalOptions(Section):
    """What every proposal has."""

    weight: Positive = 1.0
    """How often it is drawn at first, before the run has learnt what it finds per force call."""


class PairOptions(ProposalOptions):
    """From one known minimum to another, or to a copy of itself."""

    max_distance: Positive = 4.0
    """No atom moves further than this from one to the other, in Å."""


class DisplacementOptions(ProposalOptions):
    """Random displacements of several kinds and sizes: which of them serve, and where, is learnt."""

    radii: list[Positive] = Field([3.3, 6.0], min_length=1)
    """Movable atoms within this distance of the chosen one are displaced too, in Å. The first is that of all kinds but
    shaking, which may take any."""
    sigmas: list[Positive] = [0.05, 0.1]
    """Standard deviations, in Å, of each coordinate of atoms that shake."""
    steps: list[Positive] = [0.5]
    """Steps of the chosen atom alone, in Å, in a random direction."""
    shears: list[Positive] = [0.5]
    """Distances, in Å, by which one part of an adsorbate of many atoms slides along the other."""
    shifts: list[Positive] = [0.5, 1.5]
    """Distances, in Å, by which an adsorbed molecule or atom is moved along the surface."""
    turns: list[Positive] = [45.0, 90.0]
    """Degrees by which an adsorbed molecule is turned about a random axis."""


class SoftModeOptions(ProposalOptions):
    """The lowest modes of a minimum, followed uphill."""

    radius: Positive = 3.0
    """Movable atoms within this distance of the adsorbate move in the modes too, in Å."""
    modes: int = Field(8, ge=1)
    """Modes to follow: which of them serve is learnt."""
    vectors: int = Field(24, ge=1)
    """Structures that are evaluated, once for each minimum, to find the modes."""
    amplitudes: list[Positive] = Field([0.2, 0.4, 0.8], min_length=1)
    """Displacements of the atom that a mode moves most, in Å: which one serves best is learnt."""
    mixtures: list[Positive] = [0.4, 0.8, 1.2]
    """The same for a random mixture of all modes that were computed."""


class BondChangeOptions(ProposalOptions):
    """Bonds that break, form, or pass an atom on."""

    reach: Positive = 2.6
    """A bond may form between atoms nearer than this multiple of the sum of their covalent radii."""
    lengths: list[Positive] = Field([1.3, 1.4, 1.5], min_length=1)
    """Lengths to stretch or contract to, as multiples of the sum of the covalent radii."""
    shake: float = Field(0.05, ge=0)
    """Standard deviation of the displacement of the atoms around, in Å."""
    repeats: int = Field(3, ge=1)
    """How often one bond of one minimum is tried."""


class ImageOptions(ProposalOptions):
    """Known saddles put where the surroundings are the same but for a rotation, a mirror or a shift."""

    moving: Positive = 0.15
    """Atoms further than this from their places in the minimum, in Å, are what a saddle is about."""
    radius: Positive = 4.0
    """Atoms within this distance of those, in Å, must have their like in the other place."""
    tolerance: Positive = 0.4
    """How far such an atom may be from its like, in Å."""


class VerifyOptions(Section):
    """What a converged search must show before it counts as a saddle."""

    fmax: Positive = 0.01
    """The largest force on a movable atom of a saddle, in eV/Å. Searches that ended above it are refined first."""
    curvature: Positive = 0.05
    """A curvature counts as negative below minus this, in eV/Å²: what lies between is noise of the model."""
    displacement: Positive = 0.05
    """Displacement along the mode, in Å (norm over all atoms), of the labelled pair that shows the curvature."""
    push: Positive = 0.2
    """Displacement along the mode, in Å, from which both sides relax into the ends."""
    hessian_step: Positive = 0.01
    """Displacement of each coordinate for the Hessian, in Å."""
    hessian: Literal["all", "connected", "never"] = "connected"
    """Which saddles get a Hessian: all that converged, those that are connected, or none: without one they get no
    frequencies and no rates."""
    quench: QuenchOptions = QuenchOptions(method="bfgs", fmax=0.01, steps=300, max_step=0.1)
    """How the ends are relaxed: in steps so short that none leaps over the minimum beside the saddle."""
    descent: Literal["springs", "quench"] = "springs"
    """How a side relaxes. springs: by a Hessian of springs that learns from every force, in place of quench's bfgs, to
    the same fmax and in steps no longer. quench: as quench says."""
    reference_fmax: Positive = 0.05
    """A saddle that the reference method labelled is confirmed when its largest force there is below this, in eV/Å, and
    its curvature along the mode is negative."""
    disagreement: Positive | None = 0.2
    """Where forces are no gradient of the energy: on the way down from a saddle, the work of the forces and the fall of
    the energy may differ by this much, in eV. A saddle beyond it is rejected; null only records the difference."""
    max_barrier: Positive = 5.0
    """A saddle that lies further above its lower end, in eV, is rejected."""


class LimitsOptions(Section):
    """Hard limits inside a search. Null switches one off."""

    max_energy: Positive | None = 8.0
    """A search ends when the energy is this far above where it began, in eV."""
    max_drop: Positive | None = 12.0
    """A search ends when the energy is this far below where it began, in eV: no reaction does that, but a model outside
    its range may."""
    min_factor: Positive | None = 0.7
    """A search ends when two atoms are nearer than this fraction of the sum of their covalent radii."""
    max_distance: Positive | None = 4.0
    """A search ends when a fragment of the adsorbate is further from the surface than this, in Å."""


class PathsConfig(Section):
    """Saddle searches on one surface: where they begin, how they go, and what they must show."""

    proposals: Named = {"pairs": {}, "soft_modes": {}, "displacements": {}, "bonds": {}, "images": {}}
    """Where searches begin, by name, with their options."""
    searches: Named = {"minmode": {}, "band": {}}
    """How they go, by name: minmode, sella, dimer, band."""
    limits: LimitsOptions = LimitsOptions()
    verify: VerifyOptions = VerifyOptions()
    kinetics: KineticsOptions = KineticsOptions()
    walkers: int | Literal["auto"] = "auto"
    """Searches side by side."""
    max_searches: int = Field(64, ge=1)
    """Searches in all."""
    max_force_calls: int | None = Field(None, ge=1)
    """The run stops after this number of evaluated structures."""
    max_seconds: float | None = Field(None, gt=0)
    """The run stops after this time."""
    unseen: float | None = Field(None, gt=0, lt=1)
    """The run stops when the next verified saddle is new with less than this probability (Good-Turing)."""
    pictures: bool = True
    """Draws the network and energy diagrams when the run has ended."""
