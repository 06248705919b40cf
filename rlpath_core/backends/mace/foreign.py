"""Models from elsewhere: a pickled ``.model`` (MACE-MP, MACE-MH, ``mace_run_train``) becomes a bundle, once.

Opening such a file runs whatever code it names, so it happens only where the user vouches for the file, in one place,
and never again: from then on the bundle is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mace.modules
import numpy as np
import torch
from e3nn import o3

from rlpath_core.backends.mace.architecture import Architecture, Interaction, Product, Readout, ScaleShift
from rlpath_core.backends.mace.build import build, restore, state_of
from rlpath_core.backends.mace.bundle import FOREIGN, MANIFEST, write_bundle
from rlpath_core.backends.manifest import Source, read_manifest
from rlpath_core.data.batches import build_graph, collate
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure

SUFFIX = ".model"
ENERGY_TOLERANCE, FORCE_TOLERANCE = 1e-6, 1e-5
"""eV and eV/Å in float64: how far the rebuilt network may be from the one in the file."""


def is_foreign(path: Path) -> bool:
    return path.suffix == SUFFIX and path.is_file()


def convert_model_file(path: str | Path, folder: str | Path, *, trust_pickle: bool = False) -> tuple[Path, str]:
    """A bundle in ``folder`` with the network of ``path``; returns its manifest and digest.

    A folder that holds the bundle of this very file already is returned as it is, without opening the file's pickle.
    Raises InputError without ``trust_pickle``, for what is no MACE, and where the rebuilt network would answer
    differently from the one in the file.
    """
    path, folder = Path(path), Path(folder)
    if not path.is_file():
        raise InputError("no such file", path)
    digest = sha256_of(path)
    if (folder / MANIFEST).is_file():
        known = read_manifest(folder)
        if (known.source.format, known.source.sha256) == (FOREIGN, digest):
            return folder / MANIFEST, sha256_of(folder / MANIFEST)
        raise InputError("holds the bundle of another model: choose another folder", folder)
    if not trust_pickle:
        raise InputError(
            "is a pickled module: opening it runs whatever code it holds. If you trust where it comes from, say "
            "model.trust_pickle: true, and it is converted once into a bundle without code",
            path,
            "model.trust_pickle",
        )
    net = _unpickle(path)
    dtype = str(next(net.parameters()).dtype).removeprefix("torch.")
    try:
        architecture = architecture_of(net)
        state = _state_for(net, architecture)
        _compare(net, restore(architecture, state, torch.float64), architecture)
    except InputError as error:
        raise InputError(error.what, path, error.key) from error
    source = Source(path=None, format=FOREIGN, sha256=digest)
    head = architecture.heads[0] if len(architecture.heads) == 1 else None  # the file names none
    return write_bundle(folder, architecture, state, head=head, dtype=dtype, source=source)


def _unpickle(path: Path) -> torch.nn.Module:
    try:
        net = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle of another version of mace may raise anything
        raise InputError(f"cannot be opened with this mace ({type(error).__name__}: {error})", path) from error
    kinds = (mace.modules.MACE, mace.modules.ScaleShiftMACE)
    if type(net) not in kinds:
        raise InputError(f"holds a {type(net).__name__}; only MACE and ScaleShiftMACE can be converted", path)
    assert isinstance(net, torch.nn.Module)
    return net.eval()


def _named(table: dict[str, Any], value: Any) -> Any:
    return next((name for name, known in table.items() if known is value), None)


def _readout(block: torch.nn.Module, n_heads: int) -> Readout:
    name: Any = type(block).__name__
    if name == "LinearReadoutBlock":
        return Readout()
    parts: Any = block
    acts = parts.non_linearity.acts
    gate = _named(mace.modules.gate_dict, acts[0].f) if len(acts) else "None"
    per_head = o3.Irreps(str(parts.hidden_irreps)).count(o3.Irrep(0, 1)) // n_heads
    return Readout(type=name, mlp_irreps=f"{per_head}x0e", gate=gate)


def _correlation(product: Any) -> int:
    contractions = product.symmetric_contractions
    if not hasattr(contractions, "contractions"):
        raise InputError("is in the layout of cuEquivariance: convert it with mace_cueq_to_e3nn first")
    return len(contractions.contractions[0].weights) + 1


def _number(value: Any) -> Any:
    """A plain float, or a list of them where there are several (one per head)."""
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value, dtype=float)
    return array.tolist() if array.size > 1 else float(array.reshape(()))


def architecture_of(net: Any) -> Architecture:
    """model.json of a network that mace built; InputError for parts that model.json cannot say.

    Attributes that older versions of mace did not have get the value that those versions worked with.
    """
    from mace.tools.scripts_utils import extract_radial_MLP  # brings mace's data sets along: only where needed

    if getattr(net, "embedding_specs", None):
        raise InputError("has embeddings of charge or spin, which are not supported")
    radial = net.radial_embedding
    basis = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
    transform = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}
    heads = [str(head) for head in getattr(net, "heads", None) or ["Default"]]
    layers = list(net.interactions)
    radial_mlp = [int(n) for n in extract_radial_MLP(net)]
    edge_irreps = getattr(net, "edge_irreps", None)
    hidden = o3.Irreps(str(net.products[0].linear.irreps_out))
    scaled = isinstance(net, mace.modules.ScaleShiftMACE)
    last_out = o3.Irreps(str(net.products[-1].linear.irreps_out))
    value: dict[str, Any] = {
        "model_type": "ScaleShiftMACE" if scaled else "MACE",
        "z_table": [int(z) for z in net.atomic_numbers],
        "e0_values": net.atomic_energies_fn.atomic_energies.detach().cpu().double().numpy().tolist(),
        "cutoff": float(net.r_max),
        "num_interactions": int(net.num_interactions),
        "num_radial_basis": int(radial.out_dim),
        "radial_type": basis.get(type(radial.bessel_fn).__name__, type(radial.bessel_fn).__name__),
        "distance_transform": transform.get(type(getattr(radial, "distance_transform", None)).__name__, "None"),
        "num_polynomial_cutoff": int(radial.cutoff_fn.p),
        "interactions": [
            Interaction(type=type(layer).__name__, radial_mlp=radial_mlp)  # type: ignore[arg-type]
            for layer in layers
        ],
        "products": [Product(correlation=_correlation(product)) for product in net.products],
        "readouts": [_readout(block, len(heads)) for block in net.readouts],
        "avg_num_neighbors": _number(layers[0].avg_num_neighbors),
        "hidden_irreps": str(hidden),
        "max_ell": int(net.spherical_harmonics._lmax),
        "heads": heads,
        "pair_repulsion": hasattr(net, "pair_repulsion_fn"),
        "apply_cutoff": bool(getattr(net, "apply_cutoff", True)),
        "edge_irreps": None if edge_irreps is None else str(edge_irreps),
        "use_edge_irreps_first": bool(getattr(net, "use_edge_irreps_first", False)),
        "use_reduced_cg": bool(getattr(net, "use_reduced_cg", False)),
        "use_so3": bool(getattr(net, "use_so3", False)),
        "use_agnostic_product": bool(getattr(net, "use_agnostic_product", False)),
        "use_last_readout_only": bool(getattr(net, "use_last_readout_only", False)),
        "keep_last_layer_irreps": len(layers) > 1 and last_out == hidden and hidden.lmax > 0,
    }
    if scaled:
        value["scale_shift"] = ScaleShift(scale=_number(net.scale_shift.scale), shift=_number(net.scale_shift.shift))
    try:
        return Architecture.model_validate(value)
    except ValueError as error:
        raise InputError(f"model.json cannot describe this network: {error}") from error


def _state_for(net: torch.nn.Module, architecture: Architecture) -> dict[str, torch.Tensor]:
    """The file's weights under the names and in the shapes of a network that this mace builds.

    Buffers that older versions did not keep are constants of the architecture and taken from the new network.
    """
    dtype = next(net.parameters()).dtype
    fresh = build(architecture, dtype)
    parameters = {name for name, _ in fresh.named_parameters()}
    found, state = net.state_dict(), {}
    for name, own in fresh.state_dict().items():
        given = found.pop(name, None)
        if given is None:
            if name in parameters and own.numel():
                raise InputError(f"lacks the weights {name}")
            given = own
        if given.numel() != own.numel():
            raise InputError(f"weights {name} have shape {tuple(given.shape)}, expected {tuple(own.shape)}")
        state[name] = given.reshape(own.shape)
    surplus = [name for name, tensor in found.items() if tensor.numel()]
    if surplus:
        raise InputError(f"has weights that model.json has no place for: {', '.join(sorted(surplus)[:3])}")
    fresh.load_state_dict(state)
    return state_of(fresh, architecture)


def _compare(net: Any, rebuilt: torch.nn.Module, architecture: Architecture) -> None:
    """InputError unless both networks answer alike, for every head and with all elements in reach of each other."""
    numbers = np.array(architecture.z_table)
    side = int(np.ceil(len(numbers) ** (1 / 3)))
    grid = np.stack(np.unravel_index(np.arange(len(numbers)), (side,) * 3), axis=1).astype(float)
    positions = 0.45 * architecture.cutoff * (grid + np.random.default_rng(0).uniform(-0.15, 0.15, grid.shape))
    graph = build_graph(Structure(numbers, positions), architecture.cutoff, numbers)
    original = net.double()
    for head in range(len(architecture.heads)):
        answers = []
        for one in (original, rebuilt):
            out = one(collate([graph], len(numbers), torch.float64, "cpu", head), training=False, compute_force=True)
            answers.append((float(out["energy"].detach()), out["forces"].detach().numpy()))
        (energy, forces), (own_energy, own_forces) = answers
        if abs(energy - own_energy) > ENERGY_TOLERANCE or np.abs(forces - own_forces).max() > FORCE_TOLERANCE:
            raise InputError(
                f"the rebuilt network answers differently (by {abs(energy - own_energy):.1e} eV): "
                "this kind of model cannot be converted"
            )
