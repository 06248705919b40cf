"""Structures, predictions and errors as headers and arrays for ``frames``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.backends.frames import Arrays
from rlpath_core.errors import FatalError, InputError, RlpathError, TransientError
from rlpath_core.structure import Structure

PER_ATOM = ("numbers", "positions", "tags", "fixed")
PER_STRUCTURE = ("cell", "pbc")
PREDICTED_PER_ATOM = ("forces", "node_embedding", "force_spread")
KINDS = {kind.__name__: kind for kind in (TransientError, FatalError)}


def pack_structures(structures: Sequence[Structure]) -> Arrays:
    """Atoms of all structures one after the other, ``ends`` where each one's end."""
    arrays = {name: np.concatenate([getattr(s, name) for s in structures]) for name in PER_ATOM}
    arrays |= {name: np.stack([getattr(s, name) for s in structures]) for name in PER_STRUCTURE}
    return arrays | {"ends": np.cumsum([len(s) for s in structures])}


def unpack_structures(arrays: Arrays) -> list[Structure]:
    split = {name: np.split(arrays[name], arrays["ends"][:-1]) for name in PER_ATOM}
    split |= {name: list(arrays[name]) for name in PER_STRUCTURE}
    names = (*PER_ATOM, *PER_STRUCTURE)
    return [Structure(**dict(zip(names, parts, strict=True))) for parts in zip(*map(split.get, names), strict=True)]


def pack_predictions(predictions: Sequence[Prediction]) -> Arrays:
    """What the first one has, all have."""
    arrays: Arrays = {"energy": np.array([p.energy for p in predictions])}
    for name in PREDICTED_PER_ATOM:
        if getattr(predictions[0], name) is not None:
            arrays[name] = np.concatenate([getattr(p, name) for p in predictions])
    if predictions[0].graph_embedding is not None:
        arrays["graph_embedding"] = np.stack([np.asarray(p.graph_embedding) for p in predictions])
    return arrays


def unpack_predictions(arrays: Arrays, ends: np.ndarray) -> list[Prediction]:
    """``ends``: those of the structures that were asked for."""
    columns: dict[str, Any] = {"energy": arrays["energy"].tolist()}
    for name in PREDICTED_PER_ATOM:
        if name in arrays:
            columns[name] = [part.copy() for part in np.split(arrays[name], ends[:-1])]
    if "graph_embedding" in arrays:
        columns["graph_embedding"] = [row.copy() for row in arrays["graph_embedding"]]
    return [Prediction(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def pack_error(error: BaseException) -> dict[str, Any]:
    """Input errors keep their parts; what was not raised on purpose keeps its type's name in the text."""
    if isinstance(error, InputError):
        return {"kind": "InputError", "what": error.what, "where": error.where, "key": error.key}
    if isinstance(error, RlpathError):
        return {"kind": type(error).__name__, "what": str(error)}
    return {"kind": None, "what": f"{type(error).__name__}: {error}"}


def unpack_error(packed: dict[str, Any], log: str) -> RlpathError:
    """The error to raise in place of the other process's; ``log`` is where its traceback lies."""
    if packed["kind"] == "InputError":
        return InputError(packed["what"], packed["where"], packed["key"])
    if packed["kind"] in KINDS:
        return KINDS[packed["kind"]](packed["what"])
    return FatalError(f"{packed['what']} (the model's process says where in {log})")
