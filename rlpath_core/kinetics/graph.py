"""A network as a networkx graph: minima are nodes, every saddle is an edge from its start to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlpath_core.kinetics.network import ReactionNetwork
from rlpath_core.kinetics.rates import Step

if TYPE_CHECKING:
    import networkx as nx


def graph(network: ReactionNetwork, steps: Sequence[Step]) -> nx.MultiDiGraph:
    """The network with plain numbers and words as attributes.

    An edge's key is the saddle's name, and its direction says which barrier is which: ``barrier`` leads from source to
    target and ``barrier_back`` the other way. Every step can be taken both ways. Attributes that are not known are left
    out.

    Parameters
    ----------
    network
    steps
        What `rlpath_core.kinetics.rates.steps` says of it.
    """
    import networkx as nx

    found = nx.MultiDiGraph(theory=network.theory)
    lowest = min((minimum.energy for minimum in network.minima), default=0.0)
    for minimum in network.minima:
        found.add_node(minimum.name, energy=float(minimum.energy), above=float(minimum.energy - lowest))
    for saddle, step in zip(network.saddles, steps, strict=True):
        values = {"energy": float(saddle.energy), "above": float(saddle.energy - lowest), "state": step.state}
        found.add_edge(saddle.start, saddle.end, key=saddle.name, **values, **figures(step))
    return found


def figures(step: Step) -> dict[str, Any]:
    """A step's figures by name, one number each; those of the step back end in ``_back``."""
    values: dict[str, Any] = {}

    def both(name: str, pair: Sequence[float] | None) -> None:
        if pair is not None:
            values[name], values[f"{name}_back"] = pair  # numbers of Python: GraphML has another type for numpy's

    both("degeneracy", step.degeneracy)
    both("barrier", step.barrier)
    both("barrier_zero_point", step.corrected)
    both("prefactor", step.prefactor)
    for temperature, rate, free in zip(step.temperatures, step.rates or (), step.free_energies or (), strict=False):
        both(f"rate_{temperature:g}K", rate)
        both(f"free_energy_barrier_{temperature:g}K", free)
    if step.notes:
        values["notes"] = "; ".join(step.notes)
    if step.missing:
        values["no_rate"] = step.missing
    return values
