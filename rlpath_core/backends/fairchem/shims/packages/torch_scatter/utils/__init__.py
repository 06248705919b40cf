"""``torch_scatter.utils``."""

from __future__ import annotations

from torch import Tensor


def broadcast(src: Tensor, other: Tensor, dim: int) -> Tensor:
    """``src`` in the shape of ``other``: a vector lies along ``dim``, what is missing behind is repeated."""
    if src.dim() == 1:
        src = src.view(*[1] * (dim % other.dim()), -1)
    return src.view(*src.shape, *[1] * (other.dim() - src.dim())).expand_as(other)
