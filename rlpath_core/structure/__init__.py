"""Atomic structures: one frozen type, its content id, and reading and writing it."""

from rlpath_core.structure.io import read_images, read_structure, read_structures
from rlpath_core.structure.structure import Structure

__all__ = ["Structure", "read_images", "read_structure", "read_structures"]
