"""A disk that fills up in the middle of a run: one clear error, nothing lost, and a resume ends with the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlpath_core.config import check
from rlpath_core.errors import TransientError
from rlpath_core.sampling import sample
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.store import Store
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel

FILES = ("steps.jsonl", "basins.jsonl", "dft_queue.jsonl")
CONFIG = {"walkers": 2, "steps": 24, "quench": "none", "md": {"enabled": False}, "walk": {"policy": "accept"}}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kilobytes", [0, 24, 60])
def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path, copper: Structure, kilobytes: int) -> None:
    config = check(SamplingConfig, CONFIG, "x")
    with Store(tmp_path / "whole") as store:
        sample(config, EMTModel(), copper, tmp_path / "whole" / "run", store, seed=1)
    ballast = small_disk / "ballast"
    with Store(small_disk) as store:
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - 1024 * kilobytes)))
        with pytest.raises(TransientError, match="make room, then --resume") as error:
            sample(config, EMTModel(), copper, small_disk / "run", store, seed=1)
        assert str(small_disk / "run") in str(error.value)
    ballast.unlink()
    with Store(small_disk) as store:
        summary = sample(config, EMTModel(), copper, small_disk / "run", store, seed=1, resume=True)
    assert summary.attempts_total == 24
    for name in FILES:
        assert (small_disk / "run" / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes()
