"""Detailed balance: whether the rates of a network agree with the equilibrium between its minima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlpath_core.kinetics.modes import KB, modes
from rlpath_core.kinetics.network import ReactionNetwork
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import Step


@dataclass(frozen=True)
class Balance:
    """How far the rates are from detailed balance.

    Attributes
    ----------
    copies
        Symmetry copies of each minimum that has a rate, as the degeneracies of the steps imply them: 1 for the least in
        each connected part. They are whole numbers where the degeneracies of a part agree with each other.
    violation
        For each step with a rate the largest \\|ln(k / k_back) - ln K\\| at any temperature. K is the ratio of the
        partition functions of all copies of the end to those of the start.
    """

    copies: dict[str, float]
    violation: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The step that violates it most, and by how much; an empty name and 0 without any rate."""
        return max(self.violation.items(), key=lambda item: item[1], default=("", 0.0))


def balance(network: ReactionNetwork, steps: Sequence[Step], options: KineticsOptions) -> Balance:
    """Compare the rates of the steps with the equilibrium constants of the minima.

    Around a cycle of steps, and between parallel ones, energies and frequencies cancel, whatever they are; the
    degeneracies cancel only if all are right. A step between copies of one minimum must have equal rates.
    """
    rated = [step for step in steps if step.rates is not None]
    copies = _copies(rated)
    logs = {t: occupations(network, steps, options, t) for t in options.temperatures}
    violation = {}
    for step in rated:
        # through ΔF, since rates may be too small for a float
        found = [
            np.log(step.degeneracy[0] / step.degeneracy[1])
            + (back - there) / (KB * t)
            - (logs[t][step.end] - logs[t][step.start])
            for t, (there, back) in zip(step.temperatures, step.free_energies or (), strict=True)
        ]
        violation[step.name] = float(np.abs(found).max())
    return Balance(copies, violation)


def occupations(
    network: ReactionNetwork, steps: Sequence[Step], options: KineticsOptions, temperature: float
) -> dict[str, float]:
    """Logarithms of the partition functions of all copies of each minimum that has a rate, at ``temperature`` (K)."""
    copies = _copies([step for step in steps if step.rates is not None])
    quantum = options.partition_functions == "quantum"
    found = {}
    for minimum in network.minima:
        if minimum.name in copies:
            assert minimum.frequencies is not None
            energy = minimum.energy + modes(minimum.structure, minimum.frequencies).free_energy(temperature, quantum)
            found[minimum.name] = float(np.log(copies[minimum.name])) - energy / (KB * temperature)
    return found


def _copies(steps: Sequence[Step]) -> dict[str, float]:
    """From N_start d = N_end d_back for every step, by least squares of the logarithms."""
    import networkx as nx

    names = list(dict.fromkeys(name for step in steps for name in (step.start, step.end)))
    joined = nx.Graph()
    joined.add_nodes_from(names)
    rows, ratios = [], []
    for step in steps:
        if step.start != step.end:
            row = np.zeros(len(names))
            row[names.index(step.end)], row[names.index(step.start)] = 1, -1
            rows.append(row)
            ratios.append(np.log(step.degeneracy[0] / step.degeneracy[1]))
            joined.add_edge(step.start, step.end)
    found = np.linalg.lstsq(np.array(rows), np.array(ratios), rcond=None)[0] if rows else np.zeros(len(names))
    for part in nx.connected_components(joined):
        members = [names.index(name) for name in part]
        found[members] -= found[members].min()
    return {name: float(np.exp(value)) for name, value in zip(names, found, strict=True)}
