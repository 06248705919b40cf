"""MACE networks from model.json: built, filled with statistics of the data, restored from a state_dict.

``mace`` comes before ``e3nn``: e3nn 0.4.4 reads its constants without ``weights_only`` and needs the variable that
mace sets. Every load here passes weights_only=True.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mace.modules
import numpy as np
import torch
from ase.data import chemical_symbols
from e3nn import o3
from mace.modules.wrapper_ops import CUET_AVAILABLE
from numpy.typing import NDArray

from rlpath_core.backends.mace.agreement import with_exact_values
from rlpath_core.backends.mace.architecture import Architecture, ScaleShift
from rlpath_core.backends.tensors import DTYPES as DTYPES
from rlpath_core.data.batches import Graph
from rlpath_core.errors import InputError

log = logging.getLogger("rlpath.backends")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(architecture: Architecture, dtype: torch.dtype, seed: int = 0) -> torch.nn.Module:
    """A network with random weights from ``seed``; the global generator is left as it was.

    ``e0_values``, ``avg_num_neighbors`` and ``scale_shift`` must be known: see ``with_statistics``.
    """
    a = architecture
    if a.e0_values is None or a.avg_num_neighbors is None or (a.scale_shift is None and a.model_type != "MACE"):
        raise InputError(
            "e0_values, avg_num_neighbors and scale_shift must be given to rebuild a network", "model.json"
        )
    last = a.readouts[-1]
    options: dict[str, Any] = {
        "r_max": a.cutoff,
        "num_bessel": a.num_radial_basis,
        "num_polynomial_cutoff": a.num_polynomial_cutoff,
        "max_ell": a.max_ell,
        "interaction_cls": mace.modules.interaction_classes[a.interactions[-1].type],
        "interaction_cls_first": mace.modules.interaction_classes[a.interactions[0].type],
        "num_interactions": a.num_interactions,
        "num_elements": len(a.z_table),
        "hidden_irreps": o3.Irreps(a.hidden_irreps),
        "MLP_irreps": o3.Irreps(last.mlp_irreps or "16x0e"),
        "atomic_energies": a.e0_table,
        "avg_num_neighbors": a.avg_num_neighbors,
        "atomic_numbers": a.z_table,
        "correlation": [product.correlation for product in a.products],
        "gate": mace.modules.gate_dict[last.gate or "silu"],
        "pair_repulsion": a.pair_repulsion,
        "apply_cutoff": a.apply_cutoff,
        "use_reduced_cg": a.use_reduced_cg,
        "use_so3": a.use_so3,
        "use_agnostic_product": a.use_agnostic_product,
        "use_last_readout_only": a.use_last_readout_only,
        "distance_transform": a.distance_transform,
        "edge_irreps": None if a.edge_irreps is None else o3.Irreps(a.edge_irreps),
        "use_edge_irreps_first": a.use_edge_irreps_first,
        "radial_MLP": a.interactions[0].radial_mlp,
        "radial_type": a.radial_type,
        "heads": a.heads,
        "keep_last_layer_irreps": a.keep_last_layer_irreps,
    }
    if last.type != "LinearReadoutBlock":
        options["readout_cls"] = mace.modules.readout_classes[last.type]
    with _default_dtype(dtype), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # e3nn's annotations make TorchScript warn a dozen times for every network
        warnings.filterwarnings("ignore", message="The TorchScript type system", category=UserWarning)
        torch.manual_seed(seed)
        try:
            if a.scale_shift is not None and a.model_type == "ScaleShiftMACE":
                scale, shift = a.scale_shift.scale, a.scale_shift.shift
                net = mace.modules.ScaleShiftMACE(atomic_inter_scale=scale, atomic_inter_shift=shift, **options)
            else:
                net = mace.modules.MACE(**options)
        except (ValueError, AssertionError, IndexError, RuntimeError) as error:
            raise InputError(
                f"mace cannot build this network ({type(error).__name__}: {error})", "model.json"
            ) from error
    # mace builds parts of a network in double whatever the default is
    return net.to(dtype)


def restore(architecture: Architecture, state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.nn.Module:
    """The network with the weights of ``state``; InputError where names or shapes do not fit.

    Where cuequivariance is not installed, mace makes a network in the full basis of its products whatever
    ``use_reduced_cg`` says: which basis it was is seen from the weights.
    """
    net = build(architecture, dtype)
    try:
        net.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        if architecture.use_reduced_cg and CUET_AVAILABLE:
            return restore(architecture.model_copy(update={"use_reduced_cg": False}), state, dtype)
        raise InputError(f"the weights do not fit model.json: {error}") from error
    return net


def state_of(net: torch.nn.Module, architecture: Architecture) -> dict[str, torch.Tensor]:
    """A plain state_dict on the CPU, detached; energies of atoms, scale and shift in float64."""
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in net.state_dict().items()}
    return with_exact_values(architecture, state)


def least_squares_e0s(
    compositions: NDArray[np.float64], energies: NDArray[np.float64], elements: Sequence[int]
) -> list[float]:
    """Energies per element (eV) that fit total energies best; compositions [n_structures, n_elements].

    An element without data gets 0. Combinations that the data cannot tell apart get the solution of least norm.
    """
    solution = np.linalg.lstsq(compositions, energies, rcond=None)[0]
    return [float(e0) for e0 in np.where(compositions.any(axis=0), solution, 0.0)[: len(elements)]]


def _fitted_e0s(
    architecture: Architecture, compositions: NDArray[np.float64], energies: NDArray[np.float64]
) -> list[float] | list[list[float]]:
    """By least squares; elements without data keep what model.json gives them, or get 0, which is said."""
    fitted = least_squares_e0s(compositions, energies, architecture.z_table)
    absent = ~compositions.any(axis=0)
    if not absent.any():
        return fitted
    names = ", ".join(chemical_symbols[z] for z in np.array(architecture.z_table)[absent])
    if architecture.e0_values is None:
        log.info("no structure holds %s: the energies of these free atoms are 0 eV; total energies mean little", names)
        return fitted
    log.info("no structure holds %s: the energies of these free atoms are those of model.json", names)
    table: NDArray[np.float64] = np.where(absent, architecture.e0_table, fitted)
    rows: list[list[float]] = table.tolist()
    return rows if len(architecture.heads) > 1 else rows[0]


def with_statistics(
    architecture: Architecture,
    graphs: Sequence[Graph],
    energies: NDArray[np.float64] | None,
    forces: Sequence[NDArray[np.float64]] | None,
    e0s: str,
) -> Architecture:
    """``architecture`` with what it left to the data.

    e0s is ``given`` or ``lstsq``. avg_num_neighbors is the mean number of edges per atom, scale the root mean square
    force component (eV/Å), shift the mean energy per atom beyond the free atoms' (eV), as MACE itself takes them.
    Without forces, scale is the standard deviation of the energies per atom about the shift, as of MACE's std_scaling;
    without energies, the shift and fitted energies of free atoms are 0.
    """
    known: dict[str, Any] = {}
    n_atoms = np.array([len(g) for g in graphs])
    compositions = np.array([np.bincount(g.species, minlength=len(architecture.z_table)) for g in graphs], float)
    if e0s == "lstsq":
        if energies is None:
            log.info("no energies to fit those of free atoms to: they are 0, and the model's energies mean nothing")
            known["e0_values"] = [0.0] * len(architecture.z_table)
        else:
            known["e0_values"] = _fitted_e0s(architecture, compositions, energies)
    elif architecture.e0_values is None:
        raise InputError(
            "is missing: give the energies of free atoms, or choose train.e0s: lstsq", "model.json", "e0_values"
        )
    e0_table = architecture.model_copy(update=known).e0_table
    if architecture.avg_num_neighbors is None:
        known["avg_num_neighbors"] = max(float(sum(g.n_edges for g in graphs) / n_atoms.sum()), 1.0)
    if architecture.scale_shift is None and architecture.model_type == "ScaleShiftMACE":
        per_atom = [np.zeros(1) if energies is None else (energies - compositions @ e0) / n_atoms for e0 in e0_table]
        shift = [float(np.mean(one)) for one in per_atom]
        if forces is None:
            scale = float(np.std(per_atom[0])) or 1.0
        else:
            scale = float(np.sqrt(np.mean(np.concatenate([f.ravel() for f in forces]) ** 2))) or 1.0
        single = len(shift) == 1
        known["scale_shift"] = ScaleShift(
            scale=scale if single else [scale] * len(shift), shift=shift[0] if single else shift
        )
    return architecture.model_copy(update=known)
