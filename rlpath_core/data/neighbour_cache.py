"""Neighbour lists on disk, memory-mapped: built once for a set of structures and a cutoff, then only read.

An edge takes 14 bytes here and 40 in memory (two int32 and three int16 image offsets against int64 and float64), and
the pages that a batch needs are all that is held.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.data.batches import Graph, edges_and_images
from rlpath_core.data.lazy import LazySequence
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write, write_json
from rlpath_core.geometry.neighbours import periodic_vectors
from rlpath_core.structure import Structure

SCHEMA_VERSION = 1
DONE = "graphs.json"


class CachedGraphs(LazySequence[Graph]):
    """Graphs of structures whose edges lie in ``folder``; each is put together when it is asked for.

    n_atoms, n_edges  [n_structures], known without reading any edge
    """

    def __init__(self, folder: Path, structures: Sequence[Structure], elements: NDArray[np.int64]) -> None:
        self._structures, self._elements = structures, elements
        self.n_atoms = np.array([len(s) for s in structures])
        self.n_edges = np.load(folder / "n_edges.npy")
        self._ends = np.cumsum(self.n_edges)
        self._edges = np.load(folder / "edges.npy", mmap_mode="r")
        self._images = np.load(folder / "images.npy", mmap_mode="r")
        if len(self._edges) != self.n_edges.sum() or len(self._images) != len(self._edges):
            raise InputError("is damaged: delete this folder, and it is built again", folder)

        self._folder = folder

    @cached_property
    def closest(self) -> NDArray[np.float64]:
        """[n_structures], Å: the shortest edge of each structure; infinity where there is none. It is kept on disk."""
        path = self._folder / "closest.npy"
        if not path.is_file():  # a cache of rlpath 0.2
            lengths = (_shortest(s, self._pairs(n), self._cells(n)) for n, s in enumerate(self._structures))
            with atomic_write(path, "wb") as stream:
                np.save(stream, np.fromiter(lengths, np.float64, len(self._structures)))
        found: NDArray[np.float64] = np.load(path)
        return found

    def __len__(self) -> int:
        return len(self._structures)

    def entry(self, n: int) -> Graph:
        structure = self._structures[n]
        edges = self._pairs(n)
        shifts = self._cells(n) @ periodic_vectors(structure)
        species = np.searchsorted(self._elements, structure.numbers)
        return Graph(species, structure.positions, structure.cell, edges, shifts)

    def _part(self, n: int) -> slice:
        return slice(self._ends[n] - self.n_edges[n], self._ends[n])

    def _pairs(self, n: int) -> NDArray[np.int64]:
        return np.ascontiguousarray(self._edges[self._part(n)].T).astype(np.int64)

    def _cells(self, n: int) -> NDArray[np.int32]:
        return self._images[self._part(n)].astype(np.int32)


def _shortest(structure: Structure, edges: NDArray[np.int64], images: NDArray[np.integer[Any]]) -> float:
    """Å, of the edges of ``edges_and_images``."""
    sender, receiver = edges
    vectors = structure.positions[receiver] - structure.positions[sender] + images @ periodic_vectors(structure)
    return float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).min(initial=np.inf)))


def _digest(structures: Sequence[Structure], cutoff: float) -> str:
    """Of exact coordinates: content ids round, and a neighbour at the cutoff may not."""
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, cutoff, len(structures)]).encode())
    for structure in structures:
        for array in (structure.positions, structure.cell, structure.pbc):
            digest.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def cached_graphs(
    folder: Path, structures: Sequence[Structure], cutoff: float, elements: NDArray[np.int64]
) -> CachedGraphs:
    """Graphs as ``build_graph`` makes them, from ``folder`` where they are there, else built and kept there.

    Each set of structures and cutoff has a folder of its own, which appears whole or not at all.
    """
    name = f"graphs-{_digest(structures, cutoff)[:24]}"
    target = folder / name
    if not (target / DONE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}."))
        try:
            _build(temporary, structures, cutoff, elements)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
        except OSError:
            if not (target / DONE).is_file():  # another process was first
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return CachedGraphs(target, structures, elements)


def _build(folder: Path, structures: Sequence[Structure], cutoff: float, elements: NDArray[np.int64]) -> None:
    """Written structure by structure: the edges of a large set are never all in memory."""
    counts, shortest = [], []
    with open(folder / "edges.raw", "wb") as edges, open(folder / "images.raw", "wb") as images:
        for structure in structures:
            pairs, cells = edges_and_images(structure, cutoff)
            counts.append(pairs.shape[1])
            shortest.append(_shortest(structure, pairs, cells))
            edges.write(np.ascontiguousarray(pairs.T, dtype=np.int32).tobytes())
            images.write(cells.astype(np.int16).tobytes())
    np.save(folder / "n_edges.npy", np.array(counts, dtype=np.int64))
    np.save(folder / "closest.npy", np.array(shortest))
    total = int(sum(counts))
    for name, dtype, width in (("edges", np.int32, 2), ("images", np.int16, 3)):
        raw = folder / f"{name}.raw"
        source = np.memmap(raw, dtype, "r", shape=(total, width)) if total else np.zeros((0, width), dtype)
        np.save(folder / f"{name}.npy", source)
        raw.unlink()
    write_json(folder / DONE, {"schema_version": SCHEMA_VERSION, "cutoff": cutoff, "n_structures": len(structures)})
