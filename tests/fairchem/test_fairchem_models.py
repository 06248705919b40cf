"""EquiformerV2 and GemNet-OC as models: the conformance suite, and FairChem's own calculator beside them."""

import json
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from rlpath_core.backends import load_model
from rlpath_core.structure import Structure
from rlpath_core.testing.backend import BackendConformance


class TestEquiformerV2(BackendConformance):
    @pytest.fixture
    def model(self, loaded):
        return loaded("eqv2", "float64")


class TestEquiformerV2BeforeHydra(TestEquiformerV2):
    @pytest.fixture
    def model(self, loaded):
        return loaded("eqv2-old", "float64")


class TestGemNetOC(BackendConformance):
    @pytest.fixture
    def model(self, loaded):
        return loaded("gemnet", "float64")


class TestGemNetOCDirectForces(BackendConformance):
    @pytest.fixture
    def model(self, loaded):
        return loaded("gemnet-direct", "float64")


def test_a_gradient_in_other_units_is_no_gradient(bundled, loaded, tmp_path):
    manifest = tmp_path / "b" / "manifest.json"
    shutil.copytree(bundled("gemnet").parent, manifest.parent)
    value = json.loads(manifest.read_text())
    value["normalizer"]["targets"]["forces"]["rmsd"] *= 1.5
    manifest.write_text(json.dumps(value))
    assert loaded("gemnet").conservative
    assert not load_model(manifest).conservative


@pytest.fixture(scope="module")
def systems():
    """A bulk cell, a slab open along z with water, a molecule without a cell, a tagged metal slab."""
    generator = np.random.default_rng(2)
    slab = Atoms("MgOMgO", [[0, 0, 5], [2.1, 0, 5], [2.1, 2.1, 5], [0, 2.1, 5]], cell=[4.2, 4.2, 12], pbc=(1, 1, 0))
    slab = slab.repeat((2, 2, 1)) + Atoms("OHH", molecule("H2O").positions + [0.2, 0.1, 7.2])
    metal = fcc111("Cu", (3, 2, 3), vacuum=6)
    metal.pbc = True
    metal.set_tags([0] * 12 + [1] * 6)
    found = [bulk("MgO", "rocksalt", a=4.2, cubic=True), slab, molecule("CH3OH"), metal]
    found[2].symbols[0] = "O"  # no carbon in the references
    for atoms in found:
        atoms.positions += generator.normal(0, 0.1, atoms.positions.shape)
    return found


def calculated(checkpoint, systems, seed=0):
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator

    calculator = OCPCalculator(checkpoint_path=checkpoint, cpu=True, seed=seed)
    found = []
    for atoms in systems:
        calculator.calculate(atoms, ["energy", "forces"], [])
        found.append((float(calculator.results["energy"]), np.array(calculator.results["forces"])))
    return found


def assert_same(predictions, expected):
    """To the last digits of single precision, in which the calculator adds the references too."""
    for found, (energy, forces) in zip(predictions, expected, strict=True):
        assert found.energy == pytest.approx(energy, rel=5e-7)
        np.testing.assert_allclose(found.forces, forces, atol=5e-5)


@pytest.mark.parametrize(
    "name", ["eqv2", "eqv2-old", "eqv2-few-neighbours", "gemnet", "gemnet-direct", "gemnet-all", "gemnet-hydra"]
)
def test_equals_ocp_calculator(name, saved, loaded, systems):
    structures = [Structure.from_ase(atoms) for atoms in systems]
    assert_same(loaded(name).predict(structures), calculated(saved(name), systems))


def test_equals_ocp_calculator_on_a_batch(saved, loaded, systems):
    from fairchem.core.common.relaxation.ase_utils import OCPCalculator
    from fairchem.core.datasets import data_list_collater
    from fairchem.core.preprocessing import AtomsToGraphs

    atoms = [systems[0].repeat((n, 1, 1)) for n in (1, 2, 1)]
    calculator = OCPCalculator(checkpoint_path=saved("eqv2"), cpu=True, seed=0)
    batch = data_list_collater([AtomsToGraphs(r_edges=False, r_pbc=True).convert(a) for a in atoms], otf_graph=True)
    expected = calculator.trainer.predict(batch, per_image=False, disable_tqdm=True)
    found = loaded("eqv2").predict([Structure.from_ase(a) for a in atoms])
    np.testing.assert_allclose([p.energy for p in found], expected["energy"].flatten(), rtol=5e-7)
    np.testing.assert_allclose(np.concatenate([p.forces for p in found]), expected["forces"], atol=5e-5)


def test_no_chance_in_edge_frames(saved, loaded, systems):
    """FairChem draws the angle about every edge anew at each call; here the answer is the same to the last bit."""
    structures = [Structure.from_ase(atoms) for atoms in systems]
    model = loaded("eqv2")
    torch.manual_seed(1)
    first = model.predict(structures)
    torch.manual_seed(2)
    for a, b in zip(first, model.predict(structures), strict=True):
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)
    one, other = calculated(saved("eqv2"), systems, 1), calculated(saved("eqv2"), systems, 2)
    assert any((a[1] != b[1]).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["eqv2", "gemnet-all"])
def test_threads_and_parts_change_nothing(name, bundled, loaded, systems):
    structures = [Structure.from_ase(atoms) for atoms in systems]
    whole = loaded(name, "float64").predict(structures, embeddings=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = load_model(bundled(name), dtype="float64")
        model.cached_edges = 300
        found = model.predict(structures, embeddings=True)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(whole, found, strict=True):
        assert a.energy == pytest.approx(b.energy, rel=1e-9)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-8)
        np.testing.assert_allclose(a.node_embedding, b.node_embedding, atol=1e-8)


@pytest.mark.parametrize("name", ["eqv2", "eqv2-old", "gemnet-all", "gemnet-direct", "gemnet-hydra"])
def test_every_operation_takes_mixed_precision(name, bundled, systems):
    """``amp`` is for GPUs; the types that meet in bfloat16 are the same on a CPU."""
    structures = [Structure.from_ase(atoms) for atoms in systems]
    model = load_model(bundled(name))  # its own: it is changed
    exact = np.concatenate([found.forces for found in model.predict(structures)])
    model.amp = True
    found = np.concatenate([found.forces for found in model.predict(structures, embeddings=True)])
    assert 0 < np.abs(found - exact).mean() < 0.2 * np.abs(exact).mean()


def test_edges_are_those_of_fairchem(systems):
    """Including the choice of the nearest neighbours, and of degenerate ones where the number is not strict."""
    from fairchem.core.common.utils import radius_graph_pbc
    from fairchem.core.datasets import data_list_collater
    from fairchem.core.preprocessing import AtomsToGraphs

    from rlpath_core.backends.fairchem.graph import Reach, build_graph

    for atoms in systems:
        inside = atoms.copy()
        inside.wrap(eps=0)
        data = data_list_collater([AtomsToGraphs(r_edges=False, r_pbc=True).convert(inside)], otf_graph=True)
        for most, strictly in ((500, True), (9, True), (9, False)):
            edges, images, _ = radius_graph_pbc(data, 5.0, most, strictly)
            expected = {(*edge, *image) for edge, image in zip(edges.T.tolist(), images.int().tolist(), strict=True)}
            graph = build_graph(Structure.from_ase(inside), Reach(5.0, most, strictly))
            found = {(*e, *i) for e, i in zip(graph.edges.T.tolist(), graph.images.tolist(), strict=True)}
            assert found == expected
            assert (np.diff(graph.edges[1]) >= 0).all()
