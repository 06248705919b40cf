"""Proposals: where saddle searches begin. Registered by the names of the config's ``proposals`` block."""

from rlpath_core.paths.proposals.base import PROPOSALS, KnownMinimum, KnownSaddle, Landscape, Proposal
from rlpath_core.paths.proposals.bonds import BondChanges
from rlpath_core.paths.proposals.displacements import Displacements
from rlpath_core.paths.proposals.images import SaddleImages
from rlpath_core.paths.proposals.pairs import Pairs
from rlpath_core.paths.proposals.soft_modes import SoftModes

__all__ = [
    "PROPOSALS",
    "BondChanges",
    "Displacements",
    "KnownMinimum",
    "KnownSaddle",
    "Landscape",
    "Pairs",
    "Proposal",
    "SaddleImages",
    "SoftModes",
]
