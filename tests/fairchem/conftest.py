"""What needs FairChem itself: `.venv-fairchem/bin/python -m pytest tests/fairchem`, which `make test` runs."""

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = find_spec("fairchem") is not None
if HERE:
    from rlpath_core.backends.fairchem.stand_in import provide

    provide()


class Elsewhere(pytest.Module):
    """A file for the other environment: one skip that says so; nothing of it is imported."""

    def collect(self):
        pytest.skip(
            "fairchem-core is not here: `make fairchem`, .venv-fairchem/bin/python -m pytest tests/fairchem",
            allow_module_level=True,
        )


def pytest_pycollect_makemodule(module_path: Path, parent):
    return None if HERE else Elsewhere.from_parent(parent, path=module_path)
