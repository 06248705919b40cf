from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlpath_core.errors import InputError
from rlpath_core.locks import exclusive


@pytest.fixture
def holder(program: Callable[..., list[str]]) -> Callable[[Path], subprocess.Popen[str]]:
    """``holder(path)``: a process that holds the lock."""

    def start(path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(program("hold_lock", path), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    return start


def test_a_second_holder_learns_who_the_first_is(
    tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = holder(tmp_path / "lock")
    try:
        with (
            pytest.raises(InputError, match=f"a loop is already at work: process {process.pid} "),
            exclusive(tmp_path / "lock", "a loop"),
        ):
            pytest.fail("held twice")
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]) -> None:
    process = holder(tmp_path / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with exclusive(tmp_path / "lock", "a loop"):
        pass


def test_waiting_ends_with_the_holder(tmp_path: Path, holder: Callable[[Path], subprocess.Popen[str]]) -> None:
    process = holder(tmp_path / "lock")
    said: list[str] = []
    began = time.monotonic()

    def kill(message: str) -> None:
        said.append(message)
        process.kill()
        process.wait()

    with exclusive(tmp_path / "lock", "a stage", wait=30, waiting=kill):
        pass
    assert time.monotonic() - began < 10
    assert len(said) == 1
    assert str(process.pid) in said[0]
