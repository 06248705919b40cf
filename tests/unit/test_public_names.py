"""``import rlpath_core`` offers the public names, and loads what stands behind one only when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rlpath_core

LIGHT = """
import sys, rlpath_core
print(sorted({"numpy", "ase", "pydantic", "sqlalchemy", "torch", "prefect"} & set(sys.modules)))
"""


@pytest.mark.parametrize("name", rlpath_core.__all__)
def test_a_public_name_is_what_its_package_defines(name: str) -> None:
    thing = getattr(rlpath_core, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("rlpath_core.")
    assert name in dir(rlpath_core)


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        rlpath_core.smaple


def test_importing_it_loads_nothing_else() -> None:
    answer = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
