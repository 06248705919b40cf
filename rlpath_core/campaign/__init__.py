"""A campaign: the loop's stages as plain functions, its folder, its rounds and its report."""

from rlpath_core.campaign.campaign import Campaign, check_environments, load_campaign, open_campaign

__all__ = ["Campaign", "check_environments", "load_campaign", "open_campaign"]
