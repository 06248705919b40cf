"""MACE's message passing with fewer passes over the edges: the sum over neighbours comes first.

e3nn multiplies every edge's features with its spherical harmonics, path by path, and stores the products of all paths
per edge before they are summed at the receiving atom. The sum over an atom's neighbours can go first: with the edges of
an atom side by side, one batched matrix product per path does the multiplication and the sum together. Same function,
same weights, same names in the state_dict; derivatives of any order by autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from mace.tools.scatter import scatter_sum  # mace comes before e3nn, see build.py

from e3nn import o3  # isort: skip

CROWDED = 2.0
"""Slots per edge above which padding every atom to the largest number of neighbours is slower."""

T = TypeVar("T")
Layout = tuple[torch.Tensor | None, torch.Tensor, int] | None


def fuse_convolutions(net: torch.nn.Module) -> torch.nn.Module:
    """Replace, in place, every convolution of ``net`` that a ``FusedConvolution`` can compute.

    A network that will be pickled or compiled for other programs must not be changed by this.
    """
    layouts = EdgeLayouts()
    for block in getattr(net, "interactions", ()):
        if can_replace(block):
            block.conv_tp, block.conv_fusion = FusedConvolution(block.conv_tp, layouts), True
    return net


def can_replace(block: Any) -> bool:
    """Whether the convolution of ``block`` is e3nn's own, of a kind that ``FusedConvolution`` can compute."""
    return not hasattr(block, "conv_fusion") and FusedConvolution.can_do(getattr(block, "conv_tp", None))


class LastBatch(Generic[T]):
    """``work(receivers, n_atoms)`` for the edges of a batch, cached because all layers of a network need the same."""

    def __init__(self, work: Callable[[torch.Tensor, int], T]) -> None:
        self._work = work
        self._last: tuple[torch.Tensor, int, T] | None = None

    def of(self, edge_index: torch.Tensor, n_atoms: int) -> T:
        last = self._last  # read once: several threads may be in here
        if last is not None and last[0] is edge_index and last[1] == n_atoms:
            return last[2]
        found = self._work(edge_index[1], n_atoms)
        self._last = (edge_index, n_atoms, found)
        return found


class EdgeLayouts(LastBatch[Layout]):
    """The edges of a batch in slots, the same number for each atom.

    The order by receiver (None if sorted already), the slot of each edge in that order [n_edges], and the number of
    slots per atom. None if most slots would be empty.
    """

    def __init__(self) -> None:
        super().__init__(_layout)


def receiver_order(receivers: torch.Tensor) -> torch.Tensor | None:
    """The order of the edges by receiver; None if they are sorted already."""
    if bool((receivers[1:] >= receivers[:-1]).all()):
        return None
    return torch.argsort(receivers, stable=True)


def _layout(receivers: torch.Tensor, n_atoms: int) -> Layout:
    n_edges = len(receivers)
    counts = torch.bincount(receivers, minlength=n_atoms)
    width = int(counts.max()) if n_edges else 0
    if n_edges == 0 or width * n_atoms > CROWDED * n_edges:
        return None
    order = receiver_order(receivers)
    if order is not None:
        receivers = receivers[order]
    first = torch.cumsum(counts, 0) - counts
    ranks = torch.arange(n_edges, device=receivers.device) - first[receivers]
    return order, receivers * width + ranks, width


@dataclass(frozen=True)
class Path:
    """One path of the product: from which input with which block of weights to which output, and by which columns of
    the table of couplings; sizes are numbers of components."""

    source: int
    output: int
    column: int
    size_in: int
    size_out: int


def product_paths(product: o3.TensorProduct) -> tuple[list[Path], torch.Tensor]:
    """A product's paths, and the table of couplings [harmonics, columns] in float64."""
    paths: list[Path] = []
    harmonics, tables, column = product.irreps_in2.slices(), [], 0
    for path in product.instructions:
        (_, ir1), (_, ir2) = product.irreps_in1[path.i_in1], product.irreps_in2[path.i_in2]
        ir3 = product.irreps_out[path.i_out].ir
        coupling = path.path_weight * o3.wigner_3j(ir1.l, ir2.l, ir3.l, dtype=torch.float64)
        table = torch.zeros(product.irreps_in2.dim, ir1.dim * ir3.dim, dtype=torch.float64)
        table[harmonics[path.i_in2]] = coupling.permute(1, 0, 2).flatten(1)
        tables.append(table)
        paths.append(Path(path.i_in1, path.i_out, column, ir1.dim, ir3.dim))
        column += ir1.dim * ir3.dim
    return paths, torch.cat(tables, dim=1)


class FusedConvolution(torch.nn.Module):
    """In place of ``o3.TensorProduct`` and the sum over edges that follows it."""

    _table: torch.Tensor

    def __init__(self, product: o3.TensorProduct, layouts: EdgeLayouts) -> None:
        super().__init__()
        self._product = [product]  # in a list: what it holds keeps its names in the state_dict through the lines below
        for name, buffer in product.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, parameter in product.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, child in product.named_children():
            self.add_module(name, child)
        self.weight_numel = product.weight_numel
        self._layouts = layouts
        self._channels = product.irreps_in1[0].mul
        self._inputs = [
            (place.start, ir.dim)
            for (_, ir), place in zip(product.irreps_in1, product.irreps_in1.slices(), strict=True)
        ]
        self._paths, table = product_paths(product)
        self.register_buffer("_table", table, persistent=False)

    @staticmethod
    def can_do(product: object) -> bool:
        """Is it a channel-wise product, each path with weights and an output of its own, all of as many channels?"""
        return (
            isinstance(product, o3.TensorProduct)
            and not product.shared_weights
            and all(mul == 1 for mul, _ in product.irreps_in2)
            and len({mul for mul, _ in (*product.irreps_in1, *product.irreps_out)}) == 1
            and all(path.connection_mode == "uvu" and path.has_weight for path in product.instructions)
            and sorted(path.i_out for path in product.instructions) == list(range(len(product.irreps_out)))
        )

    def forward(
        self, node_feats: torch.Tensor, edge_attrs: torch.Tensor, tp_weights: torch.Tensor, edge_index: torch.Tensor
    ) -> torch.Tensor:
        """[n_atoms, irreps_out]: messages summed over the edges that end at an atom.

        node_feats [n_atoms, irreps_in1], edge_attrs [n_edges, harmonics], tp_weights [n_edges, weights],
        edge_index [2, n_edges], sender and receiver
        """
        n_atoms = len(node_feats)
        layout = self._layouts.of(edge_index, n_atoms)
        if layout is None:
            edges = self._product[0](node_feats[edge_index[0]], edge_attrs, tp_weights)
            summed: torch.Tensor = scatter_sum(edges, edge_index[1], dim=0, dim_size=n_atoms)
            return summed
        order, slots, width = layout
        n_slots = n_atoms * width

        def in_slots(values: torch.Tensor) -> torch.Tensor:
            """[n_edges, ...] -> [n_slots, ...], zeros in the slots that no edge takes."""
            values = values if order is None else values.index_select(0, order)
            return values.new_zeros(n_slots, *values.shape[1:]).index_copy(0, slots, values)

        senders = in_slots(edge_index[0])
        sizes = [path.size_in * path.size_out for path in self._paths]
        couplings = (in_slots(edge_attrs) @ self._table.to(edge_attrs.dtype)).split(sizes, dim=1)
        weights = in_slots(tp_weights).split(self._channels, dim=1)
        features = [
            node_feats[:, start : start + self._channels * size].view(n_atoms, self._channels, size).transpose(1, 2)
            .contiguous().index_select(0, senders)
            for start, size in self._inputs
        ]  # fmt: skip
        out = [node_feats] * len(self._paths)
        for path, weight, coupling in zip(self._paths, weights, couplings, strict=True):
            weighted = (features[path.source] * weight[:, None]).view(n_atoms, width * path.size_in, self._channels)
            coupling = coupling.reshape(n_atoms, width * path.size_in, path.size_out)
            if path.size_out == 1:  # no matrix product is slower than one with a single column
                out[path.output] = (weighted * coupling).sum(1)
            else:
                out[path.output] = (weighted.transpose(1, 2) @ coupling).reshape(n_atoms, -1)
        return torch.cat(out, dim=1)
