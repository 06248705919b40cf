"""kill -9 at twenty random moments of a run, wherever it is: it resumes to the same weights and the same log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHILD = Path(__file__).with_name("killed_trainer.py")
KILLS = 20


@pytest.mark.integration
def test_twenty_kills(configure, tmp_path):
    knobs = {
        "epochs": 30, "batch_size": 2, "accum_steps": 2, "cycle_steps": 2, "num_workers": 1, "ema_decay": 0.9,
        "scheduler": "plateau", "scheduler_step_size": 2, "log_every": 1,
    }  # fmt: skip
    for name in ("whole", "killed"):
        configure(tmp_path / name, train=knobs)
    command = [
        sys.executable,
        "-W",
        "ignore",
        CHILD,
        tmp_path / "whole.yaml",
        tmp_path / "killed.yaml",
        str(KILLS),
        "7",
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert int(done.stdout.split()[1]) == KILLS

    def result(name):
        return json.loads((tmp_path / name / "result.json").read_text())

    assert result("killed")["digest"] == result("whole")["digest"]
    a, b = (torch.load(tmp_path / n / "checkpoints" / "checkpoint.pt", weights_only=True) for n in ("killed", "whole"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in b["model"])
    assert all(torch.equal(x, y) for x, y in zip(a["average"], b["average"], strict=True))
    assert (a["schedule"], a["best_metrics"]) == (b["schedule"], b["best_metrics"])

    def log(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert log("killed") == log("whole")
