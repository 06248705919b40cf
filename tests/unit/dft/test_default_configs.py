"""configs/dft.yaml and configs/outbox.yaml show the defaults, all of them, and only them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlpath_core.config import Section, check, read_mapping
from rlpath_core.dft.launchers.slurm import SlurmOptions
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.resolve import resolve_dft
from rlpath_core.outbox.options import OutboxConfig

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(("name", "section"), [("dft", DftConfig), ("outbox", OutboxConfig)])
def test_the_file_shows_the_defaults(name: str, section: type[Section]) -> None:
    path = CONFIGS / f"{name}.yaml"
    config, default = check(section, read_mapping(path), path), section()
    if isinstance(default, DftConfig):
        default = resolve_dft(default, path)
    assert config == default
    assert set(read_mapping(path)) == set(section.model_fields)


def test_the_slurm_file_shows_its_launchers_options() -> None:
    path = CONFIGS / "slurm.yaml"
    config = resolve_dft(check(DftConfig, read_mapping(path), path), path)
    assert config.launcher_options == SlurmOptions().model_dump(mode="json")
    assert set(read_mapping(path)["launcher_options"]) == set(SlurmOptions.model_fields)
