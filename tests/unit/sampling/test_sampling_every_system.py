"""Each kind of plug-in on each kind of system, its geometry and its figures against brute force or ASE alone.

Slabs in a right-angled and in a 60-degree cell, one without ``fixed``, one so thin that an atom sees its own image, an
oxide with water, a molecule and a cluster without a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii
from ase.geometry import find_mic
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.sciopt import SciPyFminCG

from rlpath_core.backends import load_model
from rlpath_core.backends.base import Model, Prediction
from rlpath_core.config import check
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.sampling import sample
from rlpath_core.sampling.actions import ACTIONS, Move
from rlpath_core.sampling.options import (
    ACTION_OPTIONS,
    PLUGIN_OPTIONS,
    VALIDATOR_OPTIONS,
    MDOptions,
    SamplingConfig,
    TriggerOptions,
)
from rlpath_core.sampling.plugins import PLUGINS, Plugin
from rlpath_core.sampling.triggers import TRIGGERS, Trigger
from rlpath_core.sampling.validators import VALIDATORS, Displacement, Rejection
from rlpath_core.store import Store
from rlpath_core.structure import Structure
from rlpath_core.testing.action import ActionSuite
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.plugin import PluginSuite
from rlpath_core.testing.quench import QuenchSuite
from rlpath_core.testing.systems import SYSTEMS, oxide
from rlpath_core.testing.trigger import TriggerSuite


def clean() -> Structure:
    """The 1x1 cell without its oxygen: a surface, and no adsorbate on it."""
    s = SYSTEMS["thin"]()
    keep = s.numbers != 8
    return Structure(s.numbers[keep], s.positions[keep], s.cell, s.pbc, s.tags[keep], s.fixed[keep])


EVERY = SYSTEMS | {"oxide": oxide, "clean": clean}
SURFACES = [name for name in EVERY if name not in ("cluster", "free_molecule")]
STARTER = Path(__file__).resolve().parents[3] / "models" / "starter" / "manifest.json"


@pytest.fixture(scope="module")
def models() -> Callable[[str], Model]:
    """The model that knows a system's elements."""
    known: dict[str, Model] = {}

    def of(name: str) -> Model:
        kind = "starter" if name == "oxide" else "emt"
        if kind not in known:
            known[kind] = load_model(STARTER) if kind == "starter" else EMTModel()
        return known[kind]

    return of


def images(structure: Structure, reach: int) -> np.ndarray:
    """[n_images, 3] Å: lattice vectors."""
    return np.array(list(product(*[range(-reach, reach + 1) if p else range(1) for p in structure.pbc]))) @ (
        structure.cell
    )


def vectors(structure: Structure, positions: np.ndarray, reach: int) -> np.ndarray:
    """[n_atoms, n_atoms, n_images, 3] Å from every atom to every image of every other."""
    return positions[None, :, None] + images(structure, reach) - positions[:, None, None]


def noise(structure: Structure, width: float, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, width, structure.positions.shape) * infer_roles(structure).movable[:, None]


def judged(name: str, start: Structure, positions: np.ndarray, forces: np.ndarray | None = None) -> Rejection | None:
    prediction = None if forces is None else Prediction(0.0, forces)
    displacement = Displacement(start, start.moved(positions), infer_roles(start), "jitter", prediction)
    return VALIDATORS[name](VALIDATOR_OPTIONS[name]()).check(displacement)


# -- validators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(EVERY))
def test_bond_equals_brute_force(name: str, rng: np.random.Generator) -> None:
    """Every image of every pair that is bonded in the start, as long as it is now."""
    start = EVERY[name]()
    active, radii = infer_roles(start).active, covalent_radii[start.numbers]
    total = (radii[:, None] + radii)[..., None]
    bonded = np.linalg.norm(vectors(start, start.positions, 2), axis=-1) < 1.25 * total
    bonded &= ((active[:, None] & active) & ~np.eye(len(start), dtype=bool))[..., None]
    verdicts = set()
    for width in (0.02, 0.3, 0.8):
        for _ in range(3):
            moved = start.positions + noise(start, width, rng)
            length = np.linalg.norm(vectors(start, moved, 2), axis=-1)
            worst = np.where(bonded, length / (1.5 * total), 0.0).max()
            found = judged("bond", start, moved)
            assert (found is not None) == (worst > 1)
            if found is not None:
                assert found.figure / found.limit == pytest.approx(worst)
            verdicts.add(found is None)
    assert verdicts == ({True, False} if bonded.any() else {True})


@pytest.mark.parametrize("name", list(EVERY))
def test_slab_strain_equals_brute_force_on(name: str, rng: np.random.Generator) -> None:
    start = EVERY[name]()
    roles = infer_roles(start)
    slab = ~roles.adsorbate
    before = np.linalg.norm(vectors(start, start.positions, 2), axis=-1)
    before[(before < 1e-9) | ~(slab[:, None] & slab)[..., None]] = np.inf
    nearest = before <= 1.2 * before.min(axis=(1, 2))[:, None, None]
    nearest &= np.isfinite(before) & (roles.movable[:, None] | roles.movable)[..., None]
    nearest &= ~np.eye(len(start), dtype=bool)[..., None]
    verdicts = set()
    for width in (0.02, 0.2, 0.6):
        for _ in range(3):
            moved = start.positions + noise(start, width, rng)
            after = np.linalg.norm(vectors(start, moved, 2), axis=-1)
            worst = np.abs(after[nearest] / before[nearest] - 1).max(initial=0.0)
            found = judged("slab_strain", start, moved)
            assert (found is not None) == (roles.normal is not None and worst > 0.25)
            if found is not None:
                assert found.figure == pytest.approx(worst)
            verdicts.add(found is None)
    assert verdicts == ({True, False} if name in SURFACES else {True})


@pytest.mark.parametrize("name", list(EVERY))
def test_detached_equals_brute_force(name: str, rng: np.random.Generator) -> None:
    """The adsorbate lifted along the normal; of the slab only what lies below it counts."""
    start = EVERY[name]()
    roles = infer_roles(start)
    if roles.normal is None or not roles.adsorbate.any():
        assert judged("detached", start, start.positions + 50 * roles.active[:, None]) is None
        return
    verdicts = []
    for lift in (0.0, 2.0, 3.5, 4.5, 5.5, 6.5):
        shift = rng.normal(0, 0.05, 3) + lift * roles.normal
        moved = start.positions + roles.adsorbate[:, None] * shift
        way = vectors(start, moved, 3)[np.ix_(roles.adsorbate, ~roles.adsorbate)]
        distance = np.where(way @ roles.normal < 0, np.linalg.norm(way, axis=-1), np.inf).min()
        found = judged("detached", start, moved)
        assert (found is not None) == (distance > 6.0)
        if found is not None:
            assert found.figure == pytest.approx(distance)
        verdicts.append(found is None)
    assert set(verdicts) == {True, False}


@pytest.mark.parametrize("name", list(EVERY))
def test_fixed_and_quality_equal_numpy(name: str, rng: np.random.Generator) -> None:
    start = EVERY[name]()
    movable = infer_roles(start).movable
    for length in (5e-4, 0.01):
        push = rng.normal(size=3)
        push *= length / np.linalg.norm(push)
        elsewhere = images(start, 1)[rng.integers(0, len(images(start, 1)), len(start))]
        found = judged("fixed", start, start.positions + ~movable[:, None] * push + elsewhere)
        assert (found is not None) == (length > 1e-3 and not movable.all())
        if found is not None:
            assert found.figure == pytest.approx(length)
    for width in (1.0, 4.0):
        forces = rng.normal(0, width, start.positions.shape)
        largest = max(np.sqrt(sum(f**2)) for f in forces[movable])
        found = judged("quality", start, start.positions, forces)
        assert (found is not None) == (largest > 5.0)
        if found is not None:
            assert found.figure == pytest.approx(largest)


def test_min_dist_equals_brute_force_on_the_oxide(rng: np.random.Generator) -> None:
    start = oxide()
    movable, radii = infer_roles(start).movable, covalent_radii[start.numbers]
    limit, verdicts = np.maximum(0.7 * (radii[:, None] + radii), 0.7), set()
    for width in (0.05, 0.3, 0.6):
        for _ in range(4):
            moved = start.positions + noise(start, width, rng)
            d = np.linalg.norm(vectors(start, moved, 2), axis=-1)
            d[d < 1e-9] = np.inf
            ratio = np.where(movable[:, None] | movable, d.min(axis=2) / limit, np.inf).min()
            found = judged("min_dist", start, moved)
            assert (found is not None) == (ratio < 1)
            verdicts.add(found is None)
    assert verdicts == {True, False}


# -- actions ----------------------------------------------------------------------------------------------------------


def moves(action: str, start: Structure, **options: object) -> list[Move]:
    suite = ActionSuite()
    suite.tries = 12
    return suite.moves(ACTIONS[action](ACTION_OPTIONS[action](**options)), start, EMTModel(), 5)


def inner(structure: Structure, positions: np.ndarray, atoms: list[int]) -> np.ndarray:
    """Distances within a fragment by ASE, nearest images."""
    return structure.moved(positions).to_ase().get_all_distances(mic=bool(structure.pbc.any()))[np.ix_(atoms, atoms)]


def applies(action: str, name: str) -> bool:
    """Whether the action means something on the system: there is a fragment, a bond to turn about, a surface."""
    return {
        "rigid_rotate": name not in ("thin", "clean", "cluster"),
        "site_hop": name in SURFACES and name != "clean",
        "dihedral_twist": name in ("free_molecule", "oxide"),
    }.get(action, True)


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("action", ["rigid_translate", "rigid_rotate", "push_pull", "site_hop", "dihedral_twist"])
def test_what_actions_keep_and_what_they_change(action: str, name: str) -> None:
    start = EVERY[name]()
    roles, found = infer_roles(start), moves(action, EVERY[name]())
    if action != "dihedral_twist" or applies(action, name):
        assert bool(found) == applies(action, name)
    for move in found:
        atoms, shift = move.parameters["atoms"], move.positions - start.positions
        others = np.setdiff1d(np.arange(len(start)), atoms)
        np.testing.assert_array_equal(shift[others], 0.0)
        assert roles.active[atoms].all()
        np.testing.assert_allclose(inner(start, move.positions, atoms), inner(start, start.positions, atoms), atol=1e-8)
        if action == "rigid_translate":
            np.testing.assert_allclose(shift[atoms], np.tile(shift[atoms[0]], (len(atoms), 1)), atol=1e-12)
            assert np.linalg.norm(shift[atoms[0]]) == pytest.approx(move.parameters["step"])
            assert 0.05 <= move.parameters["step"] <= 0.30
        if action == "push_pull":
            assert np.linalg.norm(shift[atoms], axis=1) == pytest.approx(abs(move.parameters["delta"]))
        if action == "site_hop":
            assert roles.normal is not None
            target = start.positions[move.parameters["site"]] + move.parameters["height"] * roles.normal
            off = find_mic(move.positions[atoms] - target, start.to_ase().cell, start.pbc)[1]
            assert off.min() == pytest.approx(0.0, abs=1e-6), "the fragment's foot is above the site"
            assert 2.0 <= move.parameters["height"] <= 4.0
        if action == "dihedral_twist":
            i, j = move.parameters["axis"]
            assert inner(start, move.positions, [i, j])[0, 1] == pytest.approx(
                inner(start, start.positions, [i, j])[0, 1]
            )
            assert 5.0 <= abs(move.parameters["degrees"]) <= 25.0


@pytest.mark.parametrize("name", list(EVERY))
def test_jitter_is_gaussian_where_atoms_move(name: str) -> None:
    start = EVERY[name]()
    movable = infer_roles(start).movable
    shift = np.array([move.positions - start.positions for move in moves("jitter", start)])
    np.testing.assert_array_equal(shift[:, ~movable], 0.0)
    assert shift[:, movable].std() == pytest.approx(0.03, rel=0.3)


class Direct(Calculator):
    """The model as ASE sees it without any walker."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def calculate(self, atoms=None, properties=None, system_changes=None):
        (found,) = self.model.predict([Structure.from_ase(atoms)])
        self.results = {"energy": found.energy, "forces": found.forces}


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("integrator", ["langevin", "nve"])
@pytest.mark.slow
def test_dynamics_are_ases(models: Callable[[str], Model], name: str, integrator: str) -> None:
    start, model = EVERY[name](), models(name)
    movable = infer_roles(start).movable
    same = {"min_temp_K": 300, "max_temp_K": 300, "min_steps": 5, "max_steps": 5}
    suite = ActionSuite()
    suite.tries = 1
    (move,) = suite.moves(ACTIONS["md"](MDOptions(integrator=integrator, **same)), start, model, 11)
    rng = np.random.default_rng(11)
    rng.uniform(300, 300)
    rng.integers(5, 6)
    held = Structure(start.numbers, start.positions, start.cell, start.pbc, start.tags, ~movable)
    atoms = held.to_ase()
    atoms.calc = Direct(model)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * 300)[:, None])
    if integrator == "nve":
        VelocityVerlet(atoms, 0.5 * units.fs).run(5)
    else:
        Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.02 / units.fs, rng=rng, fixcm=False).run(5)
    np.testing.assert_allclose(move.positions, atoms.positions, rtol=0, atol=1e-6)


# -- quenches ---------------------------------------------------------------------------------------------------------

METHODS = {"fire": FIRE, "cg": SciPyFminCG, "bfgs": BFGS, "lbfgs": LBFGS}


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.slow
def test_the_way_of_a_quench_is_ases(models: Callable[[str], Model], name: str, method: str) -> None:
    system, model = EVERY[name](), models(name)
    movable = infer_roles(system).movable
    start = QuenchSuite().shaken(system, 5)
    options = QuenchOptions(method=method, fmax=0.3, steps=4, max_step=0.1, hessian="unit")
    (found,), _ = QuenchSuite().relax([start], model, options)
    atoms = Structure(start.numbers, start.positions, start.cell, start.pbc, start.tags, ~movable).to_ase()
    atoms.calc = Direct(model)
    extra = {} if method == "cg" else {"maxstep": 0.1}
    METHODS[method](atoms, logfile=None, **extra).run(fmax=0.3, steps=4)
    assert np.abs(atoms.positions - start.positions).max() > 0.01
    np.testing.assert_allclose(found.structure.positions, atoms.positions, atol=1e-4 if name == "oxide" else 1e-6)


# -- what needs no model, on the oxide too ----------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", list(PLUGIN_OPTIONS), indirect=True)
class TestPluginsOnTheOxide(PluginSuite):
    @pytest.fixture
    def plugin(self, request: pytest.FixtureRequest) -> Plugin:
        return PLUGINS[request.param](PLUGIN_OPTIONS[request.param]())

    @pytest.fixture
    def system(self) -> Structure:
        return oxide()


@pytest.mark.parametrize("criterion", ["max_force", "top_k_mean", "energy_rise", "spread"])
class TestTriggersOnTheOxide(TriggerSuite):
    @pytest.fixture
    def system(self) -> Structure:
        return oxide()

    @pytest.fixture
    def trigger(self, criterion: str, roles: Roles) -> Trigger:
        return TRIGGERS["force"](TriggerOptions(**({"max_force": 1e3, "top_k_mean": 1e3} | {criterion: 0.05})), roles)


# -- stoppers ---------------------------------------------------------------------------------------------------------

LIMITS = {
    "steps": 5,
    "patience": 4,
    "max_candidates": 3,
    "max_force_calls": 9,
    "max_seconds": 1e-3,
    "target_basins": 1,
}


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("limit", list(LIMITS))
def test_every_stopper_on_every_system(models: Callable[[str], Model], tmp_path: Path, name: str, limit: str) -> None:
    """A run ends at the limit, for that reason, and no more attempts than there are walkers are begun past it."""
    still = {"enabled": False}
    loose = {"trigger": {"max_force": 0.05, "top_k_mean": 0.05, "stages": ["sample"]}, "validators": ["min_dist"]}
    config = {"walkers": 2, "quench": "none", "md": still, "pipeline": loose, "steps": 60, "walk": {"policy": "origin"}}
    if limit == "target_basins":
        config |= {"quench": {"method": "bfgs", "fmax": 3.0, "steps": 60}, "basin": {"refine_fmax": None}}
    config |= {limit: LIMITS[limit]}
    with Store(tmp_path) as store:
        checked = check(SamplingConfig, config, "x")
        summary = sample(checked, models(name), EVERY[name](), tmp_path / "run", store, seed=1)
    assert summary.stop_reason == limit
    reached = {
        "steps": summary.attempts_total,
        "max_candidates": summary.candidates,
        "max_force_calls": summary.force_calls,
        "max_seconds": summary.elapsed,
        "target_basins": summary.basins,
        "patience": summary.attempts_total + 1,
    }[limit]
    assert reached >= LIMITS[limit]
    if limit not in ("max_seconds", "target_basins"):
        assert reached <= LIMITS[limit] + 2
