"""The MACE backend: the conformance suite, and mace's own calculator as the independent answer."""

import numpy as np
import pytest
import torch

from rlpath_core.backends import load_model
from rlpath_core.backends.mace.architecture import ScaleShift
from rlpath_core.backends.mace.build import build, state_of
from rlpath_core.backends.mace.bundle import write_bundle
from rlpath_core.backends.mace.export import write_model_file
from rlpath_core.errors import InputError
from rlpath_core.testing.backend import BackendConformance
from rlpath_core.testing.networks import small_mace


def bundle(folder, architecture, dtype="float64", head="Default"):
    net = build(architecture, getattr(torch, dtype), seed=4)
    state = state_of(net, architecture)
    return write_bundle(folder, architecture, state, head=head, dtype=dtype)[0], state


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    architecture = small_mace()
    manifest, state = bundle(tmp_path_factory.mktemp("bundle"), architecture)
    return architecture, manifest, state


@pytest.fixture(scope="module")
def double(written):
    return load_model(written[1])


@pytest.fixture(scope="module")
def single(written):
    return load_model(written[1], dtype="float32")


class TestMaceConformance(BackendConformance):
    @pytest.fixture
    def model(self, double):
        return double


class TestMaceFloat32(BackendConformance):
    energy_tolerance = 1e-6
    force_tolerance = 2e-4

    @pytest.fixture
    def model(self, single):
        return single

    def test_forces_are_minus_the_gradient(self, model, structures):
        pytest.skip("finite differences need float64; the class above has them")

    def test_rotation(self, model, structures):
        pytest.skip("tolerances of the suite are for float64; the class above has it")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_type": "MACE", "scale_shift": None},
        {"hidden_irreps": "8x0e", "num_interactions": 1, "interactions": [], "products": [], "readouts": []},
        {"heads": ["low", "high"], "e0_values": [[-10.7, -120.3, -20.1], [-11.0, -121.0, -19.0]],
         "scale_shift": ScaleShift(scale=[1.3, 0.9], shift=[-0.4, 0.1])},
        {"pair_repulsion": True, "distance_transform": "Agnesi"},
    ],
    ids=["two-layers", "no-scale-shift", "one-layer", "two-heads", "zbl-agnesi"],
)  # fmt: skip
def test_equals_mace_calculator(changes, tmp_path):
    from mace.calculators import MACECalculator

    architecture = small_mace(**changes)
    head = architecture.heads[-1]
    manifest, state = bundle(tmp_path, architecture, head=head)
    write_model_file(tmp_path / "mace.model", architecture, state)
    calculator = MACECalculator(
        model_paths=str(tmp_path / "mace.model"), device="cpu", default_dtype="float64", head=head
    )
    model = load_model(manifest, head=head)
    structures = _structures()
    for structure, found in zip(structures, model.predict(structures), strict=True):
        atoms = structure.to_ase()
        atoms.calc = calculator
        assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-5)


def _structures():
    from ase import Atoms
    from ase.build import molecule

    from rlpath_core.structure import Structure

    generator = np.random.default_rng(2)
    slab = Atoms("MgOMgO", [[0, 0, 5], [2.1, 0, 5], [2.1, 2.1, 5], [0, 2.1, 5]], cell=[4.2, 4.2, 12], pbc=(1, 1, 0))
    water = molecule("H2O")
    slab += Atoms("OHH", water.positions + [0.2, 0.1, 7.2])
    bulk = Atoms("MgO", [[0, 0, 0], [2.1, 0.1, 0]], cell=[[0, 2.1, 2.2], [2.1, 0, 2.1], [2.3, 2.1, 0]], pbc=True)
    found = [Structure.from_ase(a) for a in (slab, water, bulk)]
    return [s.moved(s.positions + generator.normal(0, 0.05, s.positions.shape)) for s in found]


def test_float32_is_close_to_float64(single, double):
    for a, b in zip(single.predict(_structures()), double.predict(_structures()), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=2e-5)  # of some 100 eV: better than float32 itself would be
        np.testing.assert_allclose(a.forces, b.forces, atol=2e-4)


@pytest.mark.slow
def test_small_edge_budget_changes_nothing(written):
    model = load_model(written[1])
    whole = model.predict(_structures() * 3)
    model.edge_budget = 1
    for a, b in zip(whole, model.predict(_structures() * 3), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-9)


@pytest.mark.slow
def test_out_of_memory_halves_the_batch(written, monkeypatch):
    model = load_model(written[1])
    forward, sizes = model._forward, []

    def limited(graphs, *rest):
        sizes.append(len(graphs))
        if len(graphs) > 2:
            raise torch.OutOfMemoryError("too large")
        return forward(graphs, *rest)

    monkeypatch.setattr(model, "_forward", limited)
    found = model.predict(_structures() * 3)
    assert len(found) == 9
    assert max(sizes) == 9
    assert [round(f.energy, 6) for f in found] == [
        round(f.energy, 6) for f in load_model(written[1]).predict(_structures() * 3)
    ]


@pytest.mark.slow
def test_same_weights_same_digest(tmp_path):
    architecture = small_mace()
    digests = set()
    for name in ("a", "b"):
        net = build(architecture, torch.float32, seed=9)
        digests.add(
            write_bundle(tmp_path / name, architecture, state_of(net, architecture), head="Default", dtype="float32")[1]
        )
    assert len(digests) == 1
    other = build(architecture, torch.float32, seed=10)
    changed = write_bundle(
        tmp_path / "c", architecture, state_of(other, architecture), head="Default", dtype="float32"
    )[1]
    assert changed not in digests


def test_building_leaves_global_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    build(small_mace(), torch.float64, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_wrong_head_names_the_heads(tmp_path):
    architecture = small_mace(heads=["low", "high"], e0_values=[[-1.0, -2.0, -3.0]] * 2,
                         scale_shift=ScaleShift(scale=[1.0, 1.0], shift=[0.0, 0.0]))  # fmt: skip
    manifest, _ = bundle(tmp_path, architecture, head="low")
    with pytest.raises(InputError, match="Did you mean 'high'"):
        load_model(manifest, head="hihg")


def test_cuda_without_gpu_says_what_to_choose(written):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="choose cpu or auto"):
        load_model(written[1], device="cuda")
    assert load_model(written[1], device="auto").device == "cpu"
