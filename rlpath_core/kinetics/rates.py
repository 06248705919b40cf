"""Rates of elementary steps by harmonic transition state theory.

Vineyard, J. Phys. Chem. Solids 3, 121 (1957), doi:10.1016/0022-3697(57)90059-8; with quantum partition functions
Eyring, J. Chem. Phys. 3, 107 (1935), doi:10.1063/1.1749604, without tunnelling.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlpath_core.kinetics.modes import KB, LOW, H, Modes, modes
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions

log = logging.getLogger("rlpath.kinetics")
Both = tuple[float, float]
"""A figure of the step from ``start`` to ``end``, and of the step back."""


@dataclass(frozen=True)
class Arrhenius:
    """k(T) = ``a`` (T / K)^``b`` exp(-``energy`` / k_B T): 1/s, a pure number and eV."""

    a: float
    b: float
    energy: float

    def rate(self, temperature: float) -> float:
        """k at a temperature in K, 1/s."""
        return float(self.a * temperature**self.b * np.exp(-self.energy / (KB * temperature)))


@dataclass(frozen=True)
class Step:
    """An elementary step and its rates; pairs are (from start to end, back).

    Attributes
    ----------
    name, start, end, state, degeneracy
        Those of the saddle.
    barrier
        Energy of the saddle above start and end, eV.
    corrected
        The same with zero-point energies; None without frequencies.
    prefactor
        Vineyard's, for one copy of the step, 1/s; None without a rate.
    temperatures
        [n] K.
    rates
        [n] pairs, 1/s, for all copies: degeneracy k_B T / h exp(-ΔF / k_B T). None without a rate.
    free_energies
        [n] pairs, eV: the free-energy barriers ΔF, for one copy. None without a rate.
    arrhenius
        k(T) in Arrhenius form: exact with classical partition functions, else fitted to ``rates``.
    notes
        What makes the rate doubtful, such as low frequencies.
    missing
        Why there is no rate; empty if there is one.
    """

    name: str
    start: str
    end: str
    state: str
    degeneracy: tuple[int, int]
    barrier: Both
    temperatures: tuple[float, ...]
    corrected: Both | None = None
    prefactor: Both | None = None
    rates: tuple[Both, ...] | None = None
    free_energies: tuple[Both, ...] | None = None
    arrhenius: tuple[Arrhenius, Arrhenius] | None = None
    notes: tuple[str, ...] = ()
    missing: str = ""


def steps(network: ReactionNetwork, options: KineticsOptions) -> list[Step]:
    """Barriers and rates of every saddle of the network, in its order.

    A step has no rate where frequencies are missing or do not fit the stationary point; ``Step.missing`` says which.
    Frequencies below 50 cm⁻¹ are used as they are and named in ``Step.notes``.
    """
    ends = {minimum.name: minimum for minimum in network.minima}
    stationary: list[Minimum | Saddle] = [*network.minima, *network.saddles]
    known = {one.name: modes(one.structure, one.frequencies) for one in stationary if one.frequencies is not None}
    found = [_step(saddle, ends[saddle.start], ends[saddle.end], known, options) for saddle in network.saddles]
    if n := sum(bool(step.notes) for step in found):
        log.info(
            "rates of %d of %d steps rest on modes below %g cm⁻¹ or other doubts, which the table of steps names",
            n,
            len(found),
            LOW,
        )
    return found


def _step(saddle: Saddle, start: Minimum, end: Minimum, known: dict[str, Modes], options: KineticsOptions) -> Step:
    barrier = (float(saddle.energy - start.energy), float(saddle.energy - end.energy))
    degeneracy = (saddle.degeneracy, saddle.degeneracy_back)
    bare = Step(
        name=saddle.name,
        start=saddle.start,
        end=saddle.end,
        state=str(saddle.state),
        degeneracy=degeneracy,
        barrier=barrier,
        temperatures=tuple(options.temperatures),
    )
    if missing := _missing(saddle, start, end, known):
        return replace(bare, missing=missing)
    at = known[saddle.name]
    quantum = options.partition_functions == "quantum"
    sides = [
        _Side(at, known[one.name], height, copies, bare.temperatures, quantum)
        for one, height, copies in zip((start, end), barrier, degeneracy, strict=True)
    ]
    doubts = [_doubts(name, known[name]) for name in dict.fromkeys((start.name, saddle.name, end.name))]
    there, back = sides
    return replace(
        bare,
        corrected=(there.corrected, back.corrected),
        prefactor=(there.prefactor, back.prefactor),
        rates=tuple(zip(there.rates, back.rates, strict=True)),
        free_energies=tuple(zip(there.free_energies, back.free_energies, strict=True)),
        arrhenius=(there.arrhenius, back.arrhenius),
        notes=tuple(note for of_one in doubts for note in of_one),
    )


class _Side:
    """The rate over a saddle from one of its sides."""

    def __init__(
        self, at: Modes, side: Modes, barrier: float, copies: int, temperatures: Sequence[float], quantum: bool
    ) -> None:
        self.corrected = barrier + at.zero_point - side.zero_point
        (c, p), (c_side, p_side) = at.classical, side.classical
        harmonic = Arrhenius(float(np.exp(np.log(KB / H) + c - c_side)), 1 + p - p_side, barrier)
        self.prefactor = harmonic.a * temperatures[0] ** harmonic.b
        self.free_energies = [
            float(barrier + at.free_energy(t, quantum) - side.free_energy(t, quantum)) for t in temperatures
        ]
        self.rates = [
            copies * KB * t / H * float(np.exp(-free / (KB * t)))
            for t, free in zip(temperatures, self.free_energies, strict=True)
        ]
        exact = replace(harmonic, a=copies * harmonic.a)
        self.arrhenius = fit(temperatures, self.rates) if quantum else exact


def _missing(saddle: Saddle, start: Minimum, end: Minimum, known: dict[str, Modes]) -> str:
    """Why there can be no rate; empty if there can."""
    without = [one.name for one in (start, saddle, end) if one.name not in known]
    if without:
        return f"no frequencies of {' and '.join(dict.fromkeys(without))}"
    for one in (start, end):
        if n := len(known[one.name].imaginary):
            lowest = known[one.name].imaginary[0]
            return f"{one.name} is no minimum: {n} imaginary mode{'s' * (n > 1)} ({-lowest:.0f}i cm⁻¹)"
    at = known[saddle.name]
    if (n := len(at.imaginary)) != 1:
        return f"{saddle.name} has {n} imaginary modes, and a saddle of first order has one"
    for one in (start, end):
        side = known[one.name]
        if len(side.real) + side.rotations != len(at.real) + at.rotations + 1:
            n, m = (len(x.real) + x.rotations + len(x.imaginary) for x in (side, at))
            return f"{one.name} has {n} modes and {saddle.name} {m}: other atoms were held"
        if saddle.energy <= one.energy:
            return f"{saddle.name} lies no higher than {one.name}"
    return ""


def _doubts(name: str, of: Modes) -> list[str]:
    low = of.real[of.real < LOW]
    told = []
    if len(low):
        told.append(f"{name}: {len(low)} mode{'s' * (len(low) > 1)} below {LOW:g} cm⁻¹ (lowest {low[0]:.1f})")
    return told


def fit(temperatures: Sequence[float], rates: Sequence[float]) -> Arrhenius:
    """The Arrhenius form nearest to k(T), in the least squares of ln k.

    Parameters
    ----------
    temperatures
        [n] K, all different. With three or more ``b`` is fitted too, with two it is 0, with one the energy is as well.
    rates
        [n] 1/s.
    """
    t = np.asarray(temperatures, float)
    columns = np.stack([np.ones_like(t), -1 / (KB * t), np.log(t)], axis=1)[:, : min(len(t), 3)]
    scale = np.abs(columns).max(axis=0)
    solved = np.linalg.lstsq(columns / scale, np.log(rates), rcond=None)[0] / scale
    a, energy, b = (*solved, 0.0, 0.0)[:3]
    return Arrhenius(float(np.exp(a)), float(b), float(energy))
