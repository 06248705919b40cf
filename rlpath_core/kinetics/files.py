"""The files of a network: node-link JSON, which is read back exactly, and what other programs read.

``network.json`` holds everything. All others are made from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write
from rlpath_core.geometry.cell import Floats
from rlpath_core.kinetics.balance import balance
from rlpath_core.kinetics.exports import write_cantera, write_catmap, write_graphml
from rlpath_core.kinetics.graph import graph
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.rates import Step, steps
from rlpath_core.kinetics.table import step_table
from rlpath_core.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms

FORMAT = "rlpath-network-1"
JSON = "network.json"
TABLE = "steps.txt"


def write_network(network: ReactionNetwork, folder: str | Path, options: KineticsOptions) -> list[Path]:
    """Write all files of a network; each appears whole or not at all, and the same network gives the same bytes.

    Parameters
    ----------
    network
        Its saddles may be in any state.
    folder
        Made where it is not there.
    options
        Temperatures and partition functions of the rates.

    Returns
    -------
    list of Path
        ``network.json`` first, which `read_network` reads.
    """
    folder = Path(folder)
    found = steps(network, options)
    checked = balance(network, found, options)
    about = {"partition_functions": options.partition_functions, "detailed_balance": checked.worst[1]}
    written = [write_node_link(network, found, folder / JSON, about)]
    images = [*map(_minimum_atoms, network.minima), *_saddles(network)]
    written += _write_images(folder / "stationary.extxyz", images)
    written.append(write_graphml(network, found, folder / "network.graphml"))
    written += write_catmap(network, found, options, folder / "catmap")
    written += filter(None, [write_cantera(network, found, options, folder / "cantera.yaml")])
    with atomic_write(folder / TABLE) as stream:
        stream.write(step_table(found, checked))
    return [*written, folder / TABLE]


def write_node_link(network: ReactionNetwork, steps: Sequence[Step], path: Path, about: dict[str, Any]) -> Path:
    """networkx's node-link JSON, a line for each node and edge: everything that is known, and the rates.

    ``about`` says of the whole how the rates were computed; it is not read back.
    """
    import networkx as nx

    whole = graph(network, steps)
    for minimum in network.minima:
        whole.nodes[minimum.name].update(_plain(minimum))
    for saddle in network.saddles:
        values = {"mode": saddle.mode.tolist(), "evidence": saddle.evidence}
        whole.edges[saddle.start, saddle.end, saddle.name].update(_plain(saddle), **values)
    data = nx.node_link_data(whole, edges="edges")
    place = {saddle.name: k for k, saddle in enumerate(network.saddles)}
    edges = sorted(data["edges"], key=lambda edge: place[edge["key"]])
    head = {key: value for key, value in data.items() if key not in ("nodes", "edges")}
    head["graph"] = {"format": FORMAT, **head["graph"], **about}

    def lines(rows: list[dict[str, Any]]) -> str:
        return "[" + ",".join("\n" + json.dumps(row, allow_nan=False) for row in rows) + "\n]"

    with atomic_write(path) as stream:
        stream.write(json.dumps(head)[:-1])
        stream.write(f',\n"nodes": {lines(data["nodes"])},\n"edges": {lines(edges)}}}\n')
    return path


def _plain(one: Minimum | Saddle) -> dict[str, Any]:
    structure = {name: value.tolist() for name, value in one.structure.arrays().items()}
    return {"frequencies": None if one.frequencies is None else one.frequencies.tolist(), "structure": structure}


def read_network(path: str | Path) -> ReactionNetwork:
    """The network of a ``network.json``, to the last bit as it was written. Rates are computed anew where needed.

    Raises
    ------
    InputError
        The file cannot be read or is no such network; names the entry and the key.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path) from error
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", path, error.lineno) from error
    header = data.get("graph") if isinstance(data, dict) else None
    header = header if isinstance(header, dict) else {}
    found = header.get("format")
    if found != FORMAT:
        raise InputError(f"is not a network of rlpath: expected {FORMAT!r}, found {found!r}", path, "graph.format")
    minima = tuple(_read(Minimum, row, path, f"nodes[{n}]") for n, row in enumerate(data.get("nodes", ())))
    saddles = tuple(_read(Saddle, row, path, f"edges[{n}]") for n, row in enumerate(data.get("edges", ())))
    known = {minimum.name for minimum in minima}
    for n, saddle in enumerate(saddles):
        for key, name in (("source", saddle.start), ("target", saddle.end)):
            if name not in known:
                raise InputError(f"names {name!r}, which is no node", path, f"edges[{n}].{key}")
    return ReactionNetwork(minima, saddles, header.get("theory", ""))


def _read(kind: type[Any], row: Any, path: Path, where: str) -> Any:
    """A minimum of a node, or a saddle of an edge."""
    try:
        values: dict[str, Any] = {
            "structure": Structure(**row["structure"]),
            "energy": float(row["energy"]),
            "frequencies": None if row["frequencies"] is None else np.array(row["frequencies"], float),
        }
        if kind is Minimum:
            return Minimum(name=row["id"], **values)
        for key in ("degeneracy", "degeneracy_back", "state", "evidence"):
            values[key] = row[key]
        mode = np.array(row["mode"], float)
        return Saddle(name=row["key"], start=row["source"], end=row["target"], mode=mode, **values)
    except KeyError as error:
        raise InputError("is missing", path, f"{where}.{error.args[0]}") from error
    except InputError as error:
        raise InputError(error.what, path, f"{where}.structure") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"does not hold what it should: {error}", path, where) from error


def _minimum_atoms(minimum: Minimum) -> Atoms:
    return _atoms(minimum, {"state": "minimum"}, None)


def _saddles(network: ReactionNetwork) -> Iterable[Atoms]:
    for saddle in network.saddles:
        yield _atoms(saddle, {"state": str(saddle.state), "start": saddle.start, "end": saddle.end}, saddle.mode)


def _atoms(one: Minimum | Saddle, info: dict[str, Any], mode: Floats | None) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = one.structure.to_ase()
    atoms.info = {"name": one.name, **info}
    if mode is not None:
        atoms.set_array("mode", mode)
    atoms.calc = SinglePointCalculator(atoms, energy=one.energy)
    return atoms


def _write_images(path: Path, images: Iterable[Atoms]) -> list[Path]:
    """Extended XYZ; no file where there is no structure, which would be none."""
    from ase.io import write

    found = list(images)
    if not found:
        path.unlink(missing_ok=True)
        return []
    with atomic_write(path) as stream:
        write(stream, found, format="extxyz")
    return [path]
