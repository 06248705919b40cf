"""A campaign: the loop's stages as plain functions, its folder, its rounds and its report."""

from rlpath_core.campaign.campaign import Campaign, load_campaign, open_campaign

__all__ = ["Campaign", "load_campaign", "open_campaign"]
