"""Saddle searches, each straight-line code over an evaluator; a config names them."""

from rlpath_core.paths.searches.base import SEARCHES, Found, Guess, Search, SearchEnded, Surface

__all__ = ["SEARCHES", "Found", "Guess", "Search", "SearchEnded", "Surface"]
