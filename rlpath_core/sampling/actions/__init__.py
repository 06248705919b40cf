"""Actions: how an attempt displaces a structure. Registered by the names of the config's action blocks."""

from rlpath_core.sampling.actions.base import ACTIONS, Action, ActionContext, Move
from rlpath_core.sampling.actions.collective import MD, Jitter
from rlpath_core.sampling.actions.fragment import DihedralTwist, PushPull, RigidRotate, RigidTranslate, SiteHop

__all__ = [
    "ACTIONS",
    "Action",
    "DihedralTwist",
    "Jitter",
    "MD",
    "Move",
    "PushPull",
    "RigidRotate",
    "RigidTranslate",
    "ActionContext",
    "SiteHop",
]
