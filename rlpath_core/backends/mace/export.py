"""A ``.model`` that ``mace.calculators.MACECalculator`` loads, to go on in ASE or LAMMPS."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from rlpath_core.backends.mace.architecture import Architecture
from rlpath_core.backends.mace.build import DTYPES, restore
from rlpath_core.files import atomic_write


def write_model_file(
    path: str | Path, architecture: Architecture, state: Mapping[str, torch.Tensor], dtype: str = "float64"
) -> None:
    """Write the network as mace itself does, as a pickled module; nothing here reads such a file back."""
    net = restore(architecture, state, DTYPES[dtype]).eval()
    buffer = io.BytesIO()
    torch.save(net, buffer)
    with atomic_write(path, "wb") as stream:
        stream.write(buffer.getvalue())
