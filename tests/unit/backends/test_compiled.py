"""Tables, compiled messages and polynomials against the network that they stand for, in double precision."""

import copy

import numpy as np
import pytest
import torch

from rlpath_core.backends.mace.acceleration.compiled import can_tabulate, compile_for_cpu
from rlpath_core.backends.mace.architecture import Interaction, Product
from rlpath_core.backends.mace.build import build
from rlpath_core.backends.mace.model import MaceModel
from rlpath_core.data.batches import build_graph, collate
from rlpath_core.structure import Structure
from rlpath_core.testing.networks import small_mace

AGNOSTIC = "RealAgnosticInteractionBlock"


def network(dtype=torch.float32, **changes):
    architecture = small_mace(**changes)
    return architecture, build(architecture, dtype, seed=4)


def structures():
    generator = np.random.default_rng(5)
    slab = generator.permutation(np.repeat([12, 8], 6))
    corners = np.array([[x, y, z] for x in (0, 2.1) for y in (0, 2.1) for z in (0, 2.1, 4.2)])
    periodic = Structure(slab, corners + generator.normal(0, 0.15, (12, 3)), np.diag([4.2, 4.2, 20.0]), [1, 1, 0])
    water = Structure([8, 1, 1], [[0, 0, 0.1], [0, 0.76, -0.48], [0, -0.76, -0.45]], np.zeros((3, 3)), [0, 0, 0])
    alone = Structure([8], [[0.0, 0, 0]], np.zeros((3, 3)), [0, 0, 0])
    return [periodic, water, alone]


def asked(architecture, net, given):
    numbers = np.array(architecture.z_table)
    dtype = next(net.parameters()).dtype
    batch = collate([build_graph(s, architecture.cutoff, numbers) for s in given], len(numbers), dtype, "cpu")
    return batch, net(batch, training=False, compute_force=True)


ARCHITECTURES = {
    "two layers": {},
    "scalars alone, one layer": {
        "hidden_irreps": "8x0e", "num_interactions": 1, "interactions": [], "products": [], "readouts": [],
    },
    "up to l = 2, edges to l = 3": {"hidden_irreps": "4x0e+4x1o+4x2e", "max_ell": 3},
    "four-body": {"products": [Product(correlation=3)] * 2, "max_ell": 3},
    "two-body": {"products": [Product(correlation=1)] * 2},
    "both orders": {"products": [Product(correlation=3), Product(correlation=1)]},
    "three layers, gaussians": {
        "num_interactions": 3, "interactions": [], "products": [], "readouts": [], "radial_type": "gaussian",
    },
    "envelope after the network": {"apply_cutoff": False},
    "repulsion": {"pair_repulsion": True},
    "one product for all elements": {"use_agnostic_product": True},
}  # fmt: skip


def block(name):
    return [Interaction(type="RealAgnosticInteractionBlock", radial_mlp=[16]), Interaction(type=name, radial_mlp=[16])]


WITHOUT_TABLES = {
    "lengths changed by element": {"distance_transform": "Agnesi"},
    "densities": {"interactions": block("RealAgnosticDensityResidualInteractionBlock")},
    "attention": {"interactions": block("RealAgnosticAttResidualInteractionBlock")},
    "densities, lengths changed by element": {
        "interactions": block("RealAgnosticDensityResidualInteractionBlock"), "distance_transform": "Agnesi",
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [*ARCHITECTURES.values(), *WITHOUT_TABLES.values()], ids=[*ARCHITECTURES, *WITHOUT_TABLES]
)
def test_equals_the_network_in_double_precision(changes):
    architecture, net = network(**changes)
    given = structures()
    _, exact = asked(architecture, copy.deepcopy(net).double(), given)
    _, plain = asked(architecture, copy.deepcopy(net), given)
    _, found = asked(architecture, compile_for_cpu(net), given)
    assert exact["forces"].abs().max() > 0.01
    for name in ("forces", "interaction_energy", "node_feats"):
        unavoidable = (plain[name] - exact[name]).abs().max()
        assert (found[name] - exact[name]).abs().max() < 3 * unavoidable + 1e-5 * exact[name].abs().max(), name


def test_edges_in_any_order():
    architecture, net = network()
    compile_for_cpu(net)
    batch, wanted = asked(architecture, net, structures())
    order = torch.randperm(batch["edge_index"].shape[1], generator=torch.Generator().manual_seed(1))
    mixed = batch | {"edge_index": batch["edge_index"][:, order], "shifts": batch["shifts"][order]}
    mixed["positions"] = batch["positions"].detach().clone()
    found = net(mixed, training=False, compute_force=True)
    torch.testing.assert_close(found["forces"], wanted["forces"], rtol=1e-4, atol=1e-5)


def test_what_an_atom_gets_does_not_depend_on_the_batch():
    architecture, net = network()
    model = MaceModel(net, architecture)
    together = model.predict(structures() * 3)
    alone = [model.predict([s])[0] for s in structures()] * 3
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-5)


def test_broken_positions_give_broken_forces_and_no_crash():
    architecture, net = network()
    batch, _ = asked(architecture, copy.deepcopy(net), structures())
    broken = batch | {"positions": batch["positions"].detach().clone()}
    broken["positions"][0] = float("nan")
    broken["positions"][3] *= 1e6
    assert not torch.isfinite(compile_for_cpu(net)(broken, training=False, compute_force=True)["forces"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("changes", WITHOUT_TABLES.values(), ids=list(WITHOUT_TABLES))
def test_no_tables_where_lengths_do_not_decide(changes):
    assert not can_tabulate(network(**changes)[1])
    assert can_tabulate(network()[1])


@pytest.mark.slow
def test_double_precision_is_left_to_the_network():
    architecture, net = network(torch.float64)
    first = MaceModel(copy.deepcopy(net), architecture).predict(structures())[0]
    _, exact = asked(architecture, net, structures())
    np.testing.assert_allclose(first.forces, exact["forces"][:12].detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_second_derivatives_are_refused():
    architecture, net = network()
    batch, _ = asked(architecture, copy.deepcopy(net), structures())
    again = batch | {"positions": batch["positions"].detach().clone()}
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        compile_for_cpu(net)(again, training=True, compute_force=True)
