"""The device that a config names."""

from __future__ import annotations

from rlpath_core.errors import InputError


def resolve_device(device: str) -> str:
    """``auto`` becomes cuda if there is a GPU, else cpu. InputError for a GPU that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise InputError(f"{device} was asked for and there is no GPU here: choose cpu or auto", key="device")
        index = device.partition(":")[2]
        if index and int(index) >= torch.cuda.device_count():
            raise InputError(f"there is no {device}: {torch.cuda.device_count()} GPU(s) are here", key="device")
    elif device != "cpu":
        raise InputError(f"choose cuda, cuda:N, cpu or auto, got {device!r}", key="device")
    return device
