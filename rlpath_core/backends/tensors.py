"""Files of tensors: read with ``weights_only`` always, written atomically."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def load_tensors(path: str | Path, allowed: Sequence[Any] = ()) -> Any:
    """``torch.load`` of tensors and plain containers on the CPU; InputError for damage and for pickled code.

    allowed  further classes and functions that may be named in the file, each known to run nothing
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"names {code[1]}" if code else next(iter(str(error).splitlines()), "")[:200]
        raise InputError(
            f"not a file of tensors, damaged, or it holds pickled code, which is never run ({what})", path
        ) from error


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """A state_dict; InputError for anything else."""
    state = load_tensors(path)
    if not isinstance(state, Mapping) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise InputError("expected a state_dict: names to tensors", path)
    return dict(state)


def save_tensors(path: str | Path, value: Any) -> None:
    """``torch.save``, atomically; equal tensors give equal bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with atomic_write(path, "wb") as stream:
        stream.write(buffer.getvalue())
