"""Where the files that come with rlpath are: default configs, starter models, the deployments.

The wheel holds them in ``rlpath_core/packaged/``, a checkout at its top, in the same places relative to each other.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve()


def packaged(name: str) -> Path:
    """The path of a file or folder that comes with rlpath.

    Parameters
    ----------
    name
        Its path in the repository, such as ``"configs/al_loop.yaml"``.

    Raises
    ------
    FileNotFoundError
        If there is none of that name: neither in the package nor in the checkout it is imported from.
    """
    for folder in (_HERE.with_suffix(""), _HERE.parents[1]):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"rlpath comes with no {name}: looked beside {_HERE}")
