"""Systems of every kind of cell."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS, triclinic


@pytest.fixture(params=list(SYSTEMS))
def system(request: pytest.FixtureRequest) -> Structure:
    return SYSTEMS[request.param]()


@pytest.fixture
def copper() -> Structure:
    return triclinic()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
