"""``rlpath paths`` with the starter model: the example config, a sampling run's basins, bad input."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms

from rlpath_core.kinetics.files import read_network
from rlpath_core.store import Store, queries, saddles

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
STARTER = ROOT / "models" / "starter"
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.nightly
def test_the_example_config_finds_steps(tmp_path: Path, command: Command):
    out = tmp_path / "out"
    words = ["--params", ROOT / "configs" / "paths.yaml", "max_searches=8", "walkers=8"]
    result = command("flows.paths", "--run_dir", out, *words)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads((out / "summary.json").read_text())
    for key, value in summary.items():
        assert f"{key}: {value}" in result.stdout
    network = read_network(out / "network.json")
    assert len(network.saddles) == summary["saddles"] > 0
    assert (out / "steps.txt").read_text().strip() in result.stdout
    for name in ("saddles.jsonl", "dft_queue.jsonl", "stationary.extxyz", "network.png", "energy_diagram.png"):
        assert (out / name).stat().st_size > 0
    with Store(out) as store:
        assert len(saddles.searches(store)) == summary["searches"]
        assert len(queries.queue(store)) == summary["candidates"]
    again = command("flows.paths", "--run_dir", out, *words)
    assert again.returncode == 2
    assert "resume" in again.stderr


def test_a_run_begins_from_the_basins_of_a_sampling_run(tmp_path: Path, command: Command):
    start = ["--structure_json", STARTER / "data" / "start.xyz", "--manifest", STARTER / "manifest.json"]
    sampled, out = tmp_path / "sampled", tmp_path / "out"
    result = command("flows.sample", "--run_dir", sampled, *start, "--steps", "24", "--seed", "3")
    assert result.returncode == 0, result.stderr[-3000:]
    words = ["--sampling_run", sampled, "--max_searches", "4", "--proposals", "pairs", "displacements"]
    result = command("flows.paths", "--run_dir", out, *words, "--params", "paths.pictures=false")
    assert result.returncode == 0, result.stderr[-3000:]
    with Store(sampled) as store:
        basins, (model,) = queries.basins(store), queries.models(store)
    with Store(out) as store:
        assert [one.sha256 for one in queries.models(store)] == [model.sha256], "the model of the sampling run"
    minima = read_network(out / "network.json").minima
    assert len(minima) > 1
    lowest = min(basin.energy for basin in basins)
    assert min(minimum.energy for minimum in minima) < lowest + 0.01, "relaxed further, or a lower one was found"


def test_what_the_model_does_not_know_is_one_line(tmp_path: Path, command: Command):
    Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]]).write(tmp_path / "gold.xyz")
    words = ["--structure_json", tmp_path / "gold.xyz", "--manifest", STARTER / "manifest.json"]
    result = command("flows.paths", "--run_dir", tmp_path / "out", *words)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "gold.xyz" in errors[0]
    assert "does not know Au" in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_without_basins_is_one_line(tmp_path: Path, command: Command):
    (tmp_path / "empty").mkdir()
    for key in ("sampling_run", "campaign"):
        result = command("flows.paths", "--run_dir", tmp_path / "out", f"--{key}", tmp_path / "empty")
        assert result.returncode == 2
        assert [line for line in result.stderr.splitlines() if "rlpath.db" in line]
    assert not (tmp_path / "out").exists()
