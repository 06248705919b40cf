"""The fused convolution against e3nn's product followed by a sum over edges: values, first and second derivatives."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mace.modules.irreps_tools import tp_out_irreps_with_instructions

from rlpath_core.backends.mace.acceleration.convolution import EdgeLayouts, FusedConvolution

from e3nn import o3  # isort: skip  # after mace

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


@pytest.fixture(autouse=True)
def double():
    """e3nn rounds its coupling constants to the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def product(inputs: str, l_max: int) -> o3.TensorProduct:
    harmonics = o3.Irreps.spherical_harmonics(l_max)
    target = (harmonics * o3.Irreps(inputs)[0].mul).sort().irreps.simplify()
    middle, instructions = tp_out_irreps_with_instructions(o3.Irreps(inputs), harmonics, target)
    return o3.TensorProduct(
        o3.Irreps(inputs), harmonics, middle, instructions, shared_weights=False, internal_weights=False
    )


def reference(tp, features, harmonics, weights, edges):
    out = torch.zeros(len(features), tp.irreps_out.dim)
    return out.index_add(0, edges[1], tp(features[edges[0]], harmonics, weights))


def graph(kind: str, generator: torch.Generator) -> tuple[int, torch.Tensor]:
    match kind:
        case "sorted":
            edges = torch.randint(0, 7, (2, 60), generator=generator)
            return 7, edges[:, torch.argsort(edges[1])]
        case "in any order, an atom without neighbours":
            return 8, torch.randint(0, 7, (2, 60), generator=generator)
        case "one crowded atom":
            return 9, torch.stack((torch.randint(0, 9, (30,), generator=generator), torch.full((30,), 4)))
        case _:
            return 3, torch.zeros(2, 0, dtype=torch.long)


@pytest.mark.parametrize(("inputs", "l_max"), [("4x0e", 2), ("3x0e + 3x1o", 2), ("2x0e + 2x1o + 2x2e", 3)])
@pytest.mark.parametrize("kind", ["sorted", "in any order, an atom without neighbours", "one crowded atom", "no edge"])
def test_equals_product_and_sum(inputs, l_max, kind):
    generator = torch.Generator().manual_seed(3)
    tp = product(inputs, l_max)
    n_atoms, edges = graph(kind, generator)

    def drawn(*shape):
        return torch.randn(shape, generator=generator).requires_grad_(True)

    given = (
        drawn(n_atoms, tp.irreps_in1.dim),
        drawn(edges.shape[1], tp.irreps_in2.dim),
        drawn(edges.shape[1], tp.weight_numel),
    )
    assert FusedConvolution.can_do(tp)
    found, wanted = FusedConvolution(tp, EdgeLayouts())(*given, edges), reference(tp, *given, edges)
    close(found, wanted)
    first = [torch.autograd.grad(out.sin().sum(), given, create_graph=True) for out in (found, wanted)]
    for one, other in zip(*first, strict=True):
        close(one, other)
    second = [torch.autograd.grad(sum((g**3).sum() for g in grads), given) for grads in first]
    for one, other in zip(*second, strict=True):
        close(one, other)


def test_names_in_the_state_dict_stay():
    tp = product("3x0e + 3x1o", 2)
    assert set(FusedConvolution(tp, EdgeLayouts()).state_dict()) == set(tp.state_dict())


def test_other_products_are_left_alone():
    full = o3.FullyConnectedTensorProduct("2x0e", "1x0e + 1x1o", "2x0e + 2x1o", shared_weights=False)
    assert not FusedConvolution.can_do(full)
    assert not FusedConvolution.can_do(None)
    assert not FusedConvolution.can_do(torch.nn.Linear(2, 2))
