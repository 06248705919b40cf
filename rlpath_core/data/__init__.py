"""Labelled structures: OC20/OC22-form LMDB files, extxyz, index controls, batches of graphs."""

from rlpath_core.data.labelled import Labelled, read_labelled, write_extxyz
from rlpath_core.data.lmdb import S2EFReader, S2EFWriter

__all__ = ["Labelled", "S2EFReader", "S2EFWriter", "read_labelled", "write_extxyz"]
