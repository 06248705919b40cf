"""Sampling: walkers that displace, relax and identify structures, and queue what the model probably gets wrong."""

from rlpath_core.sampling.run import SamplingSummary, sample

__all__ = ["SamplingSummary", "sample"]
