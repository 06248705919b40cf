"""FairChem's environment missing, of another version, or no Python: one line that says what to run, and exit code 2."""

from __future__ import annotations

import json
import sys
import venv
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from rlpath_core.backends import environments
from rlpath_core.backends.manifest import Manifest, Source, Weights, write_manifest
from rlpath_core.files import sha256_of

pytestmark = pytest.mark.flows

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "models" / "starter" / "data"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Whole by its digests; which network it holds is only found out where FairChem is."""
    (tmp_path / "bundle").mkdir()
    weights = tmp_path / "bundle" / "best_model.pt"
    weights.write_bytes(b"weights")
    digest = sha256_of(weights)
    manifest = Manifest(
        backend="equiformer_v2",
        backend_version="1.10.0",
        source=Source(path=None, format="checkpoint", sha256=digest),
        weights=Weights(path=weights.name, sha256=digest, dtype="float32"),
    )
    write_manifest(weights.with_name("manifest.json"), manifest)
    return weights.with_name("manifest.json")


def nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return "needs fairchem-core 1.10.0, and"


def another_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    venv.create(folder / "another", symlinks=True)
    (folder / "rlpath.toml").write_text('fairchem_python = "another/bin/python"')
    packages = next((folder / "another" / "lib").glob("python*")) / "site-packages"
    (packages / "fairchem_core-2.3.0.dist-info").mkdir()
    (packages / "fairchem_core-2.3.0.dist-info" / "METADATA").write_text("Name: fairchem-core\nVersion: 2.3.0\n")
    return "needs fairchem-core 1.10.0, and"


def no_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RLPATH_FAIRCHEM_PYTHON", str(folder / "nowhere" / "python"))
    return "RLPATH_FAIRCHEM_PYTHON: no such Python"


def sample(folder: Path, bundle: Path) -> list[str]:
    return ["--run_dir", str(folder / "out"), "--structure_json", str(DATA / "start.xyz"), "--manifest", str(bundle)]


def evaluate(folder: Path, bundle: Path) -> list[str]:
    return ["--manifest", str(bundle), "--data", str(DATA / "near.xyz"), "--device", "cpu"]


def run(folder: Path, bundle: Path) -> list[str]:
    config = {
        "backend": "equiformer_v2",
        "task": "evaluate",
        "run_dir": str(folder / "out"),
        "device": "cpu",
        "model": {"manifest": str(bundle)},
        "data": {"test": str(DATA / "near.xyz")},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return ["--config", str(folder / "run.yaml")]


def al_loop(folder: Path, bundle: Path) -> list[str]:
    folders = {"campaigns_dir": str(folder / "out"), "models_dir": str(folder / "models")}
    given = {"backend": "equiformer_v2", "backends": {"equiformer_v2": {"model": str(bundle)}}, "execution": "inline"}
    return ["--params", json.dumps({**folders, **given})]


@pytest.mark.parametrize("command", [sample, evaluate, run, al_loop])
@pytest.mark.parametrize("lacking", [nothing, another_version, no_python])
@pytest.mark.skipif(environments.is_installed("equiformer_v2"), reason="FairChem is in this environment")
def test_one_line_says_what_to_run(
    lacking: Callable[[Path, pytest.MonkeyPatch], str],
    command: Callable[[Path, Path], list[str]],
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("RLPATH_FAIRCHEM_PYTHON", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    said = lacking(tmp_path, monkeypatch)
    monkeypatch.setattr("flows.cli.server_url", lambda: None)
    code = import_module(f"flows.{command.__name__}").main(command(tmp_path, bundle))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1
    assert said in errors[0]
    assert "run `make fairchem`" in errors[0]
    assert not (tmp_path / "out").exists(), "nothing half-written"
