"""The database of structures, runs, calculations, labels and models, and the structures' files."""

from rlpath_core.store import orm, queries
from rlpath_core.store.store import Store, find_store, insert_new

__all__ = ["Store", "find_store", "insert_new", "orm", "queries"]
