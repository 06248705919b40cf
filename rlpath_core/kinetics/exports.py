"""Files of a network for other programs: GraphML, CatMAP and Cantera."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.data import chemical_symbols

from rlpath_core.files import atomic_write
from rlpath_core.kinetics.balance import balance
from rlpath_core.kinetics.graph import graph
from rlpath_core.kinetics.modes import KB, modes
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import Arrhenius, Step
from rlpath_core.structure import Structure

GAS_CONSTANT = 8314.46261815324
"""J/(kmol K), as Cantera has it."""
SITE_DENSITY = 1e-8
"""kmol/m²: of no effect on rates of first order; about a site in 16 Å²."""


def write_graphml(network: ReactionNetwork, steps: Sequence[Step], path: Path) -> Path:
    """GraphML for Gephi, Cytoscape, yEd and igraph: one number or word for each attribute, no structures."""
    from networkx.readwrite.graphml import write_graphml_xml  # whether lxml is there or not: the same bytes

    out = io.BytesIO()
    write_graphml_xml(graph(network, steps), out)
    with atomic_write(path, "wb") as stream:
        stream.write(out.getvalue().rstrip() + b"\n")
    return path


def composition(structure: Structure) -> dict[str, int]:
    """Atoms of the adsorbate (tag 2) by element, of all atoms if none is tagged."""
    adsorbed = structure.tags == 2
    numbers, counts = np.unique(
        structure.numbers[adsorbed] if adsorbed.any() else structure.numbers, return_counts=True
    )
    return {chemical_symbols[z]: int(n) for z, n in zip(numbers, counts, strict=True)}


def between_different(steps: Sequence[Step]) -> list[Step]:
    """Steps with a rate that lead to another minimum: what changes an occupation."""
    return [step for step in steps if step.rates is not None and step.start != step.end]


def write_cantera(network: ReactionNetwork, steps: Sequence[Step], options: KineticsOptions, path: Path) -> Path | None:
    """A surface mechanism for Cantera 3: minima are species on one site each, every step is a reaction each way.

    Reactions are irreversible pairs with the Arrhenius form of each way's own k(T), degeneracy included. The species'
    thermodynamics are those of all symmetry copies of a minimum, exact at all temperatures for classical partition
    functions and at the first temperature for quantum ones. Steps without a rate and steps between copies of one
    minimum are left out.

    Returns
    -------
    Path or None
        None, and no file, where no step is left.
    """
    used = between_different(steps)
    if not used:
        path.unlink(missing_ok=True)
        return None
    ends = {name for step in used for name in (step.start, step.end)}
    species = [minimum for minimum in network.minima if minimum.name in ends]
    copies = balance(network, steps, options).copies
    lowest = min(minimum.energy for minimum in network.minima)
    made_of = {minimum.name: composition(minimum.structure) for minimum in species}
    elements = list(dict.fromkeys(symbol for atoms in made_of.values() for symbol in atoms))
    several = {frozenset((step.start, step.end)): 0 for step in used}
    for step in used:
        several[frozenset((step.start, step.end))] += 1
    reactions = []
    for step in used:
        assert step.arrhenius is not None
        ways = ((step.name, step.start, step.end), (f"{step.name}-back", step.end, step.start))
        for (name, start, end), form in zip(ways, step.arrhenius, strict=True):
            reaction: dict[str, Any] = {"equation": f"{start} => {end}", "id": name, "rate-constant": _rate(form)}
            if several[frozenset((step.start, step.end))] > 1:
                reaction["duplicate"] = True
            reactions.append(reaction)
    left_out = [step.name for step in steps if step not in used]
    data = {
        "description": _description(network, options, left_out),
        "units": {"length": "m", "time": "s", "quantity": "kmol", "energy": "J", "activation-energy": "K"},
        "phases": [
            {
                "name": "network",
                "thermo": "ideal-surface",
                "elements": elements,
                "species": [minimum.name for minimum in species],
                "kinetics": "surface",
                "reactions": "all",
                "site-density": SITE_DENSITY,
                "state": {"T": float(options.temperatures[0]), "coverages": {_lowest(species).name: 1.0}},
            }
        ],
        "species": [
            {
                "name": minimum.name,
                "composition": made_of[minimum.name],
                "thermo": _thermo(minimum, minimum.energy - lowest, copies[minimum.name], options),
            }
            for minimum in species
        ],
        "reactions": reactions,
    }
    with atomic_write(path) as stream:
        yaml.safe_dump(data, stream, sort_keys=False, allow_unicode=True, width=120)
    return path


def _lowest(minima: Sequence[Minimum]) -> Minimum:
    return min(minima, key=lambda minimum: minimum.energy)


def _rate(form: Arrhenius) -> dict[str, float]:
    return {"A": float(form.a), "b": float(form.b), "Ea": float(form.energy / KB)}


def _thermo(minimum: Minimum, above: float, copies: float, options: KineticsOptions) -> dict[str, Any]:
    assert minimum.frequencies is not None
    temperature = float(options.temperatures[0])
    quantum = options.partition_functions == "quantum"
    energy, entropy, heat = modes(minimum.structure, minimum.frequencies).thermal(temperature, quantum)
    per_kmol = GAS_CONSTANT / KB
    return {
        "model": "constant-cp",
        "T0": temperature,
        "h0": float(above + energy) * per_kmol,
        "s0": (entropy + KB * float(np.log(copies))) * per_kmol,
        "cp0": heat * per_kmol,
    }


def _description(network: ReactionNetwork, options: KineticsOptions, left_out: list[str]) -> str:
    told = ["Elementary steps by harmonic transition state theory"]
    told += [f"energies by {network.theory}"] if network.theory else []
    known = ", ".join(f"{t:g}" for t in options.temperatures)
    fitted = f", fitted to k(T) at {known} K" if options.partition_functions == "quantum" else ""
    told += [f"{options.partition_functions} partition functions{fitted}"]
    told += [f"left out (no rate, or between copies of one minimum): {', '.join(left_out)}"] if left_out else []
    return "; ".join(told) + "."


HEADERS = ("surface_name", "site_name", "species_name", "formation_energy", "frequencies", "reference")


def write_catmap(network: ReactionNetwork, steps: Sequence[Step], options: KineticsOptions, folder: Path) -> list[Path]:
    """CatMAP's ``energies.txt`` and a template ``network.mkm`` of the elementary steps.

    Energies are those above the lowest minimum, in eV; frequencies are the real ones, in cm⁻¹. CatMAP computes rates
    from them. Steps that have no rate here, and those between copies of one minimum, are left out.

    Returns
    -------
    list of Path
        Empty, and no files, where no step is left.
    """
    table, model = folder / "energies.txt", folder / "network.mkm"
    used = between_different(steps)
    if not used:
        for path in (table, model):
            path.unlink(missing_ok=True)
        return []
    names = {name for step in used for name in (step.name, step.start, step.end)}
    stationary: list[Minimum | Saddle] = [*network.minima, *network.saddles]
    shown = [one for one in stationary if one.name in names]
    lowest = min(minimum.energy for minimum in network.minima)
    reference = " ".join(network.theory.split()) or "rlpath"
    with atomic_write(table) as stream:
        stream.write("\t".join(HEADERS) + "\n")
        for one in shown:
            assert one.frequencies is not None
            real = [round(float(f), 3) for f in modes(one.structure, one.frequencies).real]
            stream.write(f"surface\tnetwork\t{one.name}\t{one.energy - lowest:.6f}\t{real}\t{reference}\n")
    with atomic_write(model) as stream:
        stream.write(_mkm(network, used, shown, options))
    return [table, model]


def _mkm(network: ReactionNetwork, used: list[Step], shown: list[Minimum | Saddle], options: KineticsOptions) -> str:
    uneven = [step.name for step in used if step.degeneracy[0] != step.degeneracy[1]]
    temperatures = sorted(options.temperatures)
    lines = [
        "# Elementary steps for CatMAP, a template: add adsorption, desorption and the pressures of gases.",
        "# The species are minima of the network; their structures are in stationary.extxyz.",
        "scaler = 'ThermodynamicScaler'",
        "",
        "rxn_expressions = [",
        *(f"    '{step.start}_s <-> {step.name}_s -> {step.end}_s'," for step in used),
        "]",
        "",
        "# k_B T / h times the copies of a step. CatMAP has one factor for both ways of a step.",
        *(
            [f"# The number of copies differs for the way back, and that way's rate with it: {', '.join(uneven)}"]
            * bool(uneven)
        ),
        f"prefactor_list = {[None if step.degeneracy[0] == 1 else f'{step.degeneracy[0]}*kB*T/h' for step in used]}",
        "",
        "surface_names = ['surface']",
        "descriptor_names = ['temperature', 'logPressure']",
        f"descriptor_ranges = [[{temperatures[0]:g}, {temperatures[-1]:g}], [0, 0]]",
        f"resolution = [{len(temperatures)}, 1]",
        "",
        "species_definitions = {}",
        "species_definitions['s'] = {'site_names': ['network'], 'total': 1}",
        *(f"species_definitions['{one.name}_s'] = {{'composition': {composition(one.structure)}}}" for one in shown),
        "atomic_reservoir_list = [{}]  # no gas yet; remove this line when there is one",
        "",
        "input_file = 'energies.txt'",
        "data_file = 'network.pkl'",
        "gas_thermo_mode = 'ideal_gas'",
        "adsorbate_thermo_mode = 'harmonic_adsorbate'",
        "",
        "decimal_precision = 100",
        "tolerance = 1e-50",
        "max_rootfinding_iterations = 100",
        "max_bisections = 3",
    ]
    return "\n".join(lines) + "\n"
