"""Models that take a list as one forward pass, cut only where memory or a CPU's caches ask for it."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Generic, TypeVar

import numpy as np
import torch

from rlpath_core.backends.base import Model, Prediction

G = TypeVar("G")

EDGE_BUDGET = {"cpu": 200_000, "cuda": 2_000_000}
"""Edges in one forward to start with; halved for good each time memory runs out."""
CACHED_EDGES = 4_000
"""On a CPU a batch is cut into parts of about so many edges, one core each: their tensors stay in its cache, and no
core waits for another in the middle of an operation."""


@cache
def _workers(process: int, threads: int) -> ThreadPoolExecutor:
    """A fork has none of its parent's threads: each process has its own."""
    return ThreadPoolExecutor(threads, "forward", torch.set_num_threads, (1,))


def _side_by_side(call: Callable[[list[G]], list[Prediction]], parts: list[list[G]]) -> list[list[Prediction]]:
    """``call`` for every part, on as many threads as torch may use, each with its operations on one thread."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [call(part) for part in parts]
    torch.set_num_threads(1)  # MKL's number of threads is the process's, not the thread's
    try:
        return list(_workers(os.getpid(), threads).map(call, parts))
    finally:
        torch.set_num_threads(threads)


class ChunkedModel(Model, Generic[G]):
    """``predict_graphs`` for models whose forward takes a list of graphs and may run on several threads at once."""

    edge_budget: int
    cached_edges: int = CACHED_EDGES
    split_from: int = CACHED_EDGES  # edges that are worth two parts, even where one would hold them

    @abstractmethod
    def _cost(self, graph: G) -> int:
        """What a graph takes of the budget: about its edges."""

    @abstractmethod
    def _forward(self, graphs: list[G], forces: bool, embeddings: bool) -> list[Prediction]:
        """One forward pass of the network."""

    def predict_graphs(self, graphs: Sequence[G], *, forces: bool = True, embeddings: bool = False) -> list[Prediction]:
        """``predict`` for graphs that are built already (with this model's cutoff and elements)."""
        found: list[Prediction] = []
        while len(found) < len(graphs):
            chunk = self._affordable(graphs[len(found) :])
            try:
                found += self._chunk(chunk, forces, embeddings)
            except (torch.OutOfMemoryError, MemoryError):
                if len(chunk) == 1:
                    raise
                self.edge_budget = sum(map(self._cost, chunk)) // 2
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
        return found

    def _affordable(self, graphs: Sequence[G]) -> list[G]:
        """As many of the first ones as memory is for; never none."""
        sizes = np.cumsum([self._cost(g) for g in graphs])
        return list(graphs[: max(1, int(np.searchsorted(sizes, self.edge_budget, side="right")))])

    def _chunk(self, graphs: list[G], forces: bool, embeddings: bool) -> list[Prediction]:
        """One forward; on a CPU its parts side by side. Where it is cut depends on the graphs alone."""
        sizes = np.array([self._cost(g) for g in graphs])
        n_parts = int(np.ceil(sizes.sum() / self.cached_edges))
        if sizes.sum() > self.split_from:
            n_parts += n_parts % 2  # cores come in pairs
        n_parts = min(len(graphs), n_parts)
        if self.device != "cpu" or n_parts == 1:
            return self._forward(graphs, forces, embeddings)
        part_of = np.minimum((np.cumsum(sizes) - sizes / 2) * n_parts // sizes.sum(), n_parts - 1)
        parts = [[graphs[k] for k in np.flatnonzero(part_of == part)] for part in np.unique(part_of)]
        done = _side_by_side(lambda part: self._forward(part, forces, embeddings), parts)
        return [prediction for part in done for prediction in part]
