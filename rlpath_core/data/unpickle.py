"""Reading the pickles inside S2EF LMDBs without running what they name.

A pickle may name any function and have it called. Here only the handful of globals is allowed that a PyTorch
Geometric ``Data`` of tensors, arrays and numbers needs; the PyG classes themselves are replaced by an inert holder,
so that reading neither imports nor runs PyG. Any other name is an InputError and nothing is run.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Mapping
from typing import Any

from rlpath_core.errors import InputError


class _Holder:
    """Takes the place of a PyG class: keeps the pickled state, does nothing."""

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, Mapping):
                self.__dict__.update(part)


def _storage_from_bytes(data: bytes) -> Any:
    """What ``torch.storage._load_from_bytes`` does, by torch's own restricted unpickler."""
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


_HOLDERS = {
    ("torch_geometric.data.data", "Data"),
    ("torch_geometric.data.data", "DataEdgeAttr"),
    ("torch_geometric.data.data", "DataTensorAttr"),
    ("torch_geometric.data.storage", "GlobalStorage"),
    ("torch_geometric.data.storage", "BaseStorage"),
}
_NUMPY = {"ndarray", "dtype", "float64", "float32", "int64", "int32", "bool_"}
_NUMPY_CORE = {"_reconstruct", "scalar"}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HOLDERS:
            return _Holder
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage_from_bytes
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            import torch._utils

            return getattr(torch._utils, name)
        if module == "numpy" and name in _NUMPY:
            import numpy

            return getattr(numpy, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in _NUMPY_CORE:
            from numpy.core import multiarray

            return getattr(multiarray, name)
        if (module, name) in (("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")):
            from numpy.core.numeric import _frombuffer  # how pickle protocol 5 rebuilds a plain array

            return _frombuffer
        raise InputError(f"its pickle names {module}.{name}, which is not part of a PyG Data: refused, nothing was run")


def load_data(data: bytes) -> dict[str, Any]:
    """The fields of a pickled PyG ``Data`` (of PyG 1.x or 2.x) as a plain mapping.

    Raises InputError where the pickle names anything else, or cannot be read.
    """
    try:
        value = _RestrictedUnpickler(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(f"not a readable pickle of a PyG Data ({type(error).__name__}: {error})") from error
    if isinstance(value, _Holder):
        store = value.__dict__.get("_store")
        fields = value.__dict__ if store is None else getattr(store, "__dict__", {}).get("_mapping")
        if isinstance(fields, dict):
            return {key: field for key, field in fields.items() if field is not None and not key.startswith("__")}
    raise InputError(f"expected a PyG Data, found {type(value).__name__}")


def load_int(data: bytes) -> int:
    """A pickled integer, as under the key ``length``; InputError for anything else."""
    try:
        value = _RestrictedUnpickler(io.BytesIO(data)).load()
        return int(value)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"expected a pickled integer ({type(error).__name__}: {error})") from error
