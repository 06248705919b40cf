"""Reaction paths: where saddle searches begin, the searches, what proves a saddle, and what is known by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.paths.run import find_paths
    from rlpath_core.paths.summary import PathsSummary

__all__ = ["PathsSummary", "find_paths"]

__getattr__ = loader(__name__, {"PathsSummary": "summary", "find_paths": "run"})
