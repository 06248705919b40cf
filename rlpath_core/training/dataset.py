"""A training set in memory: graphs built once, the order of an epoch, micro-batches of an update step."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlpath_core.data.batches import Graph, build_graph, collate
from rlpath_core.data.io import open_labelled
from rlpath_core.data.labelled import BOTH, Labelled, LabelName, check_labels
from rlpath_core.data.neighbour_cache import CachedGraphs, cached_graphs
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.training.options import DataSpec, IndexSpec, MaceTraining

log = logging.getLogger("rlpath.training")

WITHOUT: dict[LabelName, str] = {
    "energy": "train.energy_weight: 0 trains without",
    "forces": "train.force_weight: 0 trains without",
}
"""How to do without a label."""


def _read_indices(path: Path) -> list[int]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"not JSON: {error}", path) from error
    if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise InputError("expected a JSON list of indices", path)
    return value


def choose_indices(n: int, data: DataSpec, sampling: IndexSpec, active: bool) -> list[int]:
    """Which of a split's ``n`` entries are used.

    ``data.indices`` goes before ``data.indices_path`` (both for the active split only), these before the split's own
    ``indices_path``, and that before ``max_samples`` and ``shuffle``. Raises InputError for what is out of range.
    """
    key: str
    if active and data.indices is not None:
        chosen, key = data.indices, "data.indices"
    elif active and data.indices_path is not None:
        chosen, key = _read_indices(data.indices_path), str(data.indices_path)
    elif sampling.indices_path is not None:
        chosen, key = _read_indices(sampling.indices_path), str(sampling.indices_path)
    else:
        order = np.random.default_rng(sampling.seed).permutation(n) if sampling.shuffle else np.arange(n)
        return [int(i) for i in order[: sampling.max_samples]]
    wrong = [i for i in chosen if not 0 <= i < n]
    if wrong:
        raise InputError(f"{wrong[0]} is out of range: there are {n} entries", key=key)
    if not chosen:
        raise InputError("is empty", key=key)
    return chosen


def open_split(path: Path, data: DataSpec) -> Sequence[Labelled]:
    """Everything in a file of ``data``, whose labels have the names that it gives."""
    return open_labelled(path, energy_key=data.energy_key, forces_key=data.forces_key)


def read_split(
    path: Path, data: DataSpec, sampling: IndexSpec, active: bool, needs: Iterable[LabelName] = BOTH
) -> tuple[list[Labelled], list[int]]:
    """The chosen entries of a split and their places in it; InputError, with the first one, where they lack a label
    that is needed."""
    labelled = open_split(path, data)
    chosen = choose_indices(len(labelled), data, sampling, active)
    found = [labelled[i] for i in chosen]
    check_labels(found, needs, path, chosen, WITHOUT)
    for name in set(BOTH) - set(needs):
        if lacking := sum(getattr(one, name) is None for one in found):
            log.info("%s: %d of %d structures lack %s: none is used or measured", path, lacking, len(found), name)
    return found, chosen


def needed_labels(train: MaceTraining) -> tuple[LabelName, ...]:
    """The labels that the loss is made of."""
    return tuple(name for name, weight in zip(BOTH, (train.energy_weight, train.force_weight), strict=True) if weight)


def check_elements(data: Sequence[Labelled] | Sequence[Structure], elements: Sequence[int], where: Path | str) -> None:
    """Raises InputError for an empty set, or naming the first entry with an element that the network lacks."""
    if not data:
        raise InputError("holds no structure", where)
    known = np.array(elements)
    structures: list[Structure] = [one.structure if isinstance(one, Labelled) else one for one in data]
    for n, structure in enumerate(structures):
        unknown = np.setdiff1d(structure.numbers, known)
        if len(unknown):
            from ase.data import chemical_symbols

            names = ", ".join(chemical_symbols[z] for z in unknown)
            raise InputError(f"has {names}, which z_table of model.json does not list", where, f"entry {n}")


@dataclass(frozen=True)
class Origin:
    """Where structures were read: a key of run.yaml, its file, and their places in it."""

    key: str
    path: Path
    entries: Sequence[int]


@dataclass(frozen=True)
class TrainingSet:
    """Graphs and targets. Energies are what is left when those of the free atoms are taken off, in float64.

    energies  [n_structures], eV; None unless all structures have one
    forces    per structure [n_atoms, 3], eV/Å; None unless all structures have them
    heads     [n_structures], index of the head that a structure belongs to; None: all to the one that is trained
    """

    graphs: Sequence[Graph]
    energies: NDArray[np.float64] | None
    forces: list[NDArray[np.float64]] | None
    heads: NDArray[np.int64] | None = None
    origins: Sequence[Origin] = ()
    """Of the structures, one after the other."""

    @classmethod
    def build(
        cls,
        labelled: Sequence[Labelled],
        cutoff: float,
        elements: Sequence[int],
        cache: Path | None = None,
        origins: Sequence[Origin] = (),
    ) -> TrainingSet:
        """Energies are still total here: see ``without_free_atoms``. ``cache`` keeps neighbour lists on disk."""
        numbers = np.array(elements)
        structures = [one.structure for one in labelled]
        graphs: Sequence[Graph]
        if cache is None:
            graphs = [build_graph(structure, cutoff, numbers) for structure in structures]
        else:
            graphs = cached_graphs(cache, structures, cutoff, numbers)
        energies = [one.energy for one in labelled if one.energy is not None]
        forces = [one.forces for one in labelled if one.forces is not None]
        return cls(
            graphs,
            np.array(energies) if len(energies) == len(labelled) else None,
            forces if len(forces) == len(labelled) else None,
            origins=origins,
        )

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """[n_structures], atoms."""
        if isinstance(self.graphs, CachedGraphs):
            return self.graphs.n_atoms
        return np.array([len(g) for g in self.graphs])

    @cached_property
    def n_edges(self) -> NDArray[np.int64]:
        """[n_structures]"""
        if isinstance(self.graphs, CachedGraphs):
            return self.graphs.n_edges
        return np.array([g.n_edges for g in self.graphs])

    def without_free_atoms(self, e0s: NDArray[np.float64]) -> TrainingSet:
        """e0s [n_elements] or, where ``heads`` is known, [n_heads, n_elements]; eV."""
        if self.energies is None:
            return self
        rows = e0s if self.heads is None else e0s[self.heads]
        if rows.ndim == 1:
            free = [rows[g.species].sum() for g in self.graphs]
        else:
            free = [row[g.species].sum() for row, g in zip(rows, self.graphs, strict=True)]
        return replace(self, energies=self.energies - np.array(free))

    def of_heads(self, heads: NDArray[np.int64]) -> TrainingSet:
        """The same set with a head for each structure."""
        return replace(self, heads=heads)

    def __len__(self) -> int:
        return len(self.graphs)

    def origin(self, n: int) -> tuple[Path | str, str]:
        """The file of a structure, and its entry there, for messages."""
        first = 0
        for one in self.origins:
            if n < first + len(one.entries):
                return one.path, f"{one.key}, entry {one.entries[n - first]}"
            first += len(one.entries)
        return "training data", f"entry {n}"

    def named(self, indices: Sequence[int], most: int = 5) -> str:
        """Structures for messages: ``data.val, entry 3 (val.xyz)``, at most ``most`` of them."""
        found = [f"{entry} ({Path(where).name})" for where, entry in map(self.origin, indices[:most])]
        more = f" and {len(indices) - most} more" if len(indices) > most else ""
        return "; ".join(found) + more

    def n_atoms(self, indices: Sequence[int]) -> int:
        return int(self.sizes[list(indices)].sum())

    def batch(
        self, indices: Sequence[int], n_species: int, dtype: torch.dtype, device: str, head: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the network takes, and its targets: the labels that all structures of the set have."""
        graphs = [self.graphs[i] for i in indices]
        target = {"n_atoms": torch.tensor([len(g) for g in graphs], dtype=dtype, device=device)}
        if self.energies is not None:
            target["energy"] = torch.as_tensor(self.energies[list(indices)], dtype=dtype, device=device)
        if self.forces is not None:
            forces = np.concatenate([self.forces[i] for i in indices])
            target["forces"] = torch.as_tensor(forces, dtype=dtype, device=device)
        batch = collate(graphs, n_species, dtype, device, head)
        if self.heads is not None:
            batch["head"] = torch.as_tensor(self.heads[list(indices)], device=device)
        return batch, target


def epoch_order(n_train: int, n_replay: int, ratio: float, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation from (seed, epoch) of all new data and of as many replayed structures as ``ratio`` asks for.

    Replayed structures are numbered from ``n_train`` on. Only the last few are drawn twice where there are too few.
    """
    generator = np.random.default_rng([seed, epoch])
    chosen = [np.arange(n_train)]
    left = round(ratio * n_train) if n_replay else 0
    while left > 0:
        chosen.append(n_train + generator.permutation(n_replay)[:left])
        left -= n_replay
    return generator.permutation(np.concatenate(chosen))


def update_groups(
    order: NDArray[np.int64], batch_size: int, accum_steps: int, drop_last: bool
) -> list[list[list[int]]]:
    """Update steps of an epoch, each a list of micro-batches of indices.

    ``drop_last`` leaves out what does not fill a whole update step, so that all steps weigh the same.
    """
    micro = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
    groups = [micro[i : i + accum_steps] for i in range(0, len(micro), accum_steps)]
    full = batch_size * accum_steps
    if drop_last and groups and sum(len(m) for m in groups[-1]) < full:
        groups.pop()
    return groups


def split_by_edges(indices: Sequence[int], n_edges: NDArray[np.int64], budget: int) -> list[list[int]]:
    """``indices`` in order, in pieces of at most ``budget`` edges; a structure with more is a piece of its own."""
    pieces: list[list[int]] = []
    edges = 0
    for i in indices:
        edges += int(n_edges[i])
        if not pieces or edges > budget:
            pieces.append([])
            edges = int(n_edges[i])
        pieces[-1].append(i)
    return pieces


def prefetched(pieces: Sequence[Any], make: Any, workers: int) -> Iterator[Any]:
    """``make(piece)`` of each in order; with ``workers`` threads the coming ones are made ahead."""
    if workers == 0:
        yield from map(make, pieces)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(make, piece) for piece in pieces[: 2 * workers]]
        for n in range(len(pieces)):
            if n + 2 * workers < len(pieces):
                waiting.append(pool.submit(make, pieces[n + 2 * workers]))
            yield waiting[n].result()
            waiting[n] = None  # type: ignore[call-overload]
