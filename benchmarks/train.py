"""The same MACE trained here and by mace's own ``mace_run_train``: speed, error after equal steps, peak memory.

    python benchmarks/train.py [--data FILE] [--n 96] [--n-val 24] [--epochs 4] [--batch-size 8] [--threads 1]

Each side runs in a process of its own: same architecture, first weights, free-atom energies, structures, batch size,
update steps, optimizer, loss, moving average and float32; only the order of the structures differs. Timed are the
update steps, collating included, of every epoch but the first; not validation. The ratio of CPU times is given beside
that of wall times: other work on the machine disturbs it less. The averaged weights after the last step of both are
then measured on the same held-out structures by the same code; with ``--repeats`` each pair has a seed of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LR, FORCE_WEIGHT, EMA = 0.005, 10.0, 0.99


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("models/starter/data/train.xyz"))
    parser.add_argument("--model-json", type=Path, default=Path("configs/run/model.json"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--n", type=int, default=96)
    parser.add_argument("--n-val", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="of the pair; the median ratio is printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=["rlpath", "mace"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def spec_of(given: argparse.Namespace) -> Any:
    from rlpath_core.training.options import DataSpec, MaceTraining, RunSpec

    return RunSpec(
        task="train",
        run_dir=given.folder / "rlpath",
        device=given.device,
        data=DataSpec(train=given.folder / "train.xyz"),  # nothing to choose by: the last weights are kept
        train=MaceTraining(
            input_json=given.model_json,
            epochs=given.epochs,
            batch_size=given.batch_size,
            seed=given.seed,
            lr=LR,
            force_weight=FORCE_WEIGHT,
            ema_decay=EMA,
            drop_last=True,
            progress_bar=False,
        ),
    )


def first_weights(given: argparse.Namespace) -> None:
    """What both sides start from, into the folder: state_dict, free-atom energies, mean number of neighbours."""
    import torch

    from rlpath_core.training.loop import Trainer
    from rlpath_core.training.setup import prepare

    spec = spec_of(given)
    trainer = Trainer(spec, prepare(spec), device="cpu")
    a = trainer.architecture
    torch.save(trainer.net.state_dict(), given.folder / "first.pt")
    e0s = dict(zip(a.z_table, a.e0_table[0].tolist(), strict=True))
    (given.folder / "first.json").write_text(json.dumps({"e0s": str(e0s), "neighbours": a.avg_num_neighbors}))


def train_here(given: argparse.Namespace) -> dict[str, Any]:
    from rlpath_core.training import train
    from rlpath_core.training.loop import Trainer

    steps: list[tuple[float, float]] = []
    one_step = Trainer.update_step

    def timed(*args: Any) -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = one_step(*args)
        steps.append((time.perf_counter() - wall, time.process_time() - cpu))
        return loss

    Trainer.update_step = timed  # type: ignore[method-assign]
    result = train(spec_of(given))
    per_epoch = len(steps) // given.epochs
    epochs = [np.sum(steps[n : n + per_epoch], axis=0).tolist() for n in range(0, len(steps), per_epoch)]
    return {"epochs": epochs, "manifest": str(result.manifest)}


def train_with_mace(given: argparse.Namespace) -> dict[str, Any]:
    import mace.cli.run_train
    import torch
    from mace.tools import build_default_arg_parser

    from rlpath_core.backends.mace.architecture import read_architecture
    from rlpath_core.backends.mace.foreign import convert_model_file

    a = read_architecture(given.model_json)
    first = json.loads((given.folder / "first.json").read_text())
    os.chdir(given.folder)
    options: dict[str, Any] = {
        "name": "mace", "seed": given.seed, "device": given.device, "default_dtype": "float32",
        "model": "ScaleShiftMACE", "train_file": "train.xyz", "valid_file": "val.xyz", "E0s": first["e0s"],
        "avg_num_neighbors": first["neighbours"], "compute_avg_num_neighbors": "False", "energy_key": "REF_energy",
        "forces_key": "REF_forces", "r_max": a.cutoff, "num_radial_basis": a.num_radial_basis,
        "num_cutoff_basis": a.num_polynomial_cutoff, "max_ell": a.max_ell, "hidden_irreps": a.hidden_irreps,
        "num_interactions": a.num_interactions, "correlation": a.products[0].correlation,
        "interaction_first": a.interactions[0].type, "interaction": a.interactions[-1].type,
        "radial_MLP": str(a.interactions[0].radial_mlp), "MLP_irreps": a.readouts[-1].mlp_irreps or "16x0e",
        "batch_size": given.batch_size, "valid_batch_size": 16, "max_num_epochs": given.epochs, "lr": LR,
        "weight_decay": 0.0, "forces_weight": FORCE_WEIGHT, "energy_weight": 1.0, "ema_decay": EMA, "clip_grad": 10,
        "eval_interval": 1, "plot": "False",
    }  # fmt: skip
    argv = [f"--{key}={value}" for key, value in options.items()] + ["--amsgrad", "--ema"]
    epochs: list[tuple[float, float]] = []
    module: Any = sys.modules["mace.tools.train"]  # as an attribute, it is the function of that name
    one_epoch = module.train_one_epoch

    def timed(*, model: torch.nn.Module, ema: Any, **others: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        one_epoch(model=model, ema=ema, **others)
        epochs.append((time.perf_counter() - wall, time.process_time() - cpu))
        if len(epochs) == given.epochs:  # mace itself keeps the epoch that its own loss likes best
            with ema.average_parameters():
                torch.save(model, "last.model")

    module.train_one_epoch = timed
    configure = mace.cli.run_train.configure_model

    def with_first_weights(*args: Any, **others: Any) -> Any:
        model, outputs = configure(*args, **others)
        state = torch.load(given.folder / "first.pt", weights_only=True)
        model.load_state_dict({name: state[name].reshape(own.shape) for name, own in model.state_dict().items()})
        return model, outputs

    mace.cli.run_train.configure_model = with_first_weights
    mace.cli.run_train.run(build_default_arg_parser().parse_args(argv))
    manifest, _ = convert_model_file(given.folder / "last.model", given.folder / "mace-bundle", trust_pickle=True)
    return {"epochs": epochs, "manifest": str(manifest)}


def child(given: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(given.threads)
    found = train_here(given) if given.side == "rlpath" else train_with_mace(given)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (given.folder / f"{given.side}.json").write_text(json.dumps(found))


def pair(given: argparse.Namespace, order: tuple[str, str]) -> dict[str, dict[str, Any]]:
    """Both sides once, one after the other, with their errors on the held-out structures."""
    from ase.io import write

    from rlpath_core.backends import load_model
    from rlpath_core.data import read_labelled
    from rlpath_core.evaluation import evaluate

    labelled = [one for one in read_labelled(given.data) if len(one.structure) > 12]
    chosen = labelled[:: max(1, len(labelled) // (given.n + given.n_val))][: given.n + given.n_val]
    parts = {"train": chosen[: given.n // given.batch_size * given.batch_size], "val": chosen[given.n :]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, data in parts.items():
            images = []
            for one in data:
                atoms = one.structure.to_ase()
                atoms.info["REF_energy"], atoms.arrays["REF_forces"] = one.energy, one.forces.copy()
                images.append(atoms)
            write(folder / f"{part}-mace.xyz", images, format="extxyz")
        found = {}
        given.folder = folder
        network = json.loads(given.model_json.read_text())  # mace knows the elements of its data and no others
        network["z_table"] = sorted({int(z) for one in chosen for z in one.structure.numbers})
        given.model_json = folder / "model.json"
        given.model_json.write_text(json.dumps(network))
        _place(folder, parts, "rlpath")
        first_weights(given)
        for side in order:
            _place(folder, parts, side)
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", str(folder),
                 "--seed", str(given.seed), "--model-json", str(given.model_json)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"{side} failed:\n{done.stdout[-4000:]}")
            found[side] = json.loads((folder / f"{side}.json").read_text())
            wall, cpu = np.sum(found[side]["epochs"][1:], axis=0)
            samples = len(parts["train"]) * (given.epochs - 1)
            found[side] |= {"per_second": samples / wall, "per_cpu_second": samples / cpu}
            found[side]["errors"] = evaluate(load_model(found[side]["manifest"]), parts["val"])
    steps = given.epochs * len(parts["train"]) // given.batch_size
    print(f"{len(parts['train'])} structures, {len(parts['val'])} held out, {steps} update steps of {given.batch_size}")
    return found


def _place(folder: Path, parts: dict[str, Any], side: str) -> None:
    from rlpath_core.data import write_extxyz

    for part, data in parts.items():
        if side == "mace":
            (folder / f"{part}.xyz").write_bytes((folder / f"{part}-mace.xyz").read_bytes())
        else:
            write_extxyz(folder / f"{part}.xyz", data)


def main() -> None:
    given = arguments()
    if given.side:
        child(given)
        return
    ratios, force_errors = [], []
    for n in range(given.repeats):
        found = pair(argparse.Namespace(**vars(given)), ("rlpath", "mace") if n % 2 == 0 else ("mace", "rlpath"))
        columns = ("", "samples/s", "per CPU s", "ms/step", "peak MB", "force MAE meV/Å", "energy MAE meV/atom")
        print(" ".join(f"{name:>{max(9, len(name))}}" for name in columns))
        for side in ("rlpath", "mace"):
            one, errors = found[side], found[side]["errors"]
            step = 1e3 * given.batch_size / one["per_second"]
            force, energy = 1e3 * errors["force_mae"], 1e3 * errors["energy_mae_per_atom"]
            print(
                f"{side:>9} {one['per_second']:>9.1f} {one['per_cpu_second']:>9.1f} {step:>9.1f} "
                f"{one['peak_mb']:>9.0f} {force:>15.1f} {energy:>19.2f}"
            )
        ratios.append(found["rlpath"]["per_second"] / found["mace"]["per_second"])
        cpu = found["rlpath"]["per_cpu_second"] / found["mace"]["per_cpu_second"]
        print(f"ratio {ratios[-1]:.2f} by wall time, {cpu:.2f} by CPU time")
        force_errors.append([1e3 * found[side]["errors"]["force_mae"] for side in ("rlpath", "mace")])
        given.seed += 1
    if given.repeats > 1:
        print(f"median ratio of {given.repeats}: {sorted(ratios)[len(ratios) // 2]:.2f}")
        means, spreads = np.mean(force_errors, axis=0), np.std(force_errors, axis=0, ddof=1)
        print(
            f"force MAE over {given.repeats} seeds: rlpath {means[0]:.1f} ± {spreads[0]:.1f}, "
            f"mace {means[1]:.1f} ± {spreads[1]:.1f} meV/Å"
        )


if __name__ == "__main__":
    main()
