"""One temporary Prefect server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness  # seconds to import, also for tests that are left out

    with prefect_test_harness(server_startup_timeout=120):
        yield
