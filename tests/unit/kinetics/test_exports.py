"""What other programs read: GraphML by networkx, CatMAP's files by its own rules, Cantera's by Cantera."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import yaml

from rlpath_core.kinetics.balance import occupations
from rlpath_core.kinetics.files import write_network
from rlpath_core.kinetics.network import ReactionNetwork
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import steps

OPTIONS = KineticsOptions(temperatures=[300, 450, 700])


def test_graphml_has_the_same_nodes_edges_and_figures(network: ReactionNetwork, tmp_path: Path) -> None:
    write_network(network, tmp_path, OPTIONS)
    graph = nx.read_graphml(tmp_path / "network.graphml", force_multigraph=True)
    assert graph.nodes["B001"]["energy"] == -3
    found = {(a, b, key): values for a, b, key, values in graph.edges(keys=True, data=True)}
    assert set(found) == {(one.start, one.end, one.name) for one in network.saddles}
    first = steps(network, OPTIONS)[0]
    values = found["B001", "B002", "TS001"]
    assert (values["barrier"], values["barrier_back"]) == first.barrier
    assert (values["rate_450K"], values["rate_450K_back"]) == first.rates[1]  # type: ignore[index]
    assert values["state"] == "rate_ready"
    assert found["B001", "B001", "TS004"]["no_rate"] == "no frequencies of TS004"


def test_catmap_s_table_and_model_fit_together(network: ReactionNetwork, tmp_path: Path) -> None:
    """CatMAP runs the .mkm file as Python and splits the table at tabs; species are NAME_SITE."""
    write_network(network, tmp_path, OPTIONS)
    lines = (tmp_path / "catmap/energies.txt").read_text().splitlines()
    head, *rows = [line.split("\t") for line in lines]
    assert {"surface_name", "site_name", "species_name", "formation_energy", "frequencies", "reference"} == set(head)
    table = {row["species_name"]: row for row in (dict(zip(head, row, strict=True)) for row in rows)}
    model: dict[str, object] = {}
    exec((tmp_path / "catmap/network.mkm").read_text(), {}, model)
    expressions = [re.split(r"\s*<?->\s*", text) for text in model["rxn_expressions"]]  # type: ignore[attr-defined]
    assert expressions == [
        ["B001_s", "TS001_s", "B002_s"],
        ["B002_s", "TS002_s", "B001_s"],
        ["B002_s", "TS003_s", "B003_s"],
    ]
    assert model["prefactor_list"] == ["2*kB*T/h", "2*kB*T/h", None]
    for species in {name for expression in expressions for name in expression}:
        row = table[species.removesuffix("_s")]
        assert model["species_definitions"][species] == {"composition": {"H": 1, "O": 1}}  # type: ignore[index]
        assert row["site_name"] in model["species_definitions"]["s"]["site_names"]  # type: ignore[index]
    assert [float(table[name]["formation_energy"]) for name in ("B001", "B003", "TS002")] == [0, 0.285714, 0.9]
    frequencies = network.saddles[1].frequencies
    assert frequencies is not None
    assert yaml.safe_load(table["TS002"]["frequencies"]) == pytest.approx(frequencies[1:], abs=1e-3)


def test_where_no_step_has_a_rate_there_is_no_mechanism(network: ReactionNetwork, tmp_path: Path) -> None:
    write_network(network, tmp_path, OPTIONS)
    assert (tmp_path / "cantera.yaml").exists()
    only = dataclasses.replace(network, saddles=network.saddles[3:])
    written = {path.relative_to(tmp_path).as_posix() for path in write_network(only, tmp_path, OPTIONS)}
    assert written == {"network.json", "stationary.extxyz", "network.graphml", "steps.txt"}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {name.split("/")[-1] for name in written}


@pytest.mark.parametrize("how", ["classical", "quantum"])
def test_cantera_has_our_rates_and_its_equilibrium_is_theirs(
    network: ReactionNetwork, tmp_path: Path, how: str
) -> None:
    """k(T) to 1e-6 and, from the species' thermodynamics alone, the same equilibrium constants."""
    cantera = pytest.importorskip("cantera")
    options = OPTIONS.model_copy(update={"partition_functions": how})
    write_network(network, tmp_path, options)
    surface = cantera.Interface(str(tmp_path / "cantera.yaml"), "network")
    assert surface.species_names == ["B001", "B002", "B003"]
    found = steps(network, options)[:3]
    for k, temperature in enumerate(options.temperatures):
        surface.TP = temperature, 1e5
        rates = [rate for step in found for rate in step.rates[k]]  # type: ignore[index]
        assert surface.forward_rate_constants == pytest.approx(rates, rel=1e-6)
        if how == "classical" or k == 0:
            gibbs = surface.standard_gibbs_RT
            logs = occupations(network, steps(network, options), options, temperature)
            assert gibbs[0] - gibbs == pytest.approx(np.array(list(logs.values())) - logs["B001"], abs=1e-6)
            ratios = surface.forward_rate_constants[::2] / surface.forward_rate_constants[1::2]
            by_cantera = np.exp(gibbs[[0, 1, 1]] - gibbs[[1, 0, 2]])
            assert ratios == pytest.approx(by_cantera, rel=1e-6)
