"""Whether a long training run's memory grows: resident memory at ten points of a run with everything switched on.

    python benchmarks/train_memory.py [--seconds 120]

Validation, checkpoints, moving average, replay, accumulation and collating threads all take part; what would grow in an
hour grows here too, a few MB at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rlpath_core.training import train
from rlpath_core.training.options import DataSpec, MaceTraining, RunSpec

DATA = Path("tests/data/oc22_emt")


def resident_mb() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    points: list[tuple[float, int, float]] = []
    start = time.monotonic()

    def watch(line: dict[str, object]) -> None:
        now = time.monotonic() - start
        if line["event"] == "epoch" and now >= len(points) * given.seconds / 10:
            points.append((now, int(str(line["global_step"])), resident_mb()))
            print(f"{points[-1][0]:8.0f} s {points[-1][1]:8d} update steps {points[-1][2]:8.1f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        spec = RunSpec(
            task="train",
            run_dir=Path(folder) / "run",
            device="cpu",
            data=DataSpec(train=DATA / "train", val=DATA / "val.lmdb", replay=DATA / "val.lmdb"),
            train=MaceTraining(
                input_json=Path("configs/run/model_cu_o_h.json"),
                epochs=1_000_000,
                max_seconds=given.seconds,
                batch_size=4,
                accum_steps=2,
                num_workers=1,
                cycle_steps=20,
                ema_decay=0.99,
                progress_bar=False,
            ),
        )
        result = train(spec, progress=watch)
    steady = points[len(points) // 3 :]
    grown = steady[-1][2] - steady[0][2]
    print(f"{result.metrics['global_step']} update steps; after the first third memory grew by {grown:.1f} MB")


if __name__ == "__main__":
    main()
