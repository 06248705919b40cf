"""A network for prediction on a CPU: messages and products as compiled loops, radial functions as tables.

In each layer of MACE a small neural network computes the weights of every edge. If its only input is the length of the
edge, the weights are smooth functions of one number and cubic splines can replace the network (as in compressed DeepPot
models, doi:10.1021/acs.jctc.2c00102). Splines, products and the sum over neighbours are one loop, see ``kernels``.
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

from rlpath_core.backends.mace.acceleration import kernels
from rlpath_core.backends.mace.acceleration.convolution import (
    LastBatch,
    can_replace,
    fuse_convolutions,
    product_paths,
    receiver_order,
)
from rlpath_core.backends.mace.acceleration.polynomials import SymmetricPolynomials

KNOTS = 1024
"""Intervals of a table from zero to the cutoff; forces are then exact to a few parts in ten million."""
NEAREST = 1e-3
"""Where tables begin, as a fraction of the cutoff: mace's radial basis divides by the length."""

Arrays = tuple[NDArray[Any], ...]


def compile_for_cpu(net: Any) -> torch.nn.Module:
    """Replace, in place, the layers that compiled loops can compute. First derivatives only, in single precision."""
    rows = EdgeRows()
    if can_tabulate(net):
        _tabulate(net, rows)
    for block in getattr(net, "interactions", ()):
        if can_replace(block):
            block.conv_tp, block.conv_fusion = CompiledConvolution(block.conv_tp, rows), True
    for block in getattr(net, "products", ()):
        if SymmetricPolynomials.can_do(block.symmetric_contractions):
            block.symmetric_contractions = SymmetricPolynomials(block.symmetric_contractions)
    return fuse_convolutions(net)


def can_tabulate(net: Any) -> bool:
    """Whether the weights of all layers of ``net`` depend on the lengths of the edges alone.

    They do not if lengths are transformed by element.
    """
    return (
        type(getattr(net, "interactions", None)) is torch.nn.ModuleList
        and all(
            type(block) in (RealAgnosticInteractionBlock, RealAgnosticResidualInteractionBlock) and can_replace(block)
            for block in net.interactions
        )
        and not hasattr(net.radial_embedding, "distance_transform")
    )


def _tabulate(net: Any, rows: EdgeRows) -> None:
    cutoff = float(net.r_max)
    for block in net.interactions:
        table = radial_table(net.radial_embedding, block.conv_tp_weights, cutoff)
        block.conv_tp = TabulatedConvolution(block.conv_tp, rows, table, cutoff)
        block.conv_tp_weights, block.conv_fusion = torch.nn.Identity(), True
    net.radial_embedding = Lengths()


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
    """Replaces the radial basis: returns the lengths, which are what the tables take."""

    def forward(self, lengths: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return lengths, None


class EdgeRows(LastBatch[tuple[torch.Tensor | None, torch.Tensor]]):
    """The order of the edges by receiver (None if they are sorted already), and the first edge of each atom,
    [n_atoms + 1]."""

    def __init__(self) -> None:
        super().__init__(_rows)


def _rows(receivers: torch.Tensor, n_atoms: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    first = torch.cat((receivers.new_zeros(1), torch.bincount(receivers, minlength=n_atoms).cumsum(0)))
    return receiver_order(receivers), first


class CompiledConvolution(torch.nn.Module):
    """``FusedConvolution`` as a compiled loop."""

    couplings: torch.Tensor

    def __init__(self, product: Any, rows: EdgeRows) -> None:
        super().__init__()
        found, table = product_paths(product)
        self.register_buffer("couplings", table.float(), persistent=False)
        self.inputs, columns = _columns(product.irreps_in1), _columns(product.irreps_out)
        first_in, first_out = (
            np.cumsum([0, *(ir.dim for _, ir in irreps)]) for irreps in (product.irreps_in1, product.irreps_out)
        )
        paths = [(first_in[p.source], first_out[p.output], p.column, p.size_in, p.size_out) for p in found]
        self.constants: Arrays = np.array(paths, np.int64), columns
        self.n_out = columns.size
        self._rows = rows

    def forward(
        self, node_feats: torch.Tensor, edge_attrs: torch.Tensor, tp_weights: torch.Tensor, edge_index: torch.Tensor
    ) -> torch.Tensor:
        """See ``FusedConvolution.forward``."""
        order, first = self._rows.of(edge_index, len(node_feats))
        senders = edge_index[0]
        if order is not None:
            senders, edge_attrs, tp_weights = senders[order], edge_attrs[order], tp_weights[order]
        out: torch.Tensor = _Messages.apply(node_feats, edge_attrs, tp_weights, senders.numpy(), first.numpy(), self)
        return out

    def per_edge(self, tp_weights: torch.Tensor) -> NDArray[np.float32]:
        """What the loops take of each edge beside its direction."""
        return tp_weights.contiguous().numpy()

    def back(self, to_edges: NDArray[np.float32]) -> torch.Tensor:
        """The gradient with respect to ``tp_weights`` from that with respect to ``per_edge``."""
        return torch.from_numpy(to_edges)

    messages, derivatives = staticmethod(kernels.messages), staticmethod(kernels.derivatives)


class TabulatedConvolution(CompiledConvolution):
    """Called with the lengths [n_edges, 1], Å, in place of weights."""

    def __init__(self, product: Any, rows: EdgeRows, table: NDArray[np.float32], cutoff: float) -> None:
        super().__init__(product, rows)
        self.constants = *self.constants, table
        self._nearest, self._per_length = NEAREST * cutoff, KNOTS / (cutoff * (1 - NEAREST))

    def per_edge(self, tp_weights: torch.Tensor) -> NDArray[np.float32]:
        knots: NDArray[np.float32] = ((tp_weights[:, 0] - self._nearest) * self._per_length).numpy()
        return knots

    def back(self, to_edges: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(to_edges)[:, None] * self._per_length

    messages, derivatives = staticmethod(kernels.tabulated_messages), staticmethod(kernels.tabulated_derivatives)


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
        tp_weights: torch.Tensor,
        senders: NDArray[np.int64],
        first: NDArray[np.int64],
        of: CompiledConvolution,
    ) -> torch.Tensor:
        features = np.take(node_feats.numpy(), of.inputs, axis=1)
        couplings = (edge_attrs @ of.couplings).numpy()
        ctx.given, ctx.of = (features, couplings, of.per_edge(tp_weights), senders, first, *of.constants), of
        out = np.empty((len(features), of.n_out), np.float32)
        of.messages(*ctx.given, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kernels.refuse_second_derivatives()
        of, (features, couplings, edges, *_) = ctx.of, ctx.given
        to_features, to_couplings, to_edges = np.zeros_like(features), np.empty_like(couplings), np.empty_like(edges)
        of.derivatives(gradient.contiguous().numpy(), *ctx.given, to_features, to_couplings, to_edges)
        to_nodes = np.empty((len(features), of.inputs.size), np.float32)
        to_nodes[:, of.inputs] = to_features
        to_harmonics = torch.from_numpy(to_couplings) @ of.couplings.T
        return torch.from_numpy(to_nodes), to_harmonics, of.back(to_edges), None, None, None


REPLACEMENTS = (CompiledConvolution, TabulatedConvolution, SymmetricPolynomials)
"""The modules that ``compile_for_cpu`` puts into a network."""
