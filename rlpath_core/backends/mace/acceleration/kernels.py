"""Messages over the edges of a graph as two compiled loops, values and derivatives; one core, no lock of Python held.

The weights of an edge are computed from a table of cubic polynomials, used at once and not stored: the only arrays as
long as the list of edges are the derivatives. Compiled by numba at the first call and cached on disk.
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
    """Compile, with a cache on disk beside this file or in the user's cache; without one if neither can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        loop: Callable[..., None] = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        loop = numba.njit(**options)(function)
    return loop


def inlined(function: Callable[..., None]) -> Callable[..., None]:
    loop: Callable[..., None] = numba.njit(inline="always", error_model="numpy")(function)
    return loop


def refuse_second_derivatives() -> None:
    """Called in the backward pass: second derivatives would silently miss what is not recorded."""
    if torch.is_grad_enabled():
        raise NotImplementedError("compiled messages have no second derivatives: load the model in float64")


@inlined
def _write(values: Floats, columns: Ints, out: Floats, atom: int) -> None:
    """``values`` of one atom into its row of ``out``, each to its column."""
    for n in range(len(columns)):
        for k in range(columns.shape[1]):
            out[atom, columns[n, k]] = values[n, k]


@inlined
def _read(rows: Floats, atom: int, columns: Ints, values: Floats) -> None:
    """The inverse of ``_write``."""
    for n in range(len(columns)):
        for k in range(columns.shape[1]):
            values[n, k] = rows[atom, columns[n, k]]


@inlined
def _send(
    received: Floats,
    features: Floats,
    sender: int,
    couplings: Floats,
    edge: int,
    weights: Floats,
    paths: Ints,
    weighted: Floats,
) -> None:
    """Add one edge's message to what its atom has received; ``weights`` [paths * channels] are the edge's."""
    channels = features.shape[2]
    for p in range(len(paths)):
        source, target, column = paths[p, 0], paths[p, 1], paths[p, 2]
        size_in, size_out = paths[p, 3], paths[p, 4]
        for m in range(size_in):
            for k in range(channels):
                weighted[k] = weights[p * channels + k] * features[sender, source + m, k]
            for n in range(size_out):
                factor = couplings[edge, column + m * size_out + n]
                for k in range(channels):
                    received[target + n, k] += factor * weighted[k]


@inlined
def _pull(
    received: Floats,
    features: Floats,
    sender: int,
    couplings: Floats,
    edge: int,
    weights: Floats,
    paths: Ints,
    weighted: Floats,
    back: Floats,
    to_features: Floats,
    to_couplings: Floats,
    to_weights: Floats,
) -> None:
    """Backward pass through one edge: ``received`` is the gradient at its atom, ``to_weights`` that of its weights."""
    channels = features.shape[2]
    for p in range(len(paths)):
        source, target, column = paths[p, 0], paths[p, 1], paths[p, 2]
        size_in, size_out = paths[p, 3], paths[p, 4]
        for m in range(size_in):
            for k in range(channels):
                weighted[k] = weights[p * channels + k] * features[sender, source + m, k]
                back[k] = 0
            for n in range(size_out):
                coupling = column + m * size_out + n
                factor, total = couplings[edge, coupling], np.float32(0)
                for k in range(channels):
                    total += received[target + n, k] * weighted[k]
                    back[k] += factor * received[target + n, k]
                to_couplings[edge, coupling] = total
            for k in range(channels):
                to_features[sender, source + m, k] += weights[p * channels + k] * back[k]
            if m == 0:
                for k in range(channels):
                    to_weights[p * channels + k] = back[k] * features[sender, source + m, k]
            else:
                for k in range(channels):
                    to_weights[p * channels + k] += back[k] * features[sender, source + m, k]


@compiled
def messages(
    features: Floats,
    couplings: Floats,
    weights: Floats,
    senders: Ints,
    first: Ints,
    paths: Ints,
    columns: Ints,
    out: Floats,
) -> None:
    """Write the sum of the messages to every atom into ``out``.

    features [n_atoms, components, channels], couplings [n_edges, n_couplings], weights [n_edges, n_paths * channels],
    senders [n_edges]; the edges ``first[i]`` to ``first[i + 1]`` end at atom i; paths [n_paths, 5]: first component in,
    first component out, first coupling, components in and out; columns [components out, channels]: where each stands
    in a row of out [n_atoms, components out * channels]
    """
    received = np.empty(columns.shape, np.float32)
    weighted = np.empty(features.shape[2], np.float32)
    for atom in range(len(out)):
        received[:] = 0
        for edge in range(first[atom], first[atom + 1]):
            _send(received, features, senders[edge], couplings, edge, weights[edge], paths, weighted)
        _write(received, columns, out, atom)


@compiled
def derivatives(
    gradient: Floats,
    features: Floats,
    couplings: Floats,
    weights: Floats,
    senders: Ints,
    first: Ints,
    paths: Ints,
    columns: Ints,
    to_features: Floats,
    to_couplings: Floats,
    to_weights: Floats,
) -> None:
    """From the gradient with respect to what ``messages`` gave, those with respect to features (added up: zeros to
    begin with), couplings and weights; shapes as there."""
    weighted, back = np.empty(features.shape[2], np.float32), np.empty(features.shape[2], np.float32)
    received = np.empty(columns.shape, np.float32)
    for atom in range(len(gradient)):
        _read(gradient, atom, columns, received)
        for edge in range(first[atom], first[atom + 1]):
            _pull(
                received, features, senders[edge], couplings, edge, weights[edge], paths, weighted, back,
                to_features, to_couplings, to_weights[edge],
            )  # fmt: skip


@compiled
def tabulated_messages(
    features: Floats,
    couplings: Floats,
    knots: Floats,
    senders: Ints,
    first: Ints,
    paths: Ints,
    columns: Ints,
    table: Floats,
    out: Floats,
) -> None:
    """``messages`` with weights out of a table [intervals, 4, n_paths * channels] of cubic polynomials.

    knots [n_edges]: lengths in intervals of the table
    """
    received = np.empty(columns.shape, np.float32)
    weighted = np.empty(features.shape[2], np.float32)
    weights = np.empty(table.shape[2], np.float32)
    for atom in range(len(out)):
        received[:] = 0
        for edge in range(first[atom], first[atom + 1]):
            at = min(max(int(knots[edge]), 0), len(table) - 1)
            t = np.float32(knots[edge] - at)
            for k in range(len(weights)):
                weights[k] = table[at, 0, k] + t * (table[at, 1, k] + t * (table[at, 2, k] + t * table[at, 3, k]))
            _send(received, features, senders[edge], couplings, edge, weights, paths, weighted)
        _write(received, columns, out, atom)


@compiled
def tabulated_derivatives(
    gradient: Floats,
    features: Floats,
    couplings: Floats,
    knots: Floats,
    senders: Ints,
    first: Ints,
    paths: Ints,
    columns: Ints,
    table: Floats,
    to_features: Floats,
    to_couplings: Floats,
    to_knots: Floats,
) -> None:
    """``derivatives`` for ``tabulated_messages``."""
    weighted, back = np.empty(features.shape[2], np.float32), np.empty(features.shape[2], np.float32)
    received = np.empty(columns.shape, np.float32)
    weights, slopes, to_weights = (
        np.empty(table.shape[2], np.float32),
        np.empty(table.shape[2], np.float32),
        np.empty(table.shape[2], np.float32),
    )
    for atom in range(len(gradient)):
        _read(gradient, atom, columns, received)
        for edge in range(first[atom], first[atom + 1]):
            at = min(max(int(knots[edge]), 0), len(table) - 1)
            t = np.float32(knots[edge] - at)
            two_t, three_tt = np.float32(2) * t, np.float32(3) * t * t
            for k in range(len(weights)):
                weights[k] = table[at, 0, k] + t * (table[at, 1, k] + t * (table[at, 2, k] + t * table[at, 3, k]))
                slopes[k] = table[at, 1, k] + two_t * table[at, 2, k] + three_tt * table[at, 3, k]
            _pull(
                received, features, senders[edge], couplings, edge, weights, paths, weighted, back,
                to_features, to_couplings, to_weights,
            )  # fmt: skip
            slope = np.float32(0)
            for k in range(len(weights)):
                slope += to_weights[k] * slopes[k]
            to_knots[edge] = slope


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
        kind = kinds[atom]
        for t in range(len(terms)):
            m, h, i, j = terms[t, 0], terms[t, 1], terms[t, 2], terms[t, 3]
            for k in range(channels):
                sums[m, k] += coefficients[kind, t, k] * x[h, k] * x[i, k] * x[j, k]
        _write(sums, columns, out, atom)


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
    pulled = np.empty(channels, np.float32)
    for atom in range(len(variables)):
        for k in range(channels):
            for i in range(n_variables):
                x[i, k] = variables[atom, k, i]
        _read(gradient, atom, columns, pull)
        to_x[:] = 0
        kind = kinds[atom]
        for t in range(len(terms)):
            m, h, i, j = terms[t, 0], terms[t, 1], terms[t, 2], terms[t, 3]
            for k in range(channels):
                pulled[k] = pull[m, k] * coefficients[kind, t, k]
            for k in range(channels):
                to_x[h, k] += pulled[k] * x[i, k] * x[j, k]
            if i < n_variables:
                for k in range(channels):
                    to_x[i, k] += pulled[k] * x[h, k] * x[j, k]
            if j < n_variables:
                for k in range(channels):
                    to_x[j, k] += pulled[k] * x[h, k] * x[i, k]
        for k in range(channels):
            for i in range(n_variables):
                to_variables[atom, k, i] = to_x[i, k]
