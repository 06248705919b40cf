"""Marks that imply others, and the programs of ``tests/programs``, which tests start as processes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

PROGRAMS = Path(__file__).with_name("programs")
settings.register_profile("rlpath", deadline=None, derandomize=True)  # however busy the machine, the same examples
settings.load_profile("rlpath")


def pytest_configure() -> None:
    """A shell starts background jobs deaf to Ctrl-C, and so are their children: some tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``-m "not slow"`` leaves out what needs a server, runs real programs, or is nightly."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("flows", "integration", "nightly")):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def program() -> Callable[..., list[str]]:
    """``program("hold_lock", path)``: the command line of ``tests/programs/hold_lock.py`` in this interpreter."""

    def command(name: str, *words: str | Path | int) -> list[str]:
        path = PROGRAMS / f"{name}.py"
        assert path.is_file()
        return [sys.executable, str(path), *map(str, words)]

    return command
