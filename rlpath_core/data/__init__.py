"""Labelled structures: OC20/OC22-form LMDB files, extxyz, index controls, batches of graphs."""

from rlpath_core.data.io import open_labelled, read_labelled, write_extxyz, write_labelled
from rlpath_core.data.labelled import Labelled
from rlpath_core.data.lmdb import S2EFReader, S2EFWriter

__all__ = [
    "Labelled",
    "S2EFReader",
    "S2EFWriter",
    "open_labelled",
    "read_labelled",
    "write_extxyz",
    "write_labelled",
]
