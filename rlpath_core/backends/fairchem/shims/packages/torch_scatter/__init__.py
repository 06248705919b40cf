"""torch_scatter in plain torch: sums, means, extremes of what goes to the same index; differentiable twice.

Written from the documented behaviour (https://pytorch-scatter.readthedocs.io): what nothing goes to is 0, of equal
extremes the first has the gradient, means of integers are rounded down.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .utils import broadcast

__all__ = ["gather_csr", "scatter", "scatter_max", "scatter_min", "segment_coo", "segment_csr"]
__version__ = "0.stand-in"

NO_OUT = "the stand-in of torch_scatter has no `out`: install the compiled torch_scatter"


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    """Values of ``src`` that have the same ``index`` along ``dim`` put together: sum (add), mean, min or max."""
    if out is not None:
        raise NotImplementedError(NO_OUT)
    if reduce in ("min", "max"):
        return _extreme(src, index, dim, dim_size, reduce)[0]
    if reduce not in ("sum", "add", "mean"):
        raise ValueError(f"reduce: choose sum, add, mean, min or max, got {reduce!r}")
    dim = dim % src.dim()
    index = broadcast(index, src, dim)
    total = src.new_zeros(_shape(src, index, dim, dim_size)).scatter_add(dim, index, src)
    if reduce != "mean":
        return total
    count = torch.zeros_like(total).scatter_add_(dim, index, torch.ones_like(src)).clamp_(min=1)
    return total / count if total.is_floating_point() else torch.div(total, count, rounding_mode="floor")


def scatter_max(
    src: Tensor, index: Tensor, dim: int = -1, out: None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The largest of each index, and where it stands along ``dim`` (the length of ``dim`` where there is none)."""
    if out is not None:
        raise NotImplementedError(NO_OUT)
    return _extreme(src, index, dim, dim_size, "max")


def scatter_min(
    src: Tensor, index: Tensor, dim: int = -1, out: None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The smallest of each index, and where it stands along ``dim`` (the length of ``dim`` where there is none)."""
    if out is not None:
        raise NotImplementedError(NO_OUT)
    return _extreme(src, index, dim, dim_size, "min")


def segment_coo(
    src: Tensor, index: Tensor, out: None = None, dim_size: int | None = None, reduce: str = "sum"
) -> Tensor:
    """``scatter`` along the last dimension of a sorted ``index``, whose leading dimensions broadcast to ``src``'s."""
    dim = index.dim() - 1
    index = index.expand(*src.shape[:dim], -1)
    index = index.reshape(*index.shape, *[1] * (src.dim() - dim - 1)).expand_as(src)
    return scatter(src, index, dim, out, dim_size, reduce)


def segment_csr(src: Tensor, indptr: Tensor, out: None = None, reduce: str = "sum") -> Tensor:
    """What lies between ``indptr[k]`` and ``indptr[k + 1]`` along the last dimension of ``indptr``, put together."""
    dim, segments = indptr.dim() - 1, indptr.shape[-1] - 1
    index = _segment_of(indptr, src.shape, dim)
    # Segment 0 is what lies before the first of indptr, the last one what lies behind its last.
    return segment_coo(src, index, out, segments + 2, reduce).narrow(dim, 1, segments)


def gather_csr(src: Tensor, indptr: Tensor, out: None = None) -> Tensor:
    """``src[k]`` for every place between ``indptr[k]`` and ``indptr[k + 1]``; the reverse of ``segment_csr``."""
    if out is not None:
        raise NotImplementedError(NO_OUT)
    if indptr.dim() != 1:
        raise NotImplementedError("the stand-in of torch_scatter gathers by a one-dimensional indptr alone")
    return src.repeat_interleave(indptr.diff(), dim=0)


def _segment_of(indptr: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """[..., n]: in which segment each place along ``dim`` lies, from 1; 0 before and n_segments + 1 behind them all."""
    indptr = indptr.expand(*shape[:dim], -1).contiguous()
    places = torch.arange(shape[dim], device=indptr.device, dtype=indptr.dtype)
    return torch.searchsorted(indptr, places.expand(*shape[:dim], -1).contiguous(), right=True)


def _shape(src: Tensor, index: Tensor, dim: int, dim_size: int | None) -> list[int]:
    shape = list(src.shape)
    if dim_size is None:
        dim_size = int(index.max()) + 1 if index.numel() else 0
    shape[dim] = dim_size
    return shape


def _extreme(src: Tensor, index: Tensor, dim: int, dim_size: int | None, reduce: str) -> tuple[Tensor, Tensor]:
    """The extreme of each index by taking it from ``src``, so that its gradient goes to one place alone."""
    dim = dim % src.dim()
    index = broadcast(index, src, dim)
    shape, length = _shape(src, index, dim, dim_size), src.shape[dim]
    with torch.no_grad():
        found = src.new_zeros(shape).scatter_reduce_(dim, index, src, f"a{reduce}", include_self=False)
        place = torch.arange(length, device=src.device).view([-1 if k == dim else 1 for k in range(src.dim())])
        place = place.expand_as(src).masked_fill(src != found.gather(dim, index), length)
        arg = place.new_full(shape, length).scatter_reduce_(dim, index, place, "amin")
    padded = torch.cat([src, src.new_zeros([1 if k == dim else n for k, n in enumerate(src.shape)])], dim)
    return padded.gather(dim, arg), arg
