"""torch_scatter and torch_sparse where no compiled ones are: plain torch for what FairChem's networks use of them.

Both are only on the registry as source, and take half an hour to compile.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = Path(__file__).parent / "packages"
NAMES = ("torch_scatter", "torch_sparse")


def provide() -> None:
    """Make ``import torch_scatter`` and ``import torch_sparse`` succeed; to be called before fairchem is imported.

    The stand-ins go to the end of ``sys.path``: a compiled package is found before them, and data loaders' workers
    inherit the path, spawned ones too. Calling it again changes nothing.
    """
    if str(PACKAGES) not in sys.path and any(name not in sys.modules and find_spec(name) is None for name in NAMES):
        sys.path.append(str(PACKAGES))
