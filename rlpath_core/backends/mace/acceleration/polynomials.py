"""MACE's product basis as polynomials in the features of an atom, for prediction on a CPU.

The symmetric contraction of mace (doi:10.48550/arXiv.2206.07697) uses dense coupling tensors. Most of their entries are
zero or repeated, because the order of the factors in a product does not matter. Here each product of features is one
term, with one coefficient per element and channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mace.modules.symmetric_contraction import Contraction, SymmetricContraction
from numpy.typing import NDArray

from rlpath_core.backends.mace.acceleration import kernels

MOST_FACTORS = 3


class SymmetricPolynomials(torch.nn.Module):
    """Replaces mace's ``SymmetricContraction``."""

    def __init__(self, contraction: SymmetricContraction) -> None:
        super().__init__()
        parts = [_terms(part) for part in contraction.contractions]
        n_channels = contraction.contractions[0].num_features
        first = np.cumsum([0, *(len(columns) for _, _, columns in parts)])[:-1]  # polynomials before each part
        self.terms = np.concatenate([
            terms + [start, 0, 0, 0] for (terms, _, _), start in zip(parts, first, strict=True)
        ])  # fmt: skip
        self.coefficients = np.concatenate([coefficients for _, coefficients, _ in parts], axis=1)
        self.columns = np.concatenate([
            columns + start * n_channels for (_, _, columns), start in zip(parts, first, strict=True)
        ])  # fmt: skip

    @staticmethod
    def can_do(contraction: Any) -> bool:
        return type(contraction) is SymmetricContraction and all(
            part.correlation <= MOST_FACTORS for part in contraction.contractions
        )

    def forward(self, features: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
        """[n_atoms, outputs]; features [n_atoms, channels, components], elements [n_atoms, n_elements], one 1 a row."""
        out: torch.Tensor = _Polynomials.apply(features, elements.argmax(1).numpy(), self)
        return out


def _terms(part: Contraction) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Terms [n_terms, 4], coefficients [n_elements, n_terms, channels] and columns of one irrep of the output, see
    ``kernels.polynomials``."""
    terms, coefficients = [], []
    for degree in range(1, part.correlation + 1):
        couplings = part.U_tensors(degree).double().numpy()
        weights = part.weights_max if degree == part.correlation else part.weights[part.correlation - 1 - degree]
        if couplings.ndim == degree + 1:  # a scalar's have no axis of their own for it
            couplings = couplings[None]
        n_out, n_features = couplings.shape[:2]
        places = np.stack(np.nonzero(couplings.any(axis=-1)), axis=1)
        products = np.sort(places[:, 1:], axis=1)
        padded = np.full((len(places), MOST_FACTORS), n_features)
        padded[:, :degree] = products
        unique, which = np.unique(np.column_stack((places[:, 0], padded)), axis=0, return_inverse=True)
        summed = np.zeros((len(unique), couplings.shape[-1]))
        np.add.at(summed, which.ravel(), couplings[tuple(places.T)])
        terms.append(unique)
        coefficients.append(np.einsum("tk,ekc->etc", summed, weights.detach().double().numpy()))
    channels = part.num_features
    columns = np.arange(n_out * channels).reshape(channels, n_out).T
    return np.concatenate(terms), np.concatenate(coefficients, axis=1).astype(np.float32), columns


class _Polynomials(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, kinds: NDArray[np.int64], of: SymmetricPolynomials) -> torch.Tensor:
        ctx.given = features.contiguous().numpy(), kinds, of.coefficients, of.terms, of.columns
        out = np.empty((len(features), of.columns.size), np.float32)
        kernels.polynomials(*ctx.given, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kernels.refuse_second_derivatives()
        to_features = np.empty_like(ctx.given[0])
        kernels.polynomial_derivatives(gradient.contiguous().numpy(), *ctx.given, to_features)
        return torch.from_numpy(to_features), None, None
