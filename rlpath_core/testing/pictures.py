"""What this machine lacks for drawing: tests of pictures are skipped with these reasons."""

from __future__ import annotations

import ctypes
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

DRIVER_FOLDERS = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")


def missing_for(renderer: str, film: bool = False) -> list[str]:
    """What has to be installed before ``renderer`` ("ovito" or "blender") can draw, and a film be encoded."""
    missing = []
    if renderer == "ovito":
        if find_spec("ovito") is None:
            missing.append("the PyPI package ovito (requirements/viz.lock)")
        if not _vulkan():
            missing.append("the Debian packages libvulkan1 and mesa-vulkan-drivers")
    elif shutil.which("blender") is None and find_spec("bpy") is None:
        missing.append("the Debian package blender, or the PyPI package bpy")
    if film and shutil.which("ffmpeg") is None:
        missing.append("the Debian package ffmpeg")
    return missing


def _vulkan() -> bool:
    """Whether the Vulkan loader and at least one driver are installed."""
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError:
        return False
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    return bool(named) or any(any(Path(folder).glob("*.json")) for folder in DRIVER_FOLDERS)
