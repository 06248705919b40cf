"""NVIDIA's kernels for MACE on a GPU, if cuequivariance-torch and cuequivariance-ops-torch-cu12 are installed."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

log = logging.getLogger("rlpath.backends")


def has_kernels() -> bool:
    """Whether cuequivariance and its compiled operations are installed; without those it is slower than e3nn."""
    return find_spec("cuequivariance_torch") is not None and find_spec("cuequivariance_ops_torch") is not None


def with_cuequivariance(net: torch.nn.Module, device: str) -> torch.nn.Module:
    """The network converted to cuequivariance by mace; ``net`` itself if mace cannot convert it.

    Weights change their names and shapes, so the result is for prediction and cannot be saved.
    """
    from mace.cli.convert_e3nn_cueq import run

    before = torch.get_default_dtype()
    try:
        converted: torch.nn.Module = run(net, device=device)
    except (ValueError, NotImplementedError, RuntimeError, AttributeError, KeyError) as error:
        log.warning("no cuequivariance for this network (%s: %s)", type(error).__name__, str(error)[:200])
        return net
    finally:
        torch.set_default_dtype(before)  # mace leaves the network's own behind
    return converted
