"""What stands both in model.json and in the weights must be one value: elements, cutoff, heads, energies of atoms.

``avg_num_neighbors``, ``pair_repulsion`` and the names of the heads stand in model.json alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlpath_core.backends.mace.architecture import Architecture, ScaleShift
from rlpath_core.errors import InputError

EXACT = ("atomic_energies_fn.atomic_energies", "scale_shift.scale", "scale_shift.shift")
"""Buffers kept in float64 on disk: total energies need their digits."""
SINGLE = 1e-6
"""Relative difference of one number stored in float64 and in float32."""
FIXED = {
    "z_table": "atomic_numbers",
    "cutoff": "r_max",
    "num_interactions": "num_interactions",
    "num_polynomial_cutoff": "radial_embedding.cutoff_fn.p",
}
"""Keys of model.json and names in a state_dict of what decides which network it is."""

log = logging.getLogger("rlpath.backends")

State = Mapping[str, torch.Tensor]


def with_exact_values(architecture: Architecture, state: State) -> dict[str, torch.Tensor]:
    """``state`` with the energies of atoms, scale and shift that ``architecture`` says, in float64."""
    found = architecture.scale_shift
    stated: dict[str, Any] = {EXACT[0]: architecture.e0_table}
    if found is not None:
        stated |= {EXACT[1]: found.scale, EXACT[2]: found.shift}
    exact = {name: torch.tensor(np.asarray(value, dtype=float)) for name, value in stated.items() if name in state}
    return {**state, **exact}


def agreed(
    architecture: Architecture, state: State, where: str | Path, *, weights_win: bool
) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """Architecture and weights that say the same of everything that both hold.

    Parameters
    ----------
    architecture, state
        As they were read.
    where
        The weights' file, for errors.
    weights_win
        True for weights from elsewhere, whose energies of atoms, scale and shift are taken. False for a bundle's own,
        which must have those of its model.json.

    Raises
    ------
    InputError
        The weights are of a network with other elements, another cutoff or another number of heads, or a bundle's own
        disagree with its model.json.
    """
    for key, name in FIXED.items():
        stated = getattr(architecture, key)
        if name in state and not _same(np.array(stated, dtype=float), state[name].double().numpy()):
            raise InputError(
                f"is of a network with {key} {state[name].tolist()}, and model.json says {stated}: give the manifest "
                "that these weights belong to",
                where,
                name,
            )
    n_heads, n_elements = len(architecture.heads), len(architecture.z_table)
    per_head = state[EXACT[0]].numel() / n_elements if EXACT[0] in state else n_heads
    if per_head not in (1, n_heads):
        raise InputError(
            f"has {per_head:g} heads, and model.json names {', '.join(architecture.heads)}: give the manifest that "
            "these weights belong to",
            where,
            EXACT[0],
        )
    ours = with_exact_values(architecture, state)
    differing = [
        name
        for name in EXACT
        if name in state and not _same(_rows(ours[name], n_heads), _rows(state[name].double(), n_heads))
    ]
    if differing and not weights_win:
        raise InputError(
            f"{', '.join(differing)} differ from model.json's, so one of the two files belongs to another model: task "
            "export with model.weights and this file makes a bundle with the values in here",
            where,
        )
    if differing:
        log.info("%s: its %s are used: model.json has other values", where, ", ".join(differing))
        architecture = _with_values_of(architecture, state)
        ours = with_exact_values(architecture, state)
    return architecture, ours


def _rows(values: torch.Tensor, n_heads: int) -> NDArray[np.float64]:
    """[n_heads, ...]; one value for all heads is repeated."""
    rows = values.reshape(-1, 1) if values.ndim < 2 else values
    if values.ndim == 1 and len(rows) not in (1, n_heads):
        rows = values.reshape(1, -1)
    return rows.expand(n_heads, -1).numpy()


def _same(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> bool:
    return ours.shape == theirs.shape and bool(np.allclose(ours, theirs, rtol=SINGLE, atol=1e-9))


def _with_values_of(architecture: Architecture, state: State) -> Architecture:
    changes: dict[str, Any] = {}
    if EXACT[0] in state:
        n_heads = len(architecture.heads)
        table = _rows(state[EXACT[0]].double().reshape(-1, len(architecture.z_table)), n_heads).tolist()
        changes["e0_values"] = table if n_heads > 1 else table[0]
    if architecture.scale_shift is not None and EXACT[1] in state and EXACT[2] in state:
        scale, shift = (state[name].double().reshape(-1).tolist() for name in EXACT[1:])
        changes["scale_shift"] = ScaleShift(
            scale=scale if len(scale) > 1 else scale[0], shift=shift if len(shift) > 1 else shift[0]
        )
    return architecture.model_copy(update=changes)


def dtype_of(state: State) -> str:
    """float64 or float32: the type of the weights, whatever that of the buffers in `EXACT` is."""
    double = any(tensor.dtype == torch.float64 for name, tensor in state.items() if name not in EXACT)
    return "float64" if double else "float32"
