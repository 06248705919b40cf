"""Every action on every system, and what each of them does to distances and angles."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from rlpath_core.backends.base import Model
from rlpath_core.geometry.cell import displacements
from rlpath_core.sampling.actions import ACTIONS, Action
from rlpath_core.sampling.options import ACTION_OPTIONS, MDOptions, SamplingConfig
from rlpath_core.structure import Structure
from rlpath_core.testing.action import ActionSuite


@pytest.mark.parametrize("action", list(ACTION_OPTIONS), indirect=True)
class TestActions(ActionSuite):
    tries = 3

    @pytest.fixture
    def action(self, request: pytest.FixtureRequest) -> Action:
        return ACTIONS[request.param](ACTION_OPTIONS[request.param]())


@pytest.mark.slow
class TestAlways(ActionSuite):
    """These apply to anything."""

    always_applies = True

    @pytest.fixture(params=["rigid_translate", "push_pull", "jitter", "langevin", "bussi", "nve"])
    def action(self, request: pytest.FixtureRequest) -> Action:
        if request.param in ("langevin", "bussi", "nve"):
            return ACTIONS["md"](MDOptions(integrator=request.param, max_steps=8))
        return ACTIONS[request.param](ACTION_OPTIONS[request.param]())


def test_the_registry_and_the_config_know_the_same_actions():
    assert set(ACTIONS) == set(ACTION_OPTIONS)
    for name, options in ACTION_OPTIONS.items():
        assert ACTIONS[name].Options is options
        assert name in SamplingConfig.model_fields


def moves(name: str, structure: Structure, model: Model, scale: float = 1.0, tries: int = 30, **options):
    suite = ActionSuite()
    suite.tries = tries
    return suite.moves(ACTIONS[name](ACTION_OPTIONS[name](**options)), structure, model, 11, scale)


def lengths(structure: Structure, atoms: list[int]) -> np.ndarray:
    return structure.to_ase().get_all_distances(mic=bool(structure.pbc.any()))[np.ix_(atoms, atoms)]


@pytest.fixture
def scattered() -> Structure:
    """Water and CO over copper, every atom given in another periodic image."""
    from ase.build import fcc111

    atoms = fcc111("Cu", (3, 3, 2), vacuum=8, orthogonal=False)
    top = atoms.positions[:, 2].max()
    for name, at in (("H2O", (0.2, 0.1, 2.4)), ("CO", (4.0, 2.5, 2.2))):
        piece = molecule(name)
        piece.positions += np.array(at) + [0, 0, top] - piece.positions[0]
        piece.set_tags(2)
        atoms += piece
    atoms.pbc = True
    atoms.set_tags([0] * 9 + [1] * 9 + [2] * 5)
    rng = np.random.default_rng(3)
    atoms.positions += rng.integers(-1, 2, (len(atoms), 3)) @ atoms.cell.array
    return Structure.from_ase(atoms)


@pytest.mark.parametrize("name", ["rigid_translate", "rigid_rotate", "site_hop"])
def test_rigid_actions_keep_every_distance_within_the_fragment(name: str, scattered: Structure, model: Model):
    found = moves(name, scattered, model)
    assert {len(move.parameters["atoms"]) for move in found} == {2, 3}
    for move in found:
        atoms = move.parameters["atoms"]
        after = scattered.moved(move.positions)
        np.testing.assert_allclose(lengths(after, atoms), lengths(scattered, atoms), atol=1e-8)
        others = np.setdiff1d(np.arange(len(scattered)), atoms)
        np.testing.assert_array_equal(move.positions[others], scattered.positions[others])


def test_translation_is_as_long_as_configured(scattered: Structure, model: Model):
    for scale in (1.0, 3.0):
        steps = [m.parameters["step"] for m in moves("rigid_translate", scattered, model, scale)]
        assert 0.05 * scale <= min(steps) < max(steps) <= 0.30 * scale
        for move in moves("rigid_translate", scattered, model, scale):
            moved = np.linalg.norm(displacements(scattered.moved(move.positions), scattered), axis=1)
            assert moved.max() == pytest.approx(move.parameters["step"])


def test_push_pull_changes_its_distance_by_delta_and_never_shortens_a_bond(scattered: Structure, model: Model):
    found = moves("push_pull", scattered, model, tries=60)
    signs = {np.sign(m.parameters["delta"]) for m in found}
    assert signs == {-1, 1}
    for move in found:
        i, j = move.parameters["pair"]
        before, after = (s.to_ase().get_distance(i, j, mic=True) for s in (scattered, scattered.moved(move.positions)))
        if before < 2.5:  # the nearest image is the pair's
            assert after - before == pytest.approx(move.parameters["delta"], abs=1e-6)
        if before < 1.3:
            assert after > before


def test_a_twist_turns_the_dihedral_by_its_angle(model: Model):
    ethanol = Structure.from_ase(molecule("CH3CH2OH"))
    turned = 0
    for move in moves("dihedral_twist", ethanol, model):
        i, j = move.parameters["axis"]
        side = [k for k in move.parameters["atoms"] if k != j]
        rest = [k for k in range(9) if k not in (*side, i, j)]
        before, after = ethanol.to_ase(), ethanol.moved(move.positions).to_ase()
        for k in rest:
            if abs(np.sin(np.radians(before.get_angle(k, i, j)))) < 0.1:
                continue
            change = after.get_dihedral(k, i, j, side[0]) - before.get_dihedral(k, i, j, side[0])
            assert abs((change + 180) % 360 - 180) == pytest.approx(abs(move.parameters["degrees"]), abs=1e-6)
            turned += 1
        np.testing.assert_allclose(after.get_distance(i, j), before.get_distance(i, j))
    assert turned


def test_jitter_has_its_width(copper: Structure, model: Model):
    shifts = np.concatenate(
        [
            displacements(copper.moved(m.positions), copper)[~copper.fixed]
            for m in moves("jitter", copper, model, tries=200)
        ]
    )
    assert shifts.std() == pytest.approx(0.03, rel=0.05)


@pytest.mark.filterwarnings("ignore:Use thermalize_momenta")
def test_md_is_what_ase_does_alone(copper: Structure, model: Model):
    """The same Langevin run through the hub and with ASE's own EMT calculator."""
    from ase import units
    from ase.calculators.emt import EMT
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    move = moves("md", copper, model, tries=1, min_temp_K=300, max_temp_K=300, min_steps=20, max_steps=20)[0]
    rng = np.random.default_rng(11)
    kelvin = rng.uniform(300, 300)
    rng.integers(20, 21)
    atoms = copper.to_ase()
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    Langevin(atoms, 0.5 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False).run(20)
    np.testing.assert_allclose(move.positions, atoms.positions, atol=1e-9)


def dynamics(integrator: str, start: Structure, model: Model, steps: int, kelvin: float) -> Structure:
    same = {"min_temp_K": kelvin, "max_temp_K": kelvin, "min_steps": steps, "max_steps": steps}
    return start.moved(moves("md", start, model, tries=1, integrator=integrator, **same)[0].positions)


@pytest.mark.parametrize("integrator", ["nve", "bussi"])
def test_further_integrators_are_what_ase_does_alone(copper: Structure, model: Model, integrator: str):
    from ase import units
    from ase.calculators.emt import EMT
    from ase.md.bussi import Bussi
    from ase.md.verlet import VelocityVerlet

    rng = np.random.default_rng(11)
    rng.uniform(300, 300)
    rng.integers(20, 21)
    atoms = copper.to_ase()
    atoms.calc = EMT()
    width = np.sqrt(atoms.get_masses() * units.kB * 300)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * width[:, None])
    if integrator == "nve":
        ran = VelocityVerlet(atoms, 0.5 * units.fs)
    else:
        ran = Bussi(atoms, 0.5 * units.fs, temperature_K=300, taut=50 * units.fs, rng=rng)
    before = atoms.get_total_energy()
    ran.run(20)
    np.testing.assert_allclose(
        dynamics(integrator, copper, model, 20, 300.0).positions, atoms.positions, rtol=0, atol=1e-9
    )
    if integrator == "nve":
        assert atoms.get_total_energy() == pytest.approx(before, abs=5e-3)
