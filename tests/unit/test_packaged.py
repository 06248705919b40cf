"""The files that come with rlpath, in a checkout. tests/integration/test_wheel.py has the same of the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rlpath_core.packaged import packaged

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_uses_its_own_files() -> None:
    assert packaged("configs/al_loop.yaml") == ROOT / "configs" / "al_loop.yaml"
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        packaged("configs/no-such-file.yaml")


def test_the_wheel_takes_every_file_to_the_place_it_has_here() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert taken
    for here, there in taken.items():
        assert (ROOT / here).exists()
        assert there == f"rlpath_core/packaged/{here}"
