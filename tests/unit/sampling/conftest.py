"""A model, and a run of the sampler in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlpath_core.config import check
from rlpath_core.sampling import sample
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.store import Store
from rlpath_core.testing.emt import EMTModel


@pytest.fixture
def model() -> EMTModel:
    return EMTModel()


@pytest.fixture
def run(tmp_path: Path, model: EMTModel):
    """``run(structure, name="a", seed=1, resume=False, **config)`` samples into tmp_path/name, its own store."""

    def go(structure, name: str = "a", seed: int = 1, resume: bool = False, using: EMTModel | None = None, **config):
        folder = tmp_path / name
        with Store(folder) as store:
            return sample(
                check(SamplingConfig, config, "test"),
                using or model,
                structure,
                folder / "run",
                store,
                seed=seed,
                resume=resume,
            )

    return go
