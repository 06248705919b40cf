"""Periodic geometry of structures: cells, neighbours, bonds, fragments, slabs."""
