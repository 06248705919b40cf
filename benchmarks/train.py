"""Seconds of an update step, and structures trained on per second.

python benchmarks/train.py [--data models/starter/data/train.xyz] [--model-json configs/run/model.json]
                           [--batch-size 8] [--n 96] [--epochs 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from rlpath_core.data import read_labelled, write_extxyz
from rlpath_core.spec.run import DataSpec, RunSpec, TrainSpec
from rlpath_core.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("models/starter/data/train.xyz"))
    parser.add_argument("--model-json", type=Path, default=Path("configs/run/model.json"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--n", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    labelled = [one for one in read_labelled(given.data) if len(one.structure) > 12][: given.n]
    with tempfile.TemporaryDirectory() as folder:
        write_extxyz(Path(folder) / "train.xyz", labelled)
        spec = RunSpec(
            task="train",
            run_dir=Path(folder) / "run",
            device=given.device,
            data=DataSpec(train=Path(folder) / "train.xyz"),
            train=TrainSpec(
                input_json=given.model_json,
                epochs=given.epochs + 1,
                batch_size=given.batch_size,
                force_weight=10.0,
                ema_decay=0.99,
                save_every=1000,
                progress_bar=False,
            ),
        )
        seconds: list[float] = []
        start = time.perf_counter()
        train(spec, progress=lambda line: seconds.append(line["seconds"]) if line["event"] == "epoch" else None)
        whole = time.perf_counter() - start
    warm, timed = seconds[0], seconds[-1] - seconds[0]
    steps = given.epochs * -(-len(labelled) // given.batch_size)
    print(f"{len(labelled)} structures, {given.epochs} epochs after one to warm up ({warm:.1f} s)")
    per_second = given.epochs * len(labelled) / timed
    print(f"{1e3 * timed / steps:.1f} ms an update step, {per_second:.1f} structures/s, {whole:.1f} s in all")


if __name__ == "__main__":
    main()
