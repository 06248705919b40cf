"""torch_sparse in plain torch: of SparseTensor what GemNet's index lists use, which is to choose and repeat rows.

It has no SparseStorage on purpose: PyTorch Geometric, which looks for one, then does without torch_sparse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["SparseTensor"]
__version__ = "0.stand-in"


@dataclass
class Entries:
    """Entries by row, then column; of those at the same place the given order is kept."""

    _row: Tensor
    _col: Tensor
    _value: Tensor | None

    def row(self) -> Tensor:
        return self._row

    def col(self) -> Tensor:
        return self._col

    def value(self) -> Tensor | None:
        return self._value


class SparseTensor:
    """[n_rows, n_cols] matrix of ``value`` at (``row``, ``col``); a place may have several entries."""

    def __init__(
        self,
        *,
        row: Tensor,
        col: Tensor,
        value: Tensor | None = None,
        sparse_sizes: tuple[int | None, int | None] | None = None,
    ) -> None:
        rows, cols = sparse_sizes or (None, None)
        self._sizes = (_size(row) if rows is None else rows, _size(col) if cols is None else cols)
        place = row * self._sizes[1] + col
        if bool((place[1:] < place[:-1]).any()):
            order = place.argsort(stable=True)
            row, col, value = row[order], col[order], None if value is None else value[order]
        self.storage = Entries(row, col, value)

    def sparse_sizes(self) -> tuple[int, int]:
        return self._sizes

    def coo(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.storage.row(), self.storage.col(), self.storage.value()

    def set_value_(self, value: Tensor | None, layout: Literal["coo", "csr"] | None = None) -> SparseTensor:
        """Other values in place, in the order of the entries."""
        if layout not in (None, "coo", "csr"):
            raise NotImplementedError("the stand-in of torch_sparse keeps entries by row: layout coo or csr")
        self.storage._value = value
        return self

    def __getitem__(self, rows: Tensor) -> SparseTensor:
        """[len(rows), n_cols]: the chosen rows, in that order, as often as they are named; or those of a mask."""
        if rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        row, col, value = self.coo()
        counts = torch.bincount(row, minlength=self._sizes[0])
        first = counts.cumsum(0) - counts
        counts, first = counts[rows], first[rows]
        ends = counts.cumsum(0)
        new_row = torch.arange(len(rows), device=row.device).repeat_interleave(counts)
        entry = torch.arange(len(new_row), device=row.device) + (first - ends + counts).repeat_interleave(counts)
        chosen = None if value is None else value[entry]
        return SparseTensor(row=new_row, col=col[entry], value=chosen, sparse_sizes=(len(rows), self._sizes[1]))


def _size(index: Tensor) -> int:
    return int(index.max()) + 1 if index.numel() else 0
