"""A job's identity: asking twice for the same calculation is asking once."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rlpath_core.structure import Structure


def job_id(structure_id: str, engine: str, settings: dict[str, Any]) -> str:
    """sha256, in hex, of structure id, engine and resolved settings; key order does not matter."""
    value = {"structure": structure_id, "engine": engine, "settings": settings}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(b"rlpath-job-1" + text.encode()).hexdigest()


def to_json(structure: Structure) -> dict[str, Any]:
    """Every array of a structure; JSON keeps all digits of a float64."""
    return {name: array.tolist() for name, array in structure.arrays().items()}
