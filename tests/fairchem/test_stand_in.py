"""The stand-ins of torch_scatter and torch_sparse: against plain loops, and the compiled ones where they are."""

import importlib
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.backends.fairchem.shims import NAMES, PACKAGES

REDUCES = ["sum", "add", "mean", "min", "max"]
TOGETHER = {"sum": np.sum, "add": np.sum, "mean": np.mean, "min": np.min, "max": np.max}
seeds = st.integers(0, 2**31)


def stand_in(name):
    """The stand-in itself, whatever ``import`` of its name would find."""
    folder = PACKAGES / name
    spec = spec_from_file_location(f"stand_in_{name}", folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    importlib.import_module(f"{spec.name}.utils") if (folder / "utils").is_dir() else None
    return module


SCATTER, SPARSE = stand_in("torch_scatter"), stand_in("torch_sparse")


def compiled(name):
    """The compiled package, or a skip."""
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        found = None
    if found is None or str(PACKAGES) in found.__file__:
        pytest.skip(f"no compiled {name} is installed, which is how `make fairchem` has it")
    return found


def scatter_by_loop(src, index, dim, size, reduce):
    """One output entry after the other, from all that has its index."""
    moved, where = np.moveaxis(src, dim, 0), np.moveaxis(index, dim, 0)
    out = np.zeros((size, *moved.shape[1:]), src.dtype)
    for place in np.ndindex(*moved.shape[1:]):
        line, to = moved[(slice(None), *place)], where[(slice(None), *place)]
        for k in range(size):
            if (to == k).any():
                value = TOGETHER[reduce](line[to == k])
                out[(k, *place)] = np.floor(value) if src.dtype.kind == "i" else value
    return np.moveaxis(out, 0, dim)


def drawn(seed, dtype="float"):
    """A source of one to three dimensions, some of length 0, and one of them to scatter along."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(0, 6, generator.integers(1, 4)))
    dim, size = int(generator.integers(-len(shape), len(shape))), int(generator.integers(1, 7))
    src = generator.normal(size=shape) if dtype == "float" else generator.integers(-9, 9, shape)
    return generator, src, dim, size


@pytest.mark.parametrize("dtype", ["float", "int"])
@pytest.mark.parametrize("reduce", REDUCES)
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_scatter(reduce, dtype, seed):
    generator, src, dim, size = drawn(seed, dtype)
    line = generator.integers(0, size, src.shape[dim])
    full = generator.integers(0, size, src.shape)
    along = np.broadcast_to(np.expand_dims(line, [k for k in range(src.ndim) if k != dim % src.ndim]), src.shape)
    for given_index, whole in ((line, along), (full, full)):
        found = SCATTER.scatter(torch.tensor(src), torch.tensor(given_index), dim, dim_size=size, reduce=reduce)
        assert found.dtype == torch.tensor(src).dtype
        np.testing.assert_allclose(found.numpy(), scatter_by_loop(src, whole, dim, size, reduce), atol=1e-12)


def test_scatter_finds_the_size_by_itself():
    src, index = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3, 0, 3])
    assert SCATTER.scatter(src, index).tolist() == [2.0, 0.0, 0.0, 5.0]
    assert SCATTER.scatter(src[:0], index[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["scatter_min", "scatter_max"])
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_where_the_extreme_stands(name, seed):
    generator, src, dim, size = drawn(seed, "int")
    index = generator.integers(0, size, src.shape)
    values, places = getattr(SCATTER, name)(torch.tensor(src), torch.tensor(index), dim, dim_size=size)
    np.testing.assert_array_equal(values, scatter_by_loop(src, index, dim, size, name.removeprefix("scatter_")))
    length = src.shape[dim]
    there = places.numpy() < length
    if length:
        kept = np.minimum(places.numpy(), length - 1)
        np.testing.assert_array_equal(np.take_along_axis(src, kept, dim)[there], values.numpy()[there])
        rows = np.expand_dims(np.arange(size), [k for k in range(src.ndim) if k != dim % src.ndim])
        own = np.take_along_axis(index, kept, dim) == rows
        assert own[there].all(), "the place holds a value of another index"
    counts = scatter_by_loop(np.ones_like(src), index, dim, size, "sum")
    np.testing.assert_array_equal(there, counts > 0)


@pytest.mark.parametrize("reduce", REDUCES)
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_segments(reduce, seed):
    generator, src, _, size = drawn(seed)
    along = int(generator.integers(0, src.ndim))
    n = src.shape[along]
    ends = np.sort(generator.integers(0, n + 1, size + 1))
    expected = np.zeros((*src.shape[:along], size, *src.shape[along + 1 :]))
    for k in range(size):
        part = src[(slice(None),) * along + (slice(ends[k], ends[k + 1]),)]
        if part.shape[along]:
            expected[(slice(None),) * along + (k,)] = TOGETHER[reduce](part, axis=along)
    indptr = torch.tensor(ends).view(*[1] * along, -1)
    found = SCATTER.segment_csr(torch.tensor(src), indptr, reduce=reduce)
    np.testing.assert_allclose(found, expected, atol=1e-12)

    index = np.sort(generator.integers(0, size, n))
    found = SCATTER.segment_coo(torch.tensor(src), torch.tensor(index).view(*[1] * along, -1), None, size, reduce)
    whole = np.broadcast_to(np.expand_dims(index, [k for k in range(src.ndim) if k != along]), src.shape)
    np.testing.assert_allclose(found, scatter_by_loop(src, whole, along, size, reduce), atol=1e-12)


def test_segments_of_their_own_in_every_row():
    src = torch.arange(10.0).view(2, 5)
    found = SCATTER.segment_csr(src, torch.tensor([[0, 2, 5], [1, 1, 4]]))
    assert found.tolist() == [[1.0, 9.0], [0.0, 21.0]]


def test_gather_is_the_reverse():
    indptr = torch.tensor([0, 2, 2, 5])
    assert SCATTER.gather_csr(torch.tensor([7, 8, 9]), indptr).tolist() == [7, 7, 9, 9, 9]


def test_broadcast():
    other = torch.zeros(2, 3, 4)
    for dim in range(-3, 3):
        index = torch.arange(other.shape[dim])
        expected = torch.movedim(index.expand(*np.delete(other.shape, dim), -1), -1, dim)
        assert torch.equal(SCATTER.broadcast(index, other, dim), expected)
    assert torch.equal(SCATTER.broadcast(torch.ones(2, 3), other, 1), torch.ones(2, 3, 4))


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("way", ["scatter", "segment_coo", "segment_csr"])
def test_first_and_second_derivative(way, reduce):
    generator = torch.Generator().manual_seed(3)
    src = torch.randn(7, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    index = torch.tensor([0, 0, 2, 2, 2, 3, 3])
    calls = {
        "scatter": lambda x: SCATTER.scatter(x, index, 0, dim_size=5, reduce=reduce),
        "segment_coo": lambda x: SCATTER.segment_coo(x, index, dim_size=5, reduce=reduce),
        "segment_csr": lambda x: SCATTER.segment_csr(x, torch.tensor([0, 2, 2, 5, 6]), reduce=reduce),
    }
    assert torch.autograd.gradcheck(lambda x: calls[way](x**3), src)
    assert torch.autograd.gradgradcheck(lambda x: calls[way](x**3), src)


def test_of_equal_extremes_the_first_has_the_gradient():
    src = torch.tensor([2.0, 5.0, 5.0, 1.0, 1.0], requires_grad=True)
    SCATTER.scatter(src, torch.tensor([0, 0, 0, 1, 1]), reduce="max").sum().backward()
    assert src.grad.tolist() == [0, 1, 0, 1, 0]


def test_what_it_does_not_have_is_an_error():
    src, index = torch.ones(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(NotImplementedError, match="compiled torch_scatter"):
        SCATTER.scatter(src, index, out=src)
    with pytest.raises(ValueError, match="choose sum"):
        SCATTER.scatter(src, index, reduce="mul")


def entries(seed):
    """Places of a matrix, some twice, in no order."""
    generator = np.random.default_rng(seed)
    rows, cols, n = generator.integers(1, 7), generator.integers(1, 7), generator.integers(0, 20)
    row, col = generator.integers(0, rows, n), generator.integers(0, cols, n)
    return generator, row, col, np.arange(n), (int(rows), int(cols))


def sparse(module, parts, sizes):
    row, col, value = map(torch.tensor, parts)
    return module.SparseTensor(row=row, col=col, value=value, sparse_sizes=sizes)


def listed(matrix):
    return list(zip(*(part.tolist() for part in matrix.coo()), strict=True))


@given(seed=seeds)
@settings(max_examples=100, deadline=None)
def test_rows_of_a_sparse_matrix(seed):
    generator, row, col, value, sizes = entries(seed)
    matrix = sparse(SPARSE, (row, col, value), sizes)
    ordered = sorted(zip(row.tolist(), col.tolist(), value.tolist(), strict=True))
    assert listed(matrix) == ordered
    assert matrix.sparse_sizes() == sizes

    wanted = generator.integers(0, sizes[0], generator.integers(0, 9))
    chosen = matrix[torch.tensor(wanted)]
    by_hand = [(new, c, v) for new, old in enumerate(wanted) for r, c, v in ordered if r == old]
    assert listed(chosen) == by_hand
    assert chosen.sparse_sizes() == (len(wanted), sizes[1])

    mask = generator.random(sizes[0]) < 0.5
    assert listed(matrix[torch.tensor(mask)]) == listed(matrix[torch.tensor(np.flatnonzero(mask))])

    # As GemNet-OC numbers its triplets and picks quadruplets by them.
    assert chosen.set_value_(torch.arange(len(by_hand)), layout="coo") is chosen
    twice = generator.integers(0, max(len(wanted), 1), 5 if len(wanted) else 0)
    expected = [(new, c, k) for new, old in enumerate(twice) for k, (r, c, _) in enumerate(by_hand) if r == old]
    assert listed(chosen[torch.tensor(twice)]) == expected
    assert chosen.storage.row().tolist() == [r for r, _, _ in by_hand]


def test_a_sparse_matrix_without_values_or_sizes():
    matrix = SPARSE.SparseTensor(row=torch.tensor([2, 0]), col=torch.tensor([1, 3]))
    assert matrix.sparse_sizes() == (3, 4)
    row, col, value = matrix[torch.tensor([2, 1])].coo()
    assert (row.tolist(), col.tolist(), value) == ([0], [1], None)
    with pytest.raises(NotImplementedError, match="layout"):
        matrix.set_value_(None, layout="csc")


@pytest.mark.parametrize("reduce", REDUCES)
def test_the_compiled_scatter_agrees(reduce):
    theirs = compiled("torch_scatter")
    for seed in range(40):
        generator, src, dim, size = drawn(seed, ("float", "int")[seed % 2])
        if not src.size:
            continue
        own, other = (torch.tensor(src, requires_grad=src.dtype.kind == "f") for _ in range(2))
        index = torch.tensor(generator.integers(0, size, src.shape[dim]))
        a = SCATTER.scatter(own, index, dim, dim_size=size, reduce=reduce)
        b = theirs.scatter(other, index, dim, dim_size=size, reduce=reduce)
        torch.testing.assert_close(a, b)
        if own.requires_grad:
            (a**2).sum().backward()
            (b**2).sum().backward()
            torch.testing.assert_close(own.grad, other.grad)
        elif reduce == "mean":
            continue  # compiled segments round a negative mean of integers up, compiled scatter down
        along = torch.sort(torch.tensor(generator.integers(0, size, src.shape[0]))).values
        a = SCATTER.segment_coo(own, along, dim_size=size, reduce=reduce)
        torch.testing.assert_close(a, theirs.segment_coo(other, along, dim_size=size, reduce=reduce))
        ends = torch.sort(torch.tensor(generator.integers(0, len(src) + 1, size + 1))).values
        torch.testing.assert_close(
            SCATTER.segment_csr(own, ends, reduce=reduce), theirs.segment_csr(other, ends, reduce=reduce)
        )


def test_the_compiled_sparse_agrees():
    theirs = compiled("torch_sparse")
    for seed in range(40):
        generator, row, col, value, sizes = entries(seed)
        _, first = np.unique(np.stack([row, col]), axis=1, return_index=True)  # the order of equal places is open there
        wanted = torch.tensor(generator.integers(0, sizes[0], 6))
        a, b = (sparse(module, (row[first], col[first], value[first]), sizes)[wanted] for module in (SPARSE, theirs))
        assert listed(a) == listed(b)


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_of_data_loaders_have_them_too(way, program):
    answer = subprocess.run(program("load_in_workers", way), capture_output=True, text=True, timeout=120)
    assert (answer.returncode, answer.stdout.strip()) == (0, "both"), answer.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_installed_one_comes_first(name, tmp_path):
    """An interpreter that has a package of that name keeps it, and has the stand-in of the other."""
    (tmp_path / f"{name}.py").write_text("SparseTensor = scatter = 'installed'")
    code = (
        "import sys; from rlpath_core.backends.fairchem.shims import provide, PACKAGES; before = len(sys.path)\n"
        "provide(); provide(); assert len(sys.path) <= before + 1\n"
        "import torch_scatter, torch_sparse; print(torch_scatter.__file__, torch_sparse.__file__)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert f"{tmp_path / name}.py" in answer.stdout.split()
