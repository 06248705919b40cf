"""Child processes that answer calls: ``child`` starts one, ``worker`` runs inside it, ``wire`` is the format between.

A worker may run in a Python that has nothing of rlpath, so ``wire`` and ``worker`` use the standard library alone.
"""
