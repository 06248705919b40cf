"""A network's radial functions as tables, for prediction on a CPU: an edge costs a row of a table, and not a network.

MACE asks a small neural network per layer for the weights of every edge, and all that it is told is the edge's length:
weights are functions of one number, and smooth ones, so that cubic splines take their place (as in compressed
DeepPot models, doi:10.1021/acs.jctc.2c00102). Splines and messages are one compiled loop, see ``kernels``.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from mace.modules import RealAgnosticInteractionBlock, RealAgnosticResidualInteractionBlock
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from e3nn import o3  # isort: skip - mace comes before e3nn, see build.py

from rlpath_core.backends.mace import kernels
from rlpath_core.backends.mace.convolution import EdgeLayouts, FusedConvolution
from rlpath_core.backends.mace.polynomials import SymmetricPolynomials

KNOTS = 1024
"""Intervals of a table between no distance and the cut-off: forces to a few parts in ten million."""
NEAREST = 1e-3
"""Where tables begin, as a share of the cut-off; mace's radial basis divides by the length."""


def can_tabulate(net: Any) -> bool:
    """Do all layers of ``net`` get from the lengths of the edges their weights, and nothing else?

    In single precision: double is asked for when every digit counts. Not so where lengths are transformed element by
    element.
    """
    return (
        next(net.parameters()).dtype == torch.float32
        and type(getattr(net, "interactions", None)) is torch.nn.ModuleList
        and all(
            type(block) in (RealAgnosticInteractionBlock, RealAgnosticResidualInteractionBlock)
            and not hasattr(block, "conv_fusion")
            and FusedConvolution.can_do(block.conv_tp)
            for block in net.interactions
        )
        and not hasattr(net.radial_embedding, "distance_transform")
    )


def tabulate(net: Any) -> torch.nn.Module:
    """Put tables in the place of ``net``'s radial networks, in place. Forces can be had, second derivatives not."""

    embedding: Any = net.radial_embedding
    cutoff = float(net.r_max)
    rows = EdgeRows()
    for block in net.interactions:
        table = radial_table(embedding, block.conv_tp_weights, cutoff)
        block.conv_tp = TabulatedConvolution(block.conv_tp, table, cutoff, rows)
        block.conv_tp_weights, block.conv_fusion = torch.nn.Identity(), True
    net.radial_embedding = Lengths()
    for block in net.products:
        if SymmetricPolynomials.can_do(block.symmetric_contractions):
            block.symmetric_contractions = SymmetricPolynomials(block.symmetric_contractions)
    return net


@torch.no_grad()
def radial_table(embedding: torch.nn.Module, network: torch.nn.Module, cutoff: float) -> NDArray[np.float32]:
    """[KNOTS, 4, n_weights]: of each interval of lengths the polynomial's coefficients, in units of the interval."""
    embedding, network = copy.deepcopy(embedding).double(), copy.deepcopy(network).double()
    lengths = torch.linspace(NEAREST * cutoff, cutoff, KNOTS + 1, dtype=torch.float64)
    none = torch.empty(0)
    features, envelope = embedding(lengths[:, None], none, none, none)
    values = network(features) if envelope is None else network(features) * envelope
    spline = CubicSpline(np.arange(KNOTS + 1), values.numpy())
    return np.ascontiguousarray(spline.c[::-1].transpose(1, 0, 2), np.float32)


class Lengths(torch.nn.Module):
    """In place of a radial basis: the lengths themselves, for whoever has tables of them."""

    def forward(self, lengths: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return lengths, None


class EdgeRows:
    """Where each atom's edges lie. Remembers the last batch: all layers of a network ask for the same."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, int, torch.Tensor | None, torch.Tensor] | None = None

    def of(self, edge_index: torch.Tensor, n_atoms: int) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Order of the edges by receiver (None: so they stand), and [n_atoms + 1] where each atom's begin."""
        last = self._last  # read once: several threads may be in here
        if last is not None and last[0] is edge_index and last[1] == n_atoms:
            return last[2], last[3]
        receivers, order = edge_index[1], None
        if not bool((receivers[1:] >= receivers[:-1]).all()):
            order = torch.argsort(receivers, stable=True)
        first = torch.cat((receivers.new_zeros(1), torch.bincount(receivers, minlength=n_atoms).cumsum(0)))
        self._last = (edge_index, n_atoms, order, first)
        return order, first


Arrays = tuple[NDArray[Any], ...]


class TabulatedConvolution(torch.nn.Module):
    """Radial functions, products and the sum over neighbours; called with the lengths in place of weights."""

    couplings: torch.Tensor

    def __init__(self, product: Any, table: NDArray[np.float32], cutoff: float, rows: EdgeRows) -> None:
        super().__init__()
        fused = FusedConvolution(product, EdgeLayouts())
        self.register_buffer("couplings", fused.table.float(), persistent=False)
        self.nearest, self.per_length = NEAREST * cutoff, KNOTS / (cutoff * (1 - NEAREST))
        self.inputs, self.outputs = _columns(product.irreps_in1), _columns(product.irreps_out)
        first_in, first_out = (
            np.cumsum([0, *(ir.dim for _, ir in irreps)]) for irreps in (product.irreps_in1, product.irreps_out)
        )
        paths = [(first_in[p.source], first_out[p.output], p.column, p.size_in, p.size_out) for p in fused.paths]
        self.constants = table, np.array(paths, np.int64), self.outputs
        self._rows = rows

    def forward(
        self, node_feats: torch.Tensor, edge_attrs: torch.Tensor, lengths: torch.Tensor, edge_index: torch.Tensor
    ) -> torch.Tensor:
        """See ``FusedConvolution.forward``; lengths [n_edges, 1], Å."""
        order, first = self._rows.of(edge_index, len(node_feats))
        senders = edge_index[0]
        if order is not None:
            senders, edge_attrs, lengths = senders[order], edge_attrs[order], lengths[order]
        out: torch.Tensor = _Messages.apply(node_feats, edge_attrs, lengths, senders.numpy(), first.numpy(), self)
        return out


def _columns(irreps: o3.Irreps) -> NDArray[np.int64]:
    """[components, channels]: where e3nn keeps each component of each channel."""
    return np.concatenate([
        place.start + np.arange(mul * ir.dim).reshape(mul, ir.dim).T
        for (mul, ir), place in zip(irreps, irreps.slices(), strict=True)
    ])  # fmt: skip


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        node_feats: torch.Tensor,
        edge_attrs: torch.Tensor,
        lengths: torch.Tensor,
        senders: NDArray[np.int64],
        first: NDArray[np.int64],
        tables: TabulatedConvolution,
    ) -> torch.Tensor:
        features = np.take(node_feats.numpy(), tables.inputs, axis=1)
        couplings = (edge_attrs @ tables.couplings).numpy()
        knots = ((lengths[:, 0] - tables.nearest) * tables.per_length).numpy()
        given: Arrays = (features, couplings, knots, senders, first, *tables.constants)
        ctx.given, ctx.tables = given, tables
        out = np.empty((len(features), tables.outputs.size), np.float32)
        kernels.messages(*given, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kernels.refuse_second_derivatives()
        tables, (features, couplings, knots, *_) = ctx.tables, ctx.given
        to_features, to_couplings, to_knots = np.zeros_like(features), np.empty_like(couplings), np.empty_like(knots)
        kernels.derivatives(gradient.contiguous().numpy(), *ctx.given, to_features, to_couplings, to_knots)
        to_nodes = np.empty((len(features), tables.inputs.size), np.float32)
        to_nodes[:, tables.inputs] = to_features
        to_lengths = torch.from_numpy(to_knots)[:, None] * tables.per_length
        return (
            torch.from_numpy(to_nodes),
            torch.from_numpy(to_couplings) @ tables.couplings.T,
            to_lengths,
            None,
            None,
            None,
        )
