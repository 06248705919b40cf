"""Proposals: where saddle searches begin."""

from rlpath_core.paths.proposals.base import PROPOSALS, KnownMinimum, KnownSaddle, Landscape, Proposal

__all__ = ["PROPOSALS", "KnownMinimum", "KnownSaddle", "Landscape", "Proposal"]
