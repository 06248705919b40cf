"""Two gloo processes against one, started by torchrun as a user would."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.mark.integration
def test_two_processes_give_the_losses_of_one(configure, tmp_path, program):
    """Also with accumulation, an odd last batch of which one process gets nothing, a moving average and pieces."""
    knobs = {
        "batch_size": 3, "accum_steps": 2, "epochs": 3, "dtype": "float64", "log_every": 1, "ema_decay": 0.9,
        "scheduler": "plateau", "max_edges": 200,
    }  # fmt: skip
    data = {"train_indices": {"max_samples": 7}}
    configure(tmp_path / "one", train=knobs, data=data)
    configure(tmp_path / "two", train=knobs, data=data)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, start in (("one", [sys.executable, "-W", "ignore"]), ("two", launcher)):
        command = [*start, *program("train_run", tmp_path / f"{name}.yaml")[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]

    def losses(name):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["event"], line["global_step"], line["loss"]) for line in lines]

    one, two = losses("one"), losses("two")
    assert [line[:2] for line in one] == [line[:2] for line in two]
    assert len(one) == 12  # 2 update steps, a validation and an epoch, three times
    for a, b in zip(one, two, strict=True):
        assert b[2] == pytest.approx(a[2], rel=1e-9)
    a, b = (torch.load(tmp_path / n / "artifacts" / "best_model.pt", weights_only=True) for n in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-7, atol=1e-9)
    metrics = [json.loads((tmp_path / n / "result.json").read_text())["metrics"] for n in ("one", "two")]
    assert metrics[0].pop("stop_reason") == metrics[1].pop("stop_reason") == "epochs"
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-7)
