"""Proposals: where saddle searches begin. Registered by the names of the config's ``proposals`` block."""

from rlpath_core.paths.proposals.base import PROPOSALS, KnownMinimum, KnownSaddle, Landscape, Proposal
from rlpath_core.paths.proposals.displacements import Displacements
from rlpath_core.paths.proposals.soft_modes import SoftModes

__all__ = [
    "PROPOSALS",
    "Displacements",
    "KnownMinimum",
    "KnownSaddle",
    "Landscape",
    "Proposal",
    "SoftModes",
]
