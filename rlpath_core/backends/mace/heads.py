"""Another head on a network that is trained already: it starts as a copy of one that is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rlpath_core.backends.mace.architecture import Architecture, Readout, ScaleShift
from rlpath_core.errors import InputError

State = dict[str, torch.Tensor]


def with_new_head(
    architecture: Architecture, state: Mapping[str, torch.Tensor], name: str, like: str
) -> tuple[Architecture, State]:
    """The network with one more head ``name``, last, that answers as head ``like`` does; all others as before.

    A head of MACE is its part of the readouts, its free-atom energies, and its scale and shift; messages are shared.
    Raises InputError where ``name`` is taken, or ``like`` is none of the heads.
    """
    if name in architecture.heads:
        raise InputError(f"the model has a head {name!r} already", key="train.new_head")
    source, n = architecture.head_index(like), len(architecture.heads)
    e0s = architecture.e0_table
    changes: dict[str, Any] = {
        "heads": [*architecture.heads, name],
        "e0_values": [*e0s.tolist(), e0s[source].tolist()],
    }
    if architecture.scale_shift is not None:
        found = architecture.scale_shift
        changes["scale_shift"] = ScaleShift(
            scale=_one_more(found.scale, n, source), shift=_one_more(found.shift, n, source)
        )
    out: State = dict(state)
    for key in ("scale_shift.scale", "scale_shift.shift"):
        if key in out:
            values = out[key].reshape(-1).expand(n)
            out[key] = torch.cat((values, values[source : source + 1]))
    key = "atomic_energies_fn.atomic_energies"
    rows = out[key].reshape(-1, len(architecture.z_table)).expand(n, -1)
    out[key] = torch.cat((rows, rows[source : source + 1]))
    for layer, readout in enumerate(architecture.readouts):
        _extend_readout(out, f"readouts.{layer}.", readout, n, source)
    return Architecture.model_validate(architecture.model_dump() | changes), out


def _one_more(value: float | list[float], n: int, source: int) -> list[float]:
    values = value if isinstance(value, list) else [value] * n
    return [*values, values[source]]


def _extend_readout(state: State, prefix: str, readout: Readout, n: int, source: int) -> None:
    """Weights are flat [inputs, outputs]; outputs of a hidden layer are [heads, width], and its other blocks idle.

    e3nn divides by the square root of the number of inputs: where these grow, the weights grow along.
    """

    def extend(name: str, inputs_too: bool, hidden: bool) -> None:
        key = prefix + name + ".weight"
        weight = state[key]
        width = _width(readout) if hidden else 1
        if not inputs_too:
            blocks = weight.reshape(-1, n, width)
            state[key] = torch.cat((blocks, blocks[:, source : source + 1]), dim=1).reshape(-1)
            return
        blocks = weight.reshape(n, _width(readout), n, width)
        grown = blocks.new_zeros(n + 1, _width(readout), n + 1, width)
        grown[:n, :, :n] = blocks
        grown[n, :, n] = blocks[source, :, source]
        state[key] = (grown * ((n + 1) / n) ** 0.5).reshape(-1)

    def extend_bias(name: str, width: int) -> None:
        key = prefix + name + ".bias"
        blocks = state[key].reshape(n, width)
        state[key] = torch.cat((blocks, blocks[source : source + 1])).reshape(-1)

    def ones(name: str, width: int) -> None:
        key = prefix + name + ".output_mask"
        if key in state:
            state[key] = torch.ones((n + 1) * width, dtype=state[key].dtype)

    if readout.type == "LinearReadoutBlock":
        extend("linear", inputs_too=False, hidden=False)
        ones("linear", 1)
        return
    extend("linear_1", inputs_too=False, hidden=True)
    ones("linear_1", _width(readout))
    if readout.type == "NonLinearBiasReadoutBlock":
        extend("linear_mid", inputs_too=True, hidden=True)
        extend_bias("linear_mid", _width(readout))
        ones("linear_mid", _width(readout))
        extend_bias("linear_2", 1)
    extend("linear_2", inputs_too=True, hidden=False)
    ones("linear_2", 1)


def _width(readout: Readout) -> int:
    """Hidden scalars per head, of irreps such as 16x0e."""
    count, _, kind = (readout.mlp_irreps or "16x0e").partition("x")
    if kind != "0e" or not count.isdigit():
        raise InputError(f"a new head needs a readout of scalars, found {readout.mlp_irreps}", key="train.new_head")
    return int(count)
