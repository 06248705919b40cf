"""kill -9 at five random moments of a run (nightly: twenty): it resumes to the same weights and the same log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

CHILD = Path(__file__).resolve().parents[2] / "programs" / "killed_trainer.py"


@pytest.mark.integration
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.nightly)])
def test_killed_at_random_moments(configure, tmp_path, kills):
    knobs = {
        "epochs": 24, "batch_size": 2, "accum_steps": 2, "cycle_steps": 2, "num_workers": 1, "ema_decay": 0.9,
        "scheduler": "plateau", "scheduler_step_size": 2, "log_every": 1,
    }  # fmt: skip
    for name in ("whole", *(f"killed{n}" for n in range(kills))):
        configure(tmp_path / name, train=knobs)
    command = [sys.executable, "-W", "ignore", str(CHILD), str(tmp_path), str(kills), "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1700)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)

    def result(name):
        return json.loads((tmp_path / name / "result.json").read_text())

    def state(name):
        return torch.load(tmp_path / name / "checkpoints" / "checkpoint.pt", weights_only=True)

    def log(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    whole = state("whole")
    runs = sorted(p.name for p in tmp_path.glob("killed*") if p.is_dir())
    assert runs
    for name in runs:
        assert result(name)["digest"] == result("whole")["digest"]
        found = state(name)
        assert all(torch.equal(found["model"][key], whole["model"][key]) for key in whole["model"])
        assert all(torch.equal(x, y) for x, y in zip(found["average"], whole["average"], strict=True))
        assert (found["schedule"], found["best_metrics"]) == (whole["schedule"], whole["best_metrics"])
        assert log(name) == log("whole")
