"""Values as they stand in the JSONL files and tables of a run: plain, floats to six digits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

DIGITS = 6


def line(value: dict[str, Any]) -> str:
    """One line of a JSONL file."""
    return json.dumps(value, allow_nan=False) + "\n"


def rounded(value: Any) -> Any:
    """Floats to 6 digits at any depth, None where they are not finite; numpy scalars and arrays as plain values."""
    if isinstance(value, dict):
        return {str(key): rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(entry) for entry in value]
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS) if np.isfinite(value) else None
    return value
