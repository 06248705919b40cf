"""A model in another process: the same answers, the same errors; tests/unit/process has the process itself."""

import contextlib
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from rlpath_core.backends import load_model
from rlpath_core.backends.committee import Committee
from rlpath_core.backends.mace.architecture import Architecture
from rlpath_core.backends.mace.build import build, state_of
from rlpath_core.backends.mace.bundle import write_bundle
from rlpath_core.backends.remote import RemoteModel
from rlpath_core.errors import FatalError, InputError, TransientError
from rlpath_core.process import child
from rlpath_core.process.wire import write_message
from rlpath_core.structure import read_structures
from rlpath_core.testing.backend import BackendConformance

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "models" / "starter"
HERE = Path(sys.executable)
STRUCTURES = read_structures(STARTER / "data" / "heldout.xyz")[:3]


def remote(manifest=STARTER / "manifest.json", **options):
    return RemoteModel(manifest, python=HERE, **options)


@pytest.fixture(scope="module")
def double():
    with_process = remote(dtype="float64")
    yield with_process
    with_process.close()


@pytest.fixture(scope="module")
def native():
    return load_model(STARTER, dtype="float64")


class TestRemoteConformance(BackendConformance):
    @pytest.fixture
    def model(self, double):
        return double


def same(a, b, tolerance=1e-11):
    """To the last digits: where arrays lie in memory decides which of a processor's additions are taken."""
    assert a.energy == pytest.approx(b.energy, abs=tolerance)
    for name in ("forces", "node_embedding", "graph_embedding"):
        assert (getattr(a, name) is None) == (getattr(b, name) is None)
        if getattr(a, name) is not None:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance)


def test_it_says_of_itself_what_the_model_in_this_process_says(double, native):
    for name in ("backend", "digest", "elements", "device", "weights_sha256", "conservative", "committee"):
        assert getattr(double, name) == getattr(native, name), name
    assert double.reference == native.reference
    assert double.pid != os.getpid()


@pytest.mark.parametrize("forces", [True, False])
@pytest.mark.parametrize("embeddings", [True, False])
def test_the_same_answers(double, native, forces, embeddings):
    asked = {"forces": forces, "embeddings": embeddings}
    for a, b in zip(double.predict(STRUCTURES, **asked), native.predict(STRUCTURES, **asked), strict=True):
        same(a, b)


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory):
    """A bundle of a small network with random weights, and further weights."""
    settings = {"hidden_irreps": "4x0e", "max_ell": 1, "avg_num_neighbors": 9.0, "cutoff": 4.0, "model_type": "MACE"}
    e0s = {"heads": ["low", "high"], "e0_values": [[-10.0, -20.0, -30.0], [-11.0, -22.0, -33.0]]}
    architecture, folder = Architecture(z_table=[1, 8, 12], **e0s, **settings), tmp_path_factory.mktemp("two_heads")
    states = [state_of(build(architecture, torch.float64, seed), architecture) for seed in (1, 2)]
    manifest, _ = write_bundle(folder, architecture, states[0], head="low", dtype="float64")
    torch.save(states[1], folder / "other.pt")
    return manifest, folder / "other.pt"


@pytest.fixture(scope="module")
def other(two_heads):
    manifest, weights = two_heads
    with_process = remote(manifest, weights=weights, head="high", dtype="float32")
    yield with_process
    with_process.close()


def test_options_reach_the_other_process(other, two_heads):
    """``weights``, ``head`` and ``dtype``: each of them changes what is predicted."""
    manifest, weights = two_heads
    options = {"weights": weights, "head": "high", "dtype": "float32"}
    found = other.predict(STRUCTURES, embeddings=True)
    for a, b in zip(found, load_model(manifest, **options).predict(STRUCTURES, embeddings=True), strict=True):
        same(a, b, tolerance=1e-5)
    for name in options:
        without = load_model(manifest, **{**options, name: None}).predict(STRUCTURES)
        assert any(a.energy != b.energy for a, b in zip(found, without, strict=True)), name


@pytest.mark.parametrize(
    ("options", "said"),
    [({"head": "hig"}, "Did you mean 'high'"), ({"device": "tpu"}, "choose cuda, cuda:N, cpu or auto")],
)
def test_input_errors_are_those_of_this_process(options, said, two_heads):
    with pytest.raises(InputError, match=said) as there:
        remote(two_heads[0], **options)
    with pytest.raises(InputError, match=said) as here:
        load_model(two_heads[0], **options)
    assert (there.value.what, there.value.where, there.value.key) == (here.value.what, here.value.where, here.value.key)


def test_a_damaged_bundle(tmp_path):
    shutil.copytree(STARTER, tmp_path / "bundle", ignore=shutil.ignore_patterns("data"))
    with open(tmp_path / "bundle" / "best_model.pt", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(InputError, match="another digest"):
        remote(tmp_path / "bundle" / "manifest.json")


def log_in(error):
    return next(word for word in str(error).replace(",", " ").split() if word.endswith(".log"))


def test_a_killed_process_is_told_with_its_log_and_replaced(double, native):
    first = double.pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(TransientError, match="was killed by SIGKILL") as told:
        double.predict(STRUCTURES)
    log = Path(log_in(told.value))
    assert log.is_file()
    log.unlink()
    same(double.predict(STRUCTURES[:1])[0], native.predict(STRUCTURES[:1])[0])
    assert double.pid != first


def test_a_bundle_that_changes_under_a_running_model(two_heads, tmp_path):
    shutil.copytree(two_heads[0].parent, tmp_path / "bundle")
    manifest = tmp_path / "bundle" / "manifest.json"
    model = remote(manifest)
    process = psutil.Process(model.pid)
    model.close()
    assert not process.is_running()
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(FatalError, match="has changed since"):
        model.predict(STRUCTURES)


@contextlib.contextmanager
def stopped(process):
    """Answers nothing meanwhile, so that a call is in flight for as long as a test needs."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def after_sending(monkeypatch, action):
    """Do ``action`` once, when a call has been sent and not answered."""

    def write_and_act(stream, header, arrays=None):
        write_message(stream, header, arrays)
        monkeypatch.undo()
        action()

    monkeypatch.setattr(child, "write_message", write_and_act)


def test_a_fork_starts_a_process_for_itself(double, native, monkeypatch):
    """Also a fork that is made while another thread waits for an answer and holds the lock."""
    answers, sent = [], threading.Event()
    after_sending(monkeypatch, sent.set)
    thread = threading.Thread(target=lambda: answers.append(double.predict(STRUCTURES)))
    reading, writing = os.pipe()
    with stopped(double.pid):
        thread.start()
        assert sent.wait(60)
        fork = os.fork()
        if fork == 0:
            try:
                signal.alarm(120)
                energy = double.predict(STRUCTURES[:1])[0].energy
                os.write(writing, f"{double.pid} {energy!r}".encode())
                double.close()
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            pid, found = stream.read().split()
        os.waitpid(fork, 0)
    thread.join()
    for a, b in zip(*answers, native.predict(STRUCTURES), strict=True):
        same(a, b)
    assert int(pid) != double.pid
    assert float(found) == pytest.approx(answers[0][0].energy, abs=1e-11)


def test_threads_wait_for_each_other(double, native):
    expected = [native.predict([structure])[0].energy for structure in STRUCTURES]
    found = [[] for _ in STRUCTURES]

    def ask(k):
        found[k] = [double.predict([STRUCTURES[k]])[0].energy for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(STRUCTURES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(found, np.repeat(expected, 5).reshape(-1, 5), atol=1e-11)


def test_an_interrupted_question_does_not_answer_the_next(double, native, monkeypatch):
    """Ctrl-C in the middle of a call: the next one starts a process that was asked nothing before."""
    before = double.pid
    after_sending(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        double.predict(STRUCTURES)
    same(double.predict(STRUCTURES[1:2])[0], native.predict(STRUCTURES[1:2])[0])
    assert double.pid != before


def test_a_committee_of_one_here_and_one_there(native, other):
    found = Committee(native, [other]).predict(STRUCTURES)
    for prediction, a, b in zip(found, native.predict(STRUCTURES), other.predict(STRUCTURES), strict=True):
        same(replace(prediction, force_spread=None), a)
        half = np.linalg.norm(a.forces - b.forces, axis=1) / 2
        np.testing.assert_allclose(prediction.force_spread, half, atol=1e-5)
        assert half.max() > 0.01
