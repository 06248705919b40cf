"""Messages over the edges of a graph as two compiled loops, values and derivatives; one core, no lock of Python held.

Every edge's weights come out of a table of cubic polynomials, are used and forgotten: nothing as long as the list of
edges is written but the derivatives that are asked for. Compiled by numba at the first call and kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Kept on disk beside this file, or in the user's cache; where neither can be written, compiled in each process."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        loop: Callable[..., None] = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        loop = numba.njit(**options)(function)
    return loop


def refuse_second_derivatives() -> None:
    """To be asked for in the backward pass: what is not recorded would be left out of them in silence."""
    if torch.is_grad_enabled():
        raise NotImplementedError("compiled messages have no second derivatives: load the model in float64")


@compiled
def messages(
    features: Floats,
    couplings: Floats,
    knots: Floats,
    senders: Ints,
    first: Ints,
    table: Floats,
    paths: Ints,
    columns: Ints,
    out: Floats,
) -> None:
    """What every atom receives, into ``out``.

    features [n_atoms, components, channels], couplings [n_edges, n_couplings], knots [n_edges]: lengths in intervals of
    the table; senders [n_edges]; the edges ``first[i]`` to ``first[i + 1]`` end at atom i; table [intervals, 4,
    paths * channels]; paths [n_paths, 5]: first component in, first component out, first coupling, components in and
    out; columns [components out, channels]: where each stands in a row of out [n_atoms, components out * channels]
    """
    channels = features.shape[2]
    received = np.empty(columns.shape, np.float32)
    width = table.shape[2]
    weights = np.empty(width, np.float32)
    weighted = np.empty(channels, np.float32)
    for atom in range(len(out)):
        received[:] = 0
        for edge in range(first[atom], first[atom + 1]):
            interval = min(max(int(knots[edge]), 0), len(table) - 1)
            t = np.float32(knots[edge] - interval)
            a, b, c, d = table[interval, 0], table[interval, 1], table[interval, 2], table[interval, 3]
            for k in range(width):
                weights[k] = a[k] + t * (b[k] + t * (c[k] + t * d[k]))
            sent, coupling = features[senders[edge]], couplings[edge]
            for p in range(len(paths)):
                source, target, column = paths[p, 0], paths[p, 1], paths[p, 2]  # an array taken apart is twice as slow
                size_in, size_out = paths[p, 3], paths[p, 4]
                weight = weights[p * channels : (p + 1) * channels]
                for m in range(size_in):
                    feature = sent[source + m]
                    for k in range(channels):
                        weighted[k] = weight[k] * feature[k]
                    for n in range(size_out):
                        factor, sums = coupling[column + m * size_out + n], received[target + n]
                        for k in range(channels):
                            sums[k] += factor * weighted[k]
        for n in range(len(columns)):
            for k in range(channels):
                out[atom, columns[n, k]] = received[n, k]


@compiled
def derivatives(
    gradient: Floats,
    features: Floats,
    couplings: Floats,
    knots: Floats,
    senders: Ints,
    first: Ints,
    table: Floats,
    paths: Ints,
    columns: Ints,
    to_features: Floats,
    to_couplings: Floats,
    to_knots: Floats,
) -> None:
    """From the gradient with respect to what ``messages`` gave, those with respect to features (added up: zeros to
    begin with), couplings and knots; shapes as there."""
    channels = features.shape[2]
    width = table.shape[2]
    weights = np.empty(width, np.float32)
    slopes = np.empty(width, np.float32)
    weighted = np.empty(channels, np.float32)
    back = np.empty(channels, np.float32)
    received = np.empty(columns.shape, np.float32)
    for atom in range(len(gradient)):
        for n in range(len(columns)):
            for k in range(channels):
                received[n, k] = gradient[atom, columns[n, k]]
        for edge in range(first[atom], first[atom + 1]):
            interval = min(max(int(knots[edge]), 0), len(table) - 1)
            t = np.float32(knots[edge] - interval)
            two_t, three_tt = np.float32(2) * t, np.float32(3) * t * t
            a, b, c, d = table[interval, 0], table[interval, 1], table[interval, 2], table[interval, 3]
            for k in range(width):
                weights[k] = a[k] + t * (b[k] + t * (c[k] + t * d[k]))
                slopes[k] = b[k] + two_t * c[k] + three_tt * d[k]
            sender = senders[edge]
            sent, to_sent, coupling, to_coupling = (
                features[sender],
                to_features[sender],
                couplings[edge],
                to_couplings[edge],
            )
            slope_sum = np.float32(0)
            for p in range(len(paths)):
                source, target, column = paths[p, 0], paths[p, 1], paths[p, 2]  # an array taken apart is twice as slow
                size_in, size_out = paths[p, 3], paths[p, 4]
                weight = weights[p * channels : (p + 1) * channels]
                slope = slopes[p * channels : (p + 1) * channels]
                for m in range(size_in):
                    feature, to_feature = sent[source + m], to_sent[source + m]
                    for k in range(channels):
                        weighted[k] = weight[k] * feature[k]
                        back[k] = 0
                    for n in range(size_out):
                        at = column + m * size_out + n
                        factor, pull, total = coupling[at], received[target + n], np.float32(0)
                        for k in range(channels):
                            total += pull[k] * weighted[k]
                            back[k] += factor * pull[k]
                        to_coupling[at] = total
                    for k in range(channels):
                        to_feature[k] += weight[k] * back[k]
                        slope_sum += back[k] * feature[k] * slope[k]
            to_knots[edge] = slope_sum


@compiled
def polynomials(variables: Floats, kinds: Ints, coefficients: Floats, terms: Ints, columns: Ints, out: Floats) -> None:
    """Polynomials of up to three variables a term, one set of coefficients per kind of atom and channel, into ``out``.

    variables [n_atoms, channels, n_variables]; kinds [n_atoms]; coefficients [n_kinds, n_terms, channels]; terms
    [n_terms, 4]: the polynomial that a term belongs to, and its variables, where n_variables stands for a one;
    columns [n_polynomials, channels]: where each stands in a row of out [n_atoms, n_polynomials * channels]
    """
    _, channels, n_variables = variables.shape
    x = np.ones((n_variables + 1, channels), np.float32)
    sums = np.empty(columns.shape, np.float32)
    for atom in range(len(variables)):
        for k in range(channels):
            for i in range(n_variables):
                x[i, k] = variables[atom, k, i]
        sums[:] = 0
        of_kind = coefficients[kinds[atom]]
        for t in range(len(terms)):
            sum_, a, b, c, factor = sums[terms[t, 0]], x[terms[t, 1]], x[terms[t, 2]], x[terms[t, 3]], of_kind[t]
            for k in range(channels):
                sum_[k] += factor[k] * a[k] * b[k] * c[k]
        for m in range(len(columns)):
            for k in range(channels):
                out[atom, columns[m, k]] = sums[m, k]


@compiled
def polynomial_derivatives(
    gradient: Floats,
    variables: Floats,
    kinds: Ints,
    coefficients: Floats,
    terms: Ints,
    columns: Ints,
    to_variables: Floats,
) -> None:
    """From the gradient with respect to what ``polynomials`` gave, that with respect to the variables."""
    _, channels, n_variables = variables.shape
    x = np.ones((n_variables + 1, channels), np.float32)
    to_x = np.empty((n_variables + 1, channels), np.float32)
    pull = np.empty(columns.shape, np.float32)
    for atom in range(len(variables)):
        for k in range(channels):
            for i in range(n_variables):
                x[i, k] = variables[atom, k, i]
        for m in range(len(columns)):
            for k in range(channels):
                pull[m, k] = gradient[atom, columns[m, k]]
        to_x[:] = 0
        of_kind = coefficients[kinds[atom]]
        for t in range(len(terms)):
            h, i, j = terms[t, 1], terms[t, 2], terms[t, 3]
            g, a, b, c, factor = pull[terms[t, 0]], x[h], x[i], x[j], of_kind[t]
            to_a, to_b, to_c = to_x[h], to_x[i], to_x[j]
            for k in range(channels):
                to_a[k] += g[k] * factor[k] * b[k] * c[k]
            if i < n_variables:
                for k in range(channels):
                    to_b[k] += g[k] * factor[k] * a[k] * c[k]
            if j < n_variables:
                for k in range(channels):
                    to_c[k] += g[k] * factor[k] * a[k] * b[k]
        for k in range(channels):
            for i in range(n_variables):
                to_variables[atom, k, i] = to_x[i, k]
