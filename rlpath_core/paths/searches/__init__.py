"""Saddle searches, each straight-line code over an evaluator; a config names them."""

from rlpath_core.paths.searches.band import Band
from rlpath_core.paths.searches.base import SEARCHES, Found, Guess, Search, SearchEnded, Surface
from rlpath_core.paths.searches.dimer import Dimer
from rlpath_core.paths.searches.minmode import MinMode
from rlpath_core.paths.searches.sella import SellaSearch

__all__ = ["SEARCHES", "Band", "Dimer", "Found", "Guess", "MinMode", "Search", "SearchEnded", "SellaSearch", "Surface"]
