"""How long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Progress = Callable[[dict[str, Any]], None]
"""Called now and then with what is known by now, such as ``{"done": 3, "total": 16}``: numbers and short texts."""
