"""Models that take a list as one forward pass, split only to fit memory or a CPU's caches."""

from __future__ import annotations

import logging
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
log = logging.getLogger("rlpath.backends")

EDGE_BUDGET = {"cpu": 200_000, "cuda": 2_000_000}
"""Edges in one forward pass, at first; halved for good each time memory runs out."""
CACHED_EDGES = 4_000
"""On a CPU a batch is split into parts of about this many edges, one core each: their tensors stay in its cache, and no
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


class BatchedModel(Model, Generic[G]):
    """``predict_graphs`` for models whose forward takes a list of graphs and may run on several threads at once."""

    edge_budget: int
    cached_edges: int = CACHED_EDGES
    split_from: int = CACHED_EDGES  # from this many edges on at least two parts, though one would do

    @abstractmethod
    def _cost(self, graph: G) -> int:
        """What a graph takes of the budget, about its number of edges."""

    @abstractmethod
    def _forward(self, graphs: list[G], forces: bool, embeddings: bool) -> list[Prediction]:
        """One forward pass of the network."""

    def predict_graphs(self, graphs: Sequence[G], *, forces: bool = True, embeddings: bool = False) -> list[Prediction]:
        """``predict`` for graphs that are built already (with this model's cutoff and elements)."""
        found: list[Prediction] = []
        while len(found) < len(graphs):
            chunk = self._fits_in_memory(graphs[len(found) :])
            try:
                found += self._chunk(chunk, forces, embeddings)
            except (torch.OutOfMemoryError, MemoryError):
                if len(chunk) == 1:
                    raise
                cost = sum(map(self._cost, chunk))
                self.edge_budget = cost // 2
                log.warning(
                    "out of memory with %d structures (%d edges) at once: %d edges from now on",
                    len(chunk), cost, self.edge_budget,
                )  # fmt: skip
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
        return found

    def _fits_in_memory(self, graphs: Sequence[G]) -> list[G]:
        """The first graphs, as many as the budget holds; at least one."""
        sizes = np.cumsum([self._cost(g) for g in graphs])
        return list(graphs[: max(1, int(np.searchsorted(sizes, self.edge_budget, side="right")))])

    def _chunk(self, graphs: list[G], forces: bool, embeddings: bool) -> list[Prediction]:
        """One forward pass; on a CPU its parts side by side. How it is split depends on the graphs alone."""
        sizes = np.array([self._cost(g) for g in graphs])
        n_parts = int(np.ceil(sizes.sum() / self.cached_edges))
        if sizes.sum() > self.split_from:
            n_parts += n_parts % 2  # an odd number leaves one of two cores idle at the end
        n_parts = min(len(graphs), n_parts)
        if self.device != "cpu" or n_parts == 1:
            return self._forward(graphs, forces, embeddings)
        part_of = np.minimum((np.cumsum(sizes) - sizes / 2) * n_parts // sizes.sum(), n_parts - 1)
        parts = [[graphs[k] for k in np.flatnonzero(part_of == part)] for part in np.unique(part_of)]
        done = _side_by_side(lambda part: self._forward(part, forces, embeddings), parts)
        return [prediction for part in done for prediction in part]
