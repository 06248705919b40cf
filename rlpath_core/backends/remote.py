"""A model whose backend is not installed in this Python: a process of the backend's own Python predicts for it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.backends.environments import child_environment
from rlpath_core.errors import FatalError
from rlpath_core.process.child import Child
from rlpath_core.process.wire import Arrays
from rlpath_core.structure import Structure

WORKER = ("-P", "-m", "rlpath_core.backends.model_worker")
PER_ATOM = ("numbers", "positions", "tags", "fixed", "magmoms")
PER_STRUCTURE = ("cell", "pbc")
PREDICTED_PER_ATOM = ("forces", "node_embedding", "force_spread")


class RemoteModel(Model):
    """The bundle ``manifest`` loaded by ``python``, another environment's interpreter.

    Its process ends with this object, or with this process however that ends. A fork starts a process for itself.
    Threads may share a model: their calls wait for each other.

    Raises
    ------
    InputError, TransientError, FatalError
        As ``load_model`` and ``predict`` raise them in the other process.
    TransientError
        If the process dies; it names the log, and the next call starts another process.
    """

    def __init__(
        self,
        manifest: Path,
        *,
        python: Path,
        weights: str | Path | None = None,
        device: str = "cpu",
        head: str | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> None:
        self.reference = str(manifest.absolute())
        self._python = python
        options: dict[str, Any] = {"weights": weights and str(Path(weights).resolve()), "device": device}
        self._options = options | {"head": head, "amp": amp, "dtype": dtype}
        self._lock, self._lock_owner = threading.Lock(), os.getpid()
        self._child, about = self._start()
        self.digest, self.weights_sha256 = about["digest"], about["weights_sha256"]
        self.backend = about["backend"]
        self.elements, self.device = frozenset(about["elements"]), about["device"]
        self.conservative, self.has_embeddings = about["conservative"], about["has_embeddings"]
        self.head = about["head"]
        self.implementation = f"{about['implementation']}, in a process of {python}"

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if not structures:
            return []
        arrays = pack_structures(structures)
        if self._lock_owner != os.getpid():  # after a fork a thread that does not exist here may hold the lock
            self._lock, self._lock_owner = threading.Lock(), os.getpid()
        with self._lock:
            if self._child.ended:
                self._child = self._restart()
            _, predicted = self._child.ask("predict", {"forces": forces, "embeddings": embeddings}, arrays)
        return unpack_predictions(predicted, arrays["ends"])

    def close(self) -> None:
        """End the process now; a further ``predict`` starts another."""
        self._child.end()

    @property
    def pid(self) -> int:
        """Id of the process that predicts."""
        return self._child.pid

    def _restart(self) -> Child:
        child, about = self._start()
        if about["digest"] != self.digest:
            child.end()
            raise FatalError(f"{self.reference} has changed since this model was loaded from it")
        return child

    def _start(self) -> tuple[Child, dict[str, Any]]:
        torch = sys.modules.get("torch")
        threads = None if torch is None else torch.get_num_threads()
        name = f"the process of {self.reference}"
        child = Child([str(self._python), *WORKER], name, env=child_environment())
        bundle = {"manifest": self.reference, "options": self._options, "threads": threads}
        try:
            return child, child.ask("load", bundle)[0]
        except BaseException:
            child.end()
            raise


def pack_structures(structures: Sequence[Structure]) -> Arrays:
    """Atoms of all structures one after the other; ``ends`` is the index after the last atom of each structure."""
    arrays = {name: np.concatenate([getattr(s, name) for s in structures]) for name in PER_ATOM}
    arrays |= {name: np.stack([getattr(s, name) for s in structures]) for name in PER_STRUCTURE}
    return arrays | {"ends": np.cumsum([len(s) for s in structures])}


def unpack_structures(arrays: Arrays) -> list[Structure]:
    """The inverse of `pack_structures`."""
    split = {name: np.split(arrays[name], arrays["ends"][:-1]) for name in PER_ATOM}
    split |= {name: list(arrays[name]) for name in PER_STRUCTURE}
    names = (*PER_ATOM, *PER_STRUCTURE)
    return [Structure(**dict(zip(names, parts, strict=True))) for parts in zip(*map(split.get, names), strict=True)]


def pack_predictions(predictions: Sequence[Prediction]) -> Arrays:
    """All predictions have the properties that the first one has."""
    arrays: Arrays = {"energy": np.array([p.energy for p in predictions])}
    for name in PREDICTED_PER_ATOM:
        if getattr(predictions[0], name) is not None:
            arrays[name] = np.concatenate([getattr(p, name) for p in predictions])
    if predictions[0].graph_embedding is not None:
        arrays["graph_embedding"] = np.stack([np.asarray(p.graph_embedding) for p in predictions])
    return arrays


def unpack_predictions(arrays: Arrays, ends: np.ndarray) -> list[Prediction]:
    """The inverse of `pack_predictions`; ``ends`` as in `pack_structures`."""
    columns: dict[str, Any] = {"energy": arrays["energy"].tolist()}
    for name in PREDICTED_PER_ATOM:
        if name in arrays:
            columns[name] = [part.copy() for part in np.split(arrays[name], ends[:-1])]
    if "graph_embedding" in arrays:
        columns["graph_embedding"] = [row.copy() for row in arrays["graph_embedding"]]
    return [Prediction(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
