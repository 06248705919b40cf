"""Faster implementations of MACE networks: the same function of the same weights.

=================== ============================================================= =================================
implementation      what it does                                                  when
=================== ============================================================= =================================
e3nn                mace's own network                                            none of the others fits
fused convolution   sums messages first; derivatives of any order                 everywhere, in training too
compiled for CPUs   tables and compiled loops; no second derivatives              prediction, CPU, float32, numba
cuequivariance      NVIDIA's kernels                                              prediction, GPU, where installed
=================== ============================================================= =================================
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from rlpath_core.errors import InputError

SETTING = "RLPATH_MACE_ACCELERATION"
PLAIN, FUSED, COMPILED, CUEQUIVARIANCE = "e3nn", "fused convolution", "compiled for CPUs", "cuequivariance"


def accelerate(
    net: torch.nn.Module, device: str, dtype: torch.dtype, *, training: bool = False
) -> tuple[torch.nn.Module, str]:
    """Replace parts of a MACE network, in place, by the fastest implementation for a device and a precision.

    Parameters
    ----------
    net
        mace's own network. Afterwards it can neither be pickled nor, unless ``training``, be saved.
    device
        cpu, cuda or cuda:N.
    dtype
        The precision that the network will run in.
    training
        Keep the parameters as they are and derivatives of any order.

    Returns
    -------
    net
        The network to use: ``net``, or a converted copy.
    name
        The implementation: one of the table above.

    Raises
    ------
    InputError
        $RLPATH_MACE_ACCELERATION is neither ``on`` (the default) nor ``off``, which leaves the network as it is.

    Notes
    -----
    Energies and forces are those of the plain network to rounding; tables are exact to a few parts in ten million.
    """
    if not _wanted():
        return net, PLAIN
    from rlpath_core.backends.mace.acceleration.convolution import FusedConvolution, fuse_convolutions

    if not training and device.startswith("cuda"):
        from rlpath_core.backends.mace.acceleration.cuequivariance import has_kernels, with_cuequivariance

        converted = with_cuequivariance(net, device.partition(":")[0]) if has_kernels() else net
        if converted is not net:
            return fuse_convolutions(converted), CUEQUIVARIANCE
    if not training and device == "cpu" and dtype == torch.float32 and find_spec("numba") is not None:
        from rlpath_core.backends.mace.acceleration import compiled

        net = compiled.compile_for_cpu(net)
        if _has(net, *compiled.REPLACEMENTS):
            return net, COMPILED
    net = fuse_convolutions(net)
    return net, FUSED if _has(net, FusedConvolution) else PLAIN


def _has(net: torch.nn.Module, *kinds: type) -> bool:
    return any(isinstance(module, kinds) for module in net.modules())


def _wanted() -> bool:
    value = os.environ.get(SETTING, "on").strip().lower() or "on"
    if value not in ("on", "off"):
        raise InputError(f"choose on or off, got {value!r}", key=f"${SETTING}")
    return value == "on"
