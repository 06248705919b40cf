"""The script of one job: it measures and reports the same on any node, in any locale, in any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rlpath_core.dft.launchers import Event, Submission, script

PROGRAMS = ("bash", "sh", "cat", "date", "env", "flock", "mv", "sleep", "timeout", "uname")
"""What the script and the commands of these tests may use: coreutils and flock, no awk, no hostname."""
ODD = """ -a b %j %% 'q' "d" $HOME `ls` ü\N{SNOWMAN};&|*?#\\x """
LOCALES = Path("/usr/share/i18n/locales/de_DE")


@pytest.fixture
def bare_node(tmp_path: Path) -> dict[str, str]:
    """The environment of a node that has little installed, and a HOSTNAME exported on another machine."""
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(tmp_path / "bin"), "HOSTNAME": "login7", "HOME": str(tmp_path)}


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that make programs write a decimal comma."""
    if not LOCALES.exists() or shutil.which("localedef") is None:
        pytest.skip("the sources of the German locale are not installed")
    made = tmp_path_factory.mktemp("locales") / "de_DE.UTF-8"
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(made)], check=True, capture_output=True)
    variables = {"LOCPATH": str(made.parent), "LC_ALL": "de_DE.UTF-8"}
    printed = subprocess.run(
        ["bash", "-c", "printf %.1f 1,5"], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert printed.stdout == "1,5"
    return variables


def run(folder: Path, command: str, environment: dict[str, str], wall: float = 60.0) -> Event:
    folder.mkdir(parents=True, exist_ok=True)
    task = Submission("x", folder, ("sh", "-c", command))
    done = subprocess.run(["bash", str(script.write_script(task, wall, 1))], env=environment, capture_output=True)
    assert b"not found" not in done.stderr, done.stderr
    end = script.end_of(task, wall)
    assert end is not None, done.stderr
    return end


def test_a_bare_node(tmp_path: Path, bare_node: dict[str, str]) -> None:
    end = run(tmp_path / "job", "sleep 0.3", bare_node)
    assert end.reason is None
    assert end.seconds == pytest.approx(0.3, abs=0.2)
    assert f'"{os.uname().nodename}"' in (tmp_path / "job" / "ended.1.json").read_text()


def test_a_node_without_flock(tmp_path: Path, bare_node: dict[str, str]) -> None:
    """Nothing runs unlocked."""
    (tmp_path / "bin" / "flock").unlink()
    (tmp_path / "job").mkdir()
    task = Submission("x", tmp_path / "job", ("sh", "-c", "echo > ran"))
    done = subprocess.run(["bash", str(script.write_script(task, 9.0, 1))], env=bare_node, capture_output=True)
    assert b"flock is not installed" in done.stderr
    assert not (tmp_path / "job" / "ran").exists()


@pytest.mark.parametrize("command", ["sleep 0.3", "sleep 30"])
def test_a_decimal_comma(tmp_path: Path, german: dict[str, str], command: str) -> None:
    end = run(tmp_path / "job", command, {**os.environ, **german}, wall=1.0)
    seconds, cause = (0.3, None) if command == "sleep 0.3" else (1.0, "wall")
    assert (end.cause, end.seconds) == (cause, pytest.approx(seconds, abs=0.25))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("4.25", 4.25), ("4,25", 4.25), ("", 7.0)],
    ids=["as now", "by 0.2 in a German locale", "by 0.2 without awk"],
)
def test_end_marks_that_wait_to_be_read(tmp_path: Path, written: str, seconds: float) -> None:
    task = Submission("x", tmp_path, ("true",))
    script.claim_of(task).write_text("node 12 \n")
    script.ended_of(task).write_text(f'{{"exit_code": 124, "seconds": {written}, "host": "node"}}\n')
    os.utime(script.claim_of(task), (1e9, 1e9))
    os.utime(script.ended_of(task), (1e9 + 7, 1e9 + 7))
    end = script.end_of(task, 4.0)
    assert end is not None
    assert (end.cause, end.seconds) == ("wall", seconds)


def test_a_folder_with_an_odd_name(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    assert run(folder, "echo here > there", dict(os.environ)).reason is None
    assert (folder / "there").exists()


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_a_program_that_finds_no_room(tmp_path: Path, words: str) -> None:
    assert run(tmp_path / "job", f"echo 'forrtl: {words}'; exit 1", dict(os.environ)).cause == "disk"
