"""``network.json`` is read back to the last bit; the other files hold the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import networkx as nx
import numpy as np
import pytest

from rlpath_core.errors import InputError
from rlpath_core.kinetics.files import read_network, write_network
from rlpath_core.kinetics.network import ReactionNetwork
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.structure import Structure, read_structures


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, field by field."""
    if isinstance(a, Structure):
        return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


def test_the_network_comes_back_exactly_and_so_do_the_files(network: ReactionNetwork, tmp_path: Path) -> None:
    written = write_network(network, tmp_path / "a", KineticsOptions())
    again = read_network(written[0])
    assert same(again, network)
    assert not same(dataclasses.replace(again, minima=again.minima[::-1]), network)
    for path in write_network(again, tmp_path / "b", KineticsOptions()):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()


def test_extended_xyz_has_names_energies_ends_and_modes(network: ReactionNetwork, tmp_path: Path) -> None:
    write_network(network, tmp_path, KineticsOptions())
    images = ase.io.read(tmp_path / "stationary.extxyz", ":")[len(network.minima) :]
    for image, saddle in zip(images, network.saddles, strict=True):
        assert [image.info[key] for key in ("name", "state", "start", "end")] == [
            saddle.name, saddle.state, saddle.start, saddle.end,
        ]  # fmt: skip
        assert image.get_potential_energy() == saddle.energy
        assert image.arrays["mode"] == pytest.approx(saddle.mode, abs=1e-8)
    expected = [one.structure for one in (*network.minima, *network.saddles)]
    assert read_structures(tmp_path / "stationary.extxyz") == expected


def test_networkx_reads_the_node_link_json(network: ReactionNetwork, tmp_path: Path) -> None:
    path = write_network(network, tmp_path, KineticsOptions(temperatures=[300]))[0]
    graph = nx.node_link_graph(json.loads(path.read_text()), edges="edges")
    assert graph.graph["partition_functions"] == "classical"
    assert 0 <= graph.graph["detailed_balance"] < 1e-9
    assert graph.number_of_edges("B001", "B002") == 1
    edge = graph.edges["B002", "B001", "TS002"]
    assert edge["barrier"] == pytest.approx(-2.1 - (-3 + 1 / 7))
    assert edge["rate_300K_back"] > 0
    assert graph.edges["B001", "B001", "TS004"]["no_rate"] == "no frequencies of TS004"


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["graph"].update(format="other"), "graph.format: .*'other'"),
        (lambda data: data["nodes"][1].pop("energy"), r"nodes\[1\].energy: is missing"),
        (lambda data: data["edges"][0].update(target="B9"), r"edges\[0\].target: .*'B9'"),
        (lambda data: data["edges"][2]["structure"].update(numbers=[1]), r"edges\[2\].structure: positions has shape"),
        (lambda data: data["edges"][1].update(energy="high"), r"edges\[1\]: .*'high'"),
    ],
)
def test_a_damaged_network_is_one_line(network: ReactionNetwork, tmp_path: Path, change: Change, said: str) -> None:
    path = write_network(network, tmp_path, KineticsOptions())[0]
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=rf"network\.json: {said}"):
        read_network(path)


def test_what_is_no_json_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    path.write_text('{"graph": ')
    with pytest.raises(InputError, match="line 1: not JSON"):
        read_network(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_network(tmp_path / "none.json")
