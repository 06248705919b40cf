"""A campaign: the loop's stages as plain functions, its folder, its rounds and its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.campaign.campaign import Campaign, check_environments, load_campaign, open_campaign

__all__ = ["Campaign", "check_environments", "load_campaign", "open_campaign"]

__getattr__ = loader(
    __name__,
    {
        "Campaign": "campaign",
        "check_environments": "campaign",
        "load_campaign": "campaign",
        "open_campaign": "campaign",
    },
)
