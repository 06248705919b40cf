"""Policies: where attempts start, which action they draw, what is relaxed, and what a run learns from them."""

from rlpath_core.sampling.policy.adaptive import AdaptivePolicy
from rlpath_core.sampling.policy.base import POLICIES, PlanContext, Policy, WalkSetup
from rlpath_core.sampling.policy.frontier import Frontier
from rlpath_core.sampling.policy.metropolis import Accept, Metropolis

__all__ = [
    "POLICIES",
    "Accept",
    "AdaptivePolicy",
    "Frontier",
    "Metropolis",
    "PlanContext",
    "Policy",
    "WalkSetup",
]
