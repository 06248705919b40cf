"""Sampling: walkers that displace, relax and identify structures, and queue what the model probably gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.sampling.run import SamplingSummary, sample

__all__ = ["SamplingSummary", "sample"]

__getattr__ = loader(__name__, {"SamplingSummary": "run", "sample": "run"})
