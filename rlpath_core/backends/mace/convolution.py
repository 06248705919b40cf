"""MACE's message passing in fewer passes over the edges: summed over the neighbours before anything is expanded.

e3nn multiplies every edge's features with its spherical harmonics, path by path, and stores the products of all paths
per edge before they are summed at the receiving atom. The sum over an atom's neighbours can go first: with the edges of
an atom side by side, one batched matrix product per path does the multiplication and the sum together. Same function,
same weights, same names in the state_dict; derivatives of any order by autograd.
"""

from __future__ import annotations

import torch
from mace.tools.scatter import scatter_sum  # mace comes before e3nn, see build.py

from e3nn import o3  # isort: skip

CROWDED = 2.0
"""Slots per edge beyond which filling up every atom to the largest number of neighbours no longer pays."""

Layout = tuple[torch.Tensor, torch.Tensor, int] | None


def fuse_convolutions(net: torch.nn.Module) -> torch.nn.Module:
    """Replace, in place, every convolution of ``net`` that a ``FusedConvolution`` can do; the others stay.

    A network that is to be pickled or compiled for other programs must not have been through this.
    """
    layouts = EdgeLayouts()
    for block in getattr(net, "interactions", ()):
        if not hasattr(block, "conv_fusion") and FusedConvolution.can_do(getattr(block, "conv_tp", None)):
            block.conv_tp, block.conv_fusion = FusedConvolution(block.conv_tp, layouts), True
    return net


class EdgeLayouts:
    """Where the edges of a batch lie when each atom's stand in a row of slots of the same length.

    Remembers the last batch: all layers of a network ask for the same.
    """

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, int, Layout] | None = None

    def of(self, receivers: torch.Tensor, n_atoms: int) -> Layout:
        """Order [n_edges] of the edges by receiver, their slots [n_edges] in it, slots per atom.

        None where rows would be mostly empty.
        """
        last = self._last  # read once: several threads may be in here
        if last is not None and last[0] is receivers and last[1] == n_atoms:
            return last[2]
        layout = _layout(receivers, n_atoms)
        self._last = (receivers, n_atoms, layout)
        return layout


def _layout(receivers: torch.Tensor, n_atoms: int) -> Layout:
    n_edges = len(receivers)
    counts = torch.bincount(receivers, minlength=n_atoms)
    width = int(counts.max()) if n_edges else 0
    if n_edges == 0 or width * n_atoms > CROWDED * n_edges:
        return None
    order = torch.argsort(receivers, stable=True)
    first = torch.cumsum(counts, 0) - counts
    sorted_receivers = receivers[order]
    ranks = torch.arange(n_edges, device=receivers.device) - first[sorted_receivers]
    return order, sorted_receivers * width + ranks, width


class FusedConvolution(torch.nn.Module):
    """In place of ``o3.TensorProduct`` and the sum over edges that follows it."""

    def __init__(self, product: o3.TensorProduct, layouts: EdgeLayouts) -> None:
        super().__init__()
        self.product = [product]  # in a list: its buffers keep their names below, and only those
        for name, buffer in product.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, parameter in product.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.weight_numel = product.weight_numel
        self._layouts = layouts
        starts = [s.start for s in product.irreps_in1.slices()]
        self._inputs = [(start, mul, ir.dim) for start, (mul, ir) in zip(starts, product.irreps_in1, strict=True)]
        tables, paths, column, weight = [], [], 0, 0
        harmonics = product.irreps_in2.slices()
        for path in product.instructions:
            (mul, ir1), (_, ir2), (_, ir3) = (
                product.irreps_in1[path.i_in1],
                product.irreps_in2[path.i_in2],
                product.irreps_out[path.i_out],
            )
            coupling = path.path_weight * o3.wigner_3j(ir1.l, ir2.l, ir3.l, dtype=torch.float64)
            table = torch.zeros(product.irreps_in2.dim, ir1.dim * ir3.dim, dtype=torch.float64)
            table[harmonics[path.i_in2]] = coupling.permute(1, 0, 2).reshape(ir2.dim, -1)
            tables.append(table)
            paths.append((path.i_in1, path.i_out, weight, mul, column, ir1.dim, ir3.dim))
            column += ir1.dim * ir3.dim
            weight += mul
        self._paths = sorted(paths, key=lambda found: found[1])
        kind = torch.get_default_dtype()
        self.register_buffer("_couplings", torch.cat(tables, dim=1).to(kind), persistent=False)

    @staticmethod
    def can_do(product: object) -> bool:
        """Is it a channel-wise product with one multiplicity-free harmonic and one output slot per path?"""
        return (
            isinstance(product, o3.TensorProduct)
            and not product.shared_weights
            and all(mul == 1 for mul, _ in product.irreps_in2)
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
        layout = self._layouts.of(edge_index[1], n_atoms)
        if layout is None:
            edges = self.product[0](node_feats[edge_index[0]], edge_attrs, tp_weights)
            summed: torch.Tensor = scatter_sum(edges, edge_index[1], dim=0, dim_size=n_atoms)
            return summed
        order, slots, width = layout
        n_slots = n_atoms * width

        def in_slots(values: torch.Tensor) -> torch.Tensor:
            """[n_edges, k] -> [n_slots, k], zeros in the slots that no edge takes."""
            return values.new_zeros(n_slots, values.shape[1]).index_copy(0, slots, values.index_select(0, order))

        couplings = in_slots(edge_attrs) @ self._couplings.to(edge_attrs.dtype)
        weights = in_slots(tp_weights)
        senders = torch.zeros_like(edge_index[0][:1]).expand(n_slots).clone()
        senders[slots] = edge_index[0][order]
        features = [
            node_feats[:, start : start + mul * dim].reshape(n_atoms, mul, dim).transpose(1, 2).reshape(n_atoms, -1)
            .index_select(0, senders).view(n_slots, dim, mul)
            for start, mul, dim in self._inputs
        ]  # fmt: skip
        out = []
        for i_in, _, weight, mul, column, dim_in, dim_out in self._paths:
            weighted = features[i_in] * weights[:, None, weight : weight + mul]
            coupling = couplings[:, column : column + dim_in * dim_out].reshape(n_atoms, width * dim_in, dim_out)
            found = coupling.transpose(1, 2) @ weighted.view(n_atoms, width * dim_in, mul)
            out.append(found.transpose(1, 2).reshape(n_atoms, mul * dim_out))
        return torch.cat(out, dim=1)
