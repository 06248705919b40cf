"""A child process: answers, reports, errors, logs and time limits, and that it never outlives its parent."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from rlpath_core.errors import FatalError, InputError, TransientError
from rlpath_core.process.child import PLAIN_WORKER, Child

HERE = Path(__file__).resolve().parent
HANDLERS = [sys.executable, str(HERE / "handlers.py")]
PLAIN = [sys.executable, "-I", "-S", str(PLAIN_WORKER), str(HERE / "handlers.py")]
"""Without site-packages: a Python that has neither rlpath nor numpy."""


@pytest.fixture(autouse=True)
def logs(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "logs"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def child(logs):
    with Child(HANDLERS, "the worker") as child:
        yield child


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def has_ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def log_in(error):
    return Path(next(word for word in str(error.value).replace(",", " ").split() if word.endswith(".log")))


def test_headers_and_arrays(child):
    header, arrays = child.ask("echo", {"x": [1, None, "å"]}, {"a": np.arange(6.0).reshape(2, 3)})
    assert header == {"x": [1, None, "å"]}
    np.testing.assert_array_equal(arrays["a"], [[0, 2, 4], [6, 8, 10]])
    assert child.ask("about")[0]["pid"] == child.pid != os.getpid()


def test_a_python_without_rlpath(logs):
    with Child(PLAIN, "the worker") as child:
        assert child.ask("echo", {"x": 1}) == ({"x": 1}, {})
        modules = child.ask("about")[0]["modules"]
        assert not [name for name in modules if name.split(".")[0] in ("rlpath_core", "numpy")]
        with pytest.raises(InputError, match=r"a\.yaml: k: wrong"):
            child.ask("fail", {"kind": "InputError", "parts": ["wrong", "a.yaml", "k"]})


@pytest.mark.parametrize(
    ("raised", "parts"),
    [(InputError, ["wrong", "a.yaml", 7]), (TransientError, ["busy"]), (FatalError, ["broken"])],
)
def test_errors_arrive_as_they_are_raised(child, raised, parts, logs):
    with pytest.raises(raised) as error:
        child.ask("fail", {"kind": raised.__name__, "parts": parts})
    assert str(error.value) == str(raised(*parts))
    if raised is InputError:
        assert [error.value.what, error.value.where, error.value.key] == parts
    assert child.ask("echo", {"x": 1})[0] == {"x": 1}, "an error ends nothing"
    assert not list(logs.iterdir())


def test_any_other_error_is_fatal_and_its_traceback_is_in_the_log(child):
    for text in ("first", "second"):
        with pytest.raises(FatalError, match=f"the worker raised ZeroDivisionError: {text}; its log is") as error:
            child.ask("fail", {"kind": "other", "parts": [text]})
    assert log_in(error).read_text().count("in fail") == 2
    assert child.ask("echo", {"x": 1})[0] == {"x": 1}
    with pytest.raises(FatalError, match="KeyError: 'nothing'"):
        child.ask("nothing")


def test_what_the_process_prints_is_no_answer(tmp_path):
    log = tmp_path / "worker.log"
    log.write_text("of before\n")
    with Child(HANDLERS, "the worker", log=log) as child:
        assert child.ask("chatter") == ({}, {})
        assert child.ask("echo", {"x": 1})[0] == {"x": 1}
    lines = log.read_text().splitlines()
    assert lines[0] == "of before"
    assert sorted(lines[1:]) == ["by a program", "by compiled code", "on standard error", "printed"]


def test_a_log_that_no_error_names_leaves_no_file(logs):
    with Child(HANDLERS, "the worker") as child:
        child.ask("chatter")
        assert not list(logs.iterdir())
    assert not list(logs.iterdir())


def test_reports_come_before_the_answer(child):
    reports = []
    assert child.ask("count", {"to": 5}, report=reports.append)[0] == {"total": 5}
    assert reports == [{"k": k} for k in range(5)]
    assert child.ask("count", {"to": 3})[0] == {"total": 3}, "reports that nobody wants"


def test_a_process_that_ends_at_once(logs):
    command = ["sh", "-c", "echo chatter; echo No module named rlpath_core >&2; exit 3"]
    child = Child(command, "the worker")
    with pytest.raises(FatalError, match=r"the worker ended with exit code 3; .*No module named rlpath_core") as error:
        child.ask("echo")
    assert child.ended
    assert log_in(error).read_text() == "chatter\nNo module named rlpath_core\n"
    with pytest.raises(FatalError, match=r"/no/python cannot be started: .*No such file"):
        Child(["/no/python"], "the worker")


@pytest.mark.parametrize(
    ("code", "answered", "raised", "how"),
    [
        (3, False, FatalError, "ended with exit code 3"),
        (3, True, TransientError, "ended with exit code 3"),
        (-9, False, TransientError, "was killed by SIGKILL"),
        (-11, True, TransientError, "was killed by SIGSEGV"),
    ],
)
def test_a_process_that_dies_is_reported_with_its_log(child, code, answered, raised, how):
    if answered:
        child.ask("echo")
    with pytest.raises(raised, match=f"the worker {how}") as error:
        child.ask("end", {"code": code})
    assert child.ended
    assert log_in(error).read_text() == "last words\n"


def test_a_time_limit_ends_the_process(child, tmp_path):
    child.ask("echo")
    process = psutil.Process(child.pid)
    with pytest.raises(FatalError, match=r"the worker has not answered for 0\.3 s and was ended"):
        child.ask("hold", {"until": str(tmp_path / "never")}, seconds=0.3)
    assert not process.is_running()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_call_ends_the_process(child, tmp_path, error):
    """Ctrl-C or an error in the middle of a call: its answer is not taken for that of the next."""
    process = psutil.Process(child.pid)

    def interrupt(report):
        if error is ValueError:
            raise ValueError
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    with pytest.raises(error):
        child.ask("hold", {"until": str(tmp_path / "never")}, report=interrupt)
    assert child.ended
    assert not process.is_running()


def test_it_ends_with_its_object(logs):
    child = Child(HANDLERS, "the worker")
    child.ask("echo")
    process = psutil.Process(child.pid)
    del child
    gc.collect()
    assert not process.is_running()


def test_a_process_that_is_asked_to_end_may_do_so_by_itself(tmp_path):
    """Its channel closed, it leaves the loop; one that does not is killed after the grace."""
    command = [
        sys.executable,
        "-c",
        f"import runpy; runpy.run_path({HANDLERS[1]!r}, run_name='__main__'); print('end')",
    ]
    log = tmp_path / "log"
    child = Child(command, "the worker", log=log)
    child.ask("echo")
    child.end(grace=60)
    assert log.read_text() == "end\n"
    stuck = Child(HANDLERS, "the worker")
    stuck.send("hold", {"until": str(tmp_path / "never")})
    assert "report" in stuck.receive()[0]
    process = psutil.Process(stuck.pid)
    stuck.end(grace=0.2)
    assert not process.is_running()


@contextlib.contextmanager
def parent_of(way, mode, file):
    """A parent in a process group of its own, and its child, which is in the middle of a call."""
    command = [sys.executable, HERE / "killed_parent.py", way, mode, file]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield parent, psutil.Process(int(parent.stdout.readline()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()


@pytest.mark.parametrize("way", ["plain", "fork", "group"])
def test_no_process_outlives_its_parent(way, tmp_path, logs):
    """SIGKILL of the parent, also while a copy of it holds the channel; Ctrl-C for the whole group."""
    with parent_of("fork" if way == "fork" else "plain", "plain", tmp_path / "never") as (parent, child):
        if way == "group":
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.kill()
        until(lambda: has_ended(child))
    assert not list(logs.iterdir())


def test_signals_to_the_group_are_the_parents(tmp_path):
    """A parent that lives on still needs its child, which has not even noticed."""
    with parent_of("deaf", "plain", tmp_path / "until") as (parent, _):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.killpg(parent.pid, number)
        (tmp_path / "until").touch()
        until((tmp_path / "until.seen").exists)
        parent.wait()
        assert parent.returncode == 0


def test_an_orphan_may_finish_its_call(tmp_path):
    with parent_of("plain", "finish", tmp_path / "until") as (parent, child):
        parent.kill()
        parent.wait()
        (tmp_path / "until").touch()
        until(lambda: has_ended(child))
        assert (tmp_path / "until.seen").exists()


def test_an_orphan_that_finishes_can_be_ended(tmp_path):
    with parent_of("plain", "finish", tmp_path / "never") as (parent, child):
        parent.kill()
        child.terminate()
        until(lambda: has_ended(child))


def test_an_orphan_is_asked_to_stop(tmp_path, monkeypatch):
    """``stop`` is called, then the call returns, then the process ends; SIGTERM asks the same."""
    monkeypatch.setenv("RLPATH_TEST_STOP", str(tmp_path / "until"))
    with parent_of("plain", "stop", tmp_path / "until") as (parent, child):
        parent.kill()
        until(lambda: has_ended(child))
    assert (tmp_path / "until.seen").exists()
    monkeypatch.setenv("RLPATH_TEST_STOP", str(tmp_path / "again"))
    with Child([*HANDLERS, "stop"], "the worker") as worker:
        header = {"until": str(tmp_path / "again")}
        assert worker.ask("hold", header, report=lambda report: worker.terminate()) == ({}, {})


def test_an_interrupted_call_may_stop(tmp_path, monkeypatch):
    """With ``stop_seconds`` the call returns after SIGTERM, and the process ends by itself."""
    monkeypatch.setenv("RLPATH_TEST_STOP", str(tmp_path / "until"))
    child = Child([*HANDLERS, "stop"], "the worker", stop_seconds=60)

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.ask("hold", {"until": str(tmp_path / "until")}, report=interrupt)
    assert child.ended
    assert (tmp_path / "until.seen").exists()


def test_a_fork_leaves_the_process_to_its_parent(child, tmp_path):
    """Made while another thread waits for an answer: the fork starts a process for itself, the thread gets its own."""
    asked, answers = threading.Event(), []
    header = {"until": str(tmp_path / "until")}
    thread = threading.Thread(
        target=lambda: answers.append(child.ask("hold", header, report=lambda report: asked.set()))
    )
    thread.start()
    assert asked.wait(60)
    reading, writing = os.pipe()
    fork = os.fork()
    if fork == 0:
        try:
            signal.alarm(60)
            assert child.ended
            child.end()
            with pytest.raises(TransientError, match="the worker has ended"):
                child.ask("echo")
            with Child(HANDLERS, "the fork's worker") as own:
                os.write(writing, f"{own.ask('about')[0]['pid']}".encode())
            gc.collect()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        assert int(stream.read()) != child.pid
    assert os.waitpid(fork, 0)[1] == 0
    (tmp_path / "until").touch()
    thread.join(60)
    assert answers == [({}, {})]
    assert child.ask("echo", {"x": 1})[0] == {"x": 1}
