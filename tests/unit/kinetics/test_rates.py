"""Rates against ASE's frequencies, partition functions and hand-made numbers."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import add_adsorbate, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from ase.thermochemistry import HarmonicThermo
from ase.vibrations import Vibrations

from rlpath_core.kinetics.balance import balance
from rlpath_core.kinetics.modes import modes
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import Arrhenius, Step, fit, steps
from rlpath_core.kinetics.table import step_table
from rlpath_core.structure import Structure

CLASSICAL = KineticsOptions(temperatures=[300, 500, 900])
QUANTUM = KineticsOptions(temperatures=[300, 500, 900], partition_functions="quantum")
PER_SECOND = units._c * 100


def au_on_al(site: str, folder: Path) -> tuple[Structure, float, np.ndarray]:
    """Structure, energy and ASE's frequencies (cm⁻¹) of Au on Al(100); at the bridge symmetry holds the saddle."""
    atoms = fcc100("Al", size=(2, 2, 3))
    add_adsorbate(atoms, "Au", 1.7, site)
    atoms.center(axis=2, vacuum=4.0)
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() > 1))
    atoms.calc = EMT()
    with BFGS(atoms, logfile=None) as optimizer:
        assert optimizer.run(fmax=1e-4, steps=200)
    vibrations = Vibrations(atoms, indices=np.flatnonzero(atoms.get_tags() <= 1), name=str(folder / site))
    vibrations.run()
    found = vibrations.get_frequencies()
    return Structure.from_ase(atoms), atoms.get_potential_energy(), np.sort(found.real - found.imag)


@pytest.fixture(scope="module")
def hop(tmp_path_factory: pytest.TempPathFactory) -> ReactionNetwork:
    """Au from one hollow of Al(100) to the next, in the smallest cell of ASE's tutorial: 4 ways to go."""
    folder = tmp_path_factory.mktemp("vibrations")
    (start, low, still), (top, high, moving) = (au_on_al(site, folder) for site in ("hollow", "bridge"))
    mode = np.zeros((len(start), 3))
    mode[-1, 0] = 1
    saddle = Saddle("TS001", top, high, mode, "B001", "B001", moving, 4, 4, "rate_ready")
    return ReactionNetwork((Minimum("B001", start, low, still),), (saddle,))


@pytest.mark.slow
def test_a_hop_of_gold_has_the_barrier_and_vineyard_s_prefactor(hop: ReactionNetwork) -> None:
    (step,) = steps(hop, CLASSICAL)
    assert step.barrier == pytest.approx((0.37448, 0.37448), abs=1e-4)
    minimum, saddle = hop.minima[0].frequencies, hop.saddles[0].frequencies
    assert minimum is not None
    assert saddle is not None
    assert saddle[0] < 0 < saddle[1]
    vineyard = np.prod(minimum / 100) / np.prod(saddle[1:] / 100) * 100 * PER_SECOND
    assert step.prefactor == pytest.approx((vineyard, vineyard), rel=1e-10)
    assert vineyard == pytest.approx(5.42e12, rel=0.05)
    assert step.rates is not None
    for temperature, pair in zip(CLASSICAL.temperatures, step.rates, strict=True):
        k = 4 * vineyard * np.exp(-step.barrier[0] / (units.kB * temperature))
        assert pair == pytest.approx((k, k), rel=1e-10)
        assert pair[0] == pair[1], "a step between copies of one minimum"
    zero_points = (saddle[1:].sum() - minimum.sum()) / 2 * units.invcm
    assert step.corrected == pytest.approx((step.barrier[0] + zero_points,) * 2)
    assert any("TS001: 1 mode below 50 cm⁻¹" in note for note in step.notes)


@pytest.mark.slow
def test_quantum_rates_are_those_of_ase_and_become_classical_when_it_is_hot(hop: ReactionNetwork) -> None:
    (step,) = steps(hop, QUANTUM)
    assert step.rates is not None
    assert step.free_energies is not None
    minimum, saddle = (np.asarray(one.frequencies) * units.invcm for one in (hop.minima[0], hop.saddles[0]))
    for temperature, (k, _), (free, _) in zip(QUANTUM.temperatures, step.rates, step.free_energies, strict=True):
        at, side = (HarmonicThermo(list(energies)) for energies in (saddle[1:], minimum))
        difference = at.get_helmholtz_energy(temperature, False) - side.get_helmholtz_energy(temperature, False)
        assert free == pytest.approx(step.barrier[0] + difference, abs=1e-12)
        assert k == pytest.approx(
            4 * units.kB * temperature / (units._hplanck * units.J) * np.exp(-free / (units.kB * temperature))
        )
    hot = {"temperatures": [2e4]}
    (quantum,), (classical,) = (steps(hop, options.model_copy(update=hot)) for options in (QUANTUM, CLASSICAL))
    assert quantum.rates[0] == pytest.approx(classical.rates[0], rel=1e-4)  # type: ignore[index]


def test_heat_capacity_and_entropy_are_derivatives_of_the_free_energy(network: ReactionNetwork) -> None:
    of = modes(network.minima[0].structure, np.asarray(network.minima[0].frequencies))
    for quantum in (False, True):
        energy, entropy, heat = of.thermal(400, quantum)
        free = [of.free_energy(t, quantum) for t in (399, 401)]
        assert entropy == pytest.approx((free[0] - free[1]) / 2, rel=1e-5)
        assert heat == pytest.approx((of.thermal(401, quantum)[0] - of.thermal(399, quantum)[0]) / 2, rel=1e-5)
        assert of.free_energy(400, quantum) == pytest.approx(energy - 400 * entropy)


def test_arrhenius_forms_give_back_the_rates(network: ReactionNetwork) -> None:
    for options in (CLASSICAL, QUANTUM):
        for step in steps(network, options)[:3]:
            assert step.rates is not None
            assert step.arrhenius is not None
            for k, form in enumerate(step.arrhenius):
                found = [form.rate(t) for t in options.temperatures]
                assert found == pytest.approx([pair[k] for pair in step.rates], rel=1e-9)
    known = Arrhenius(3e12, 0.7, 0.42)
    many = np.linspace(250, 1200, 9)
    found_form = fit(many, [known.rate(t) for t in many])
    assert dataclasses.astuple(found_form) == pytest.approx(dataclasses.astuple(known), rel=1e-6)
    two = fit([300, 600], [Arrhenius(1e13, 0, 0.5).rate(t) for t in (300, 600)])
    assert dataclasses.astuple(two) == pytest.approx((1e13, 0, 0.5))


def with_frequencies(network: ReactionNetwork, name: str, frequencies: np.ndarray | None) -> ReactionNetwork:
    def change(one):  # type: ignore[no-untyped-def]
        return dataclasses.replace(one, frequencies=frequencies) if one.name == name else one

    return dataclasses.replace(
        network, minima=tuple(map(change, network.minima)), saddles=tuple(map(change, network.saddles))
    )


@pytest.mark.parametrize(
    ("name", "frequencies", "said"),
    [
        ("B002", None, "no frequencies of B002"),
        ("B001", [-40.0, 90, 100, 200, 300, 400], "B001 is no minimum: 1 imaginary mode (40i cm⁻¹)"),
        ("TS001", [90.0, 95, 100, 200, 300, 400], "TS001 has 0 imaginary modes"),
        ("TS001", [-90.0, -80, 100, 200, 300, 400], "TS001 has 2 imaginary modes"),
        ("TS001", [-90.0, 300, 400], "B001 has 6 modes and TS001 3: other atoms were held"),
    ],
)
def test_no_rate_without_frequencies_that_fit(
    network: ReactionNetwork, name: str, frequencies: list[float] | None, said: str
) -> None:
    changed = with_frequencies(network, name, None if frequencies is None else np.array(frequencies))
    step = steps(changed, CLASSICAL)[0]
    assert said in step.missing
    assert step.rates is step.prefactor is step.corrected is step.arrhenius is None
    assert step.barrier[0] == pytest.approx(0.6)
    assert steps(network, CLASSICAL)[0].missing == ""


def test_low_frequencies_count_as_they_are_and_are_named(
    network: ReactionNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    usual = steps(network, CLASSICAL)[0]
    vibrations = np.array(network.minima[0].frequencies)
    vibrations[0] = 12.0
    with caplog.at_level(logging.INFO, "rlpath.kinetics"):
        step = steps(with_frequencies(network, "B001", vibrations), CLASSICAL)[0]
    assert step.notes == ("B001: 1 mode below 50 cm⁻¹ (lowest 12.0)",)
    assert len(caplog.records) == 1
    assert usual.prefactor is not None
    assert step.prefactor is not None
    assert step.prefactor[0] / usual.prefactor[0] == pytest.approx(12.0 / network.minima[0].frequencies[0])  # type: ignore[index]


def test_translations_and_rotations_of_a_molecule_are_left_out() -> None:
    """Water: 9 frequencies, three of them vibrations; rotations count with the moments of inertia, as ASE has them."""
    water = molecule("H2O")
    noise = [-7.0, -0.1, 0.0, 0.2, 3.0, 11.0]
    of = modes(Structure.from_ase(water), np.array([*noise, 1600.0, 3700, 3800]))
    assert of.real.tolist() == [1600, 3700, 3800]
    assert sorted(of.free) == noise
    assert of.rotations == 3
    assert of.log_inertia == pytest.approx(np.log(water.get_moments_of_inertia()).sum() / 2)
    already = modes(Structure.from_ase(water), np.array([1600.0, 3700, 3800]))
    assert (already.real.tolist(), already.rotations) == ([1600, 3700, 3800], 3)
    held = modes(Structure.from_ase(water), np.array([40.0, 60, 70, 80, 90, 100, 1600, 3700, 3800]))
    assert (len(held.real), len(held.free), held.rotations) == (9, 0, 0), "in a field that lets nothing turn"
    part = modes(Structure.from_ase(water), np.array([1600.0, 3700, 3800, 3900, 4000, 4100]))
    assert (len(part.real), part.rotations) == (6, 0), "one atom was held"
    line = modes(Structure.from_ase(molecule("CO2")), np.array([*noise[:5], 600.0, 600, 1300, 2300]))
    assert (line.rotations, len(line.real)) == (2, 4)
    # 1 amu Å²: 8 pi^2 I k T / h^2 = 2 I k T / hbar^2
    unit = 2 * units._amu * 1e-20 * units._k * 300 / units._hbar**2
    alone = dataclasses.replace(line, real=np.zeros(0))
    assert -alone.free_energy(300, False) / (units.kB * 300) == pytest.approx(np.log(unit) + line.log_inertia)


def test_detailed_balance_holds_and_a_wrong_degeneracy_is_seen(network: ReactionNetwork) -> None:
    """TS001 goes 2 : 1 from B001 to B002, TS002 2 : 4 the other way: both say that B002 has twice the copies."""
    for options in (CLASSICAL, QUANTUM):
        found = balance(network, steps(network, options), options)
        assert found.copies == pytest.approx({"B001": 1, "B002": 2, "B003": 2})
        assert set(found.violation) == {"TS001", "TS002", "TS003"}
        assert found.worst[1] < 1e-9
    broken = (dataclasses.replace(network.saddles[0], degeneracy=3), *network.saddles[1:])
    wrong = dataclasses.replace(network, saddles=broken)
    by = balance(wrong, steps(wrong, CLASSICAL), CLASSICAL).violation
    assert by["TS001"] + by["TS002"] == pytest.approx(np.log(3 / 2))
    hop = dataclasses.replace(network.saddles[0], name="TS009", end="B001", degeneracy=4, degeneracy_back=2)
    alone = dataclasses.replace(network, saddles=(hop,))
    assert balance(alone, steps(alone, CLASSICAL), CLASSICAL).worst == ("TS009", pytest.approx(np.log(2)))
    assert balance(alone, [], CLASSICAL).worst == ("", 0.0)


def test_the_table_has_every_step_and_says_why_one_has_no_rate(network: ReactionNetwork) -> None:
    found = steps(network, CLASSICAL)
    text = step_table(found, balance(network, found, CLASSICAL), temperature=480)
    lines = text.splitlines()
    assert "k(500 K) 1/s" in lines[0]
    rate = found[0].rates[1]  # type: ignore[index]
    assert {f"{rate[0]:.2e}", f"{rate[1]:.2e}", "0.600", "2/1"} <= set(lines[1].split())
    assert lines[2].endswith("reference confirmed")
    assert "TS004 has no rate: no frequencies of TS004" in lines
    assert lines[-1].startswith("detailed balance")
    assert max(map(len, lines)) <= 120
    assert step_table([]) == "no step\n"


def test_a_step_without_a_barrier_has_no_rate(network: ReactionNetwork) -> None:
    low = (dataclasses.replace(network.saddles[0], energy=-2.9), *network.saddles[1:])
    step: Step = steps(dataclasses.replace(network, saddles=low), CLASSICAL)[0]
    assert step.missing == "TS001 lies no higher than B002"
