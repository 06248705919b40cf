"""Reference pages and JSON schemas of all config files: ``python -m flows.config`` writes them, in a checkout.

An editor finds the schema by the first line of a config, ``# yaml-language-server: $schema=schemas/campaign.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlpath_core.campaign.options import CampaignConfig
from rlpath_core.config import Section
from rlpath_core.config.reference import ConfigFile, page, schema
from rlpath_core.dft.engines import ENGINES
from rlpath_core.dft.launchers import LAUNCHERS
from rlpath_core.dft.options import DftConfig
from rlpath_core.files import atomic_write
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.paths.command import PathsSpec
from rlpath_core.paths.proposals import PROPOSALS
from rlpath_core.paths.searches import SEARCHES
from rlpath_core.sampling.command import SampleSpec
from rlpath_core.sampling.options import (
    PLUGIN_OPTIONS,
    RECORDER_OPTIONS,
    VALIDATOR_OPTIONS,
    SamplingConfig,
)
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.options import MaceTraining, RunSpec
from rlpath_core.viz.options import VisualizeSpec

ROOT = Path(__file__).resolve().parents[1]
Sections = Mapping[str, Mapping[str, type[Section]]]
COMMAND = "python -m flows.config"
TRAININGS: dict[str, type[Section]] = {"mace": MaceTraining, "equiformer_v2, gemnet_oc": FairChemTraining}
PIPELINE: Sections = {
    "pipeline.action_plugins": PLUGIN_OPTIONS,
    "pipeline.validators": VALIDATOR_OPTIONS,
    "pipeline.recorders": RECORDER_OPTIONS,
}
PATHS: Sections = {
    "proposals": {name: PROPOSALS[name].Options for name in PROPOSALS},
    "searches": {name: SEARCHES[name].Options for name in SEARCHES},
}
DFT: Sections = {
    "settings": {name: ENGINES[name].Settings for name in ("tblite", "gpaw", "espresso", "vasp", "ase", "model")},
    "launcher_options": {name: LAUNCHERS[name].Options for name in ("local", "slurm")},
}


def _below(key: str, of: Sections) -> Sections:
    return {f"{key}.{path}": sections for path, sections in of.items()}


RUN = """run.yaml: one training, fine-tuning, evaluation, inference or export

One mapping, or `runs: [...]` with a `name` each, chosen with `--run NAME`:

```bash
python -m flows.run --config run.yaml [--run NAME] [--params key.sub=value ...]
torchrun --nproc-per-node 2 -m -- flows.run --config run.yaml   # data parallel
prefect deployment run run/default --param config=/path/to/run.yaml
```

Paths are relative to the file. `data.train: x` means `data: {train: x}`. An unknown key, a wrong type, a missing or a
conflicting setting ends with one line that names the file and the key, and exit code 2. The resolved settings, defaults
included, are written to `run_dir/run.yaml` (`evaluate.yaml`, `infer.yaml` or `export.yaml` by these tasks).

| task | needs | writes into `run_dir` |
|---|---|---|
| train | `train.input_json`, `data.train` | `artifacts/{best_model.pt,manifest.json,model.json}`, \
`checkpoints/checkpoint.pt`, `metrics.jsonl`, `result.json` |
| finetune | `model.manifest` or `model_in`, `data.train` | the same |
| resume | `model_in`: a checkpoint.pt, or a run_dir; `data.train` | the same |
| evaluate | `model.manifest` or `model_in`, `data.test` or `data.val` | `metrics.json`, `parity.png` |
| infer | the same; labels are not needed | `predictions.{extxyz,parquet,lmdb}`, as `eval.formats` says |
| export | `model_in`: a checkpoint, a bundle or a foreign `.model` | `artifacts/` with a bundle and a `mace.model` \
for `MACECalculator` |

EquiformerV2 and GemNet-OC are trained by FairChem's own trainer, in its own environment (`make fairchem`), with
`train.config_yml` in place of `train.input_json`. `run_dir` then also holds `fairchem.yml` (its whole configuration),
`fairchem.log`, `scale_factors.json` (GemNet-OC) and its own `checkpoints/best_checkpoint.pt`.

A micro-step is one backward pass; an update step (global step) is one optimizer step, after `train.accum_steps`
micro-steps.
"""
CAMPAIGN = """A campaign's file: one active-learning loop on one system

`python -m flows.al_loop --params campaign.yaml [key.sub=value ...]`, or `make loop PARAMS="..."`. Paths are relative to
the file. A file stands alone: what it leaves out has the default below, and no structure, model or data set has one.
Without a file the keys given lie on [configs/al_loop.yaml](../../configs/al_loop.yaml), the demonstration.

In a campaign with one backend, `model` and `train` may stand at the top in place of `backends.NAME.model` and
`backends.NAME.train`; `update_steps` and `replay_ratio` at the top are those of every backend.
"""
FILES = (
    ConfigFile("run", RunSpec, RUN, choices={"train": TRAININGS}, several="runs", replaced=("train",)),
    ConfigFile(
        "campaign",
        CampaignConfig,
        CAMPAIGN,
        choices={"backends.NAME.train": TRAININGS, **_below("dft", DFT)},
        entries=_below("sampling", PIPELINE),
        pages={"sampling": "sampling.md", "outbox": "outbox.md", "dft": "dft.md"},
        replaced=("backends",),
    ),
    ConfigFile(
        "sampling",
        SamplingConfig,
        "The section `sampling`, or a file of its own\n\nLengths are Å, angles degrees, energies eV, forces eV/Å. "
        "[configs/sampling.yaml](../../configs/sampling.yaml) shows every key with its default.",
        entries=PIPELINE,
    ),
    ConfigFile(
        "sample",
        SampleSpec,
        "`flows.sample`: one sampling run\n\n`python -m flows.sample --params sample.yaml`; the keys are also flags, "
        "`--run_dir runs/mine`. See [configs/sample.yaml](../../configs/sample.yaml).",
        entries=_below("sampling", PIPELINE),
        pages={"sampling": "sampling.md"},
    ),
    ConfigFile(
        "paths",
        PathsSpec,
        "`flows.paths`: one run of saddle searches\n\n`python -m flows.paths --params paths.yaml`; the keys are also "
        "flags, `--run_dir runs/mine`. A run begins with one of `campaign`, `sampling_run`, `initial` and `final`, "
        "`structure_json`. See [configs/paths.yaml](../../configs/paths.yaml).",
        entries=_below("paths", PATHS),
    ),
    ConfigFile(
        "dft",
        DftConfig,
        "The section `dft`, or a file of its own: reference calculations\n\n`python -m flows.dft_submit --config "
        "dft.yaml --run_dir ...`. [engines.md](../engines.md) introduces the engines, [labels.md](../labels.md) the "
        "life of a calculation.",
        choices=DFT,
    ),
    ConfigFile(
        "outbox",
        OutboxConfig,
        "The section `outbox`, or a file of its own: which candidates are labelled\n\n`python -m flows.outbox "
        "--config outbox.yaml --run_dir ...`.",
    ),
    ConfigFile(
        "visualize",
        VisualizeSpec,
        "`flows.visualize`: pictures and films\n\n`python -m flows.visualize --params visualize.yaml`; the keys are "
        "also flags, `--run_dir campaigns/default`.",
    ),
)


def files() -> dict[Path, str]:
    """Everything that is written, by its path in the repository."""
    titles = {file.name: file.introduction.strip().splitlines()[0] for file in FILES}
    index = ["# Reference of all config files\n", *(f"- [{title}]({name}.md)" for name, title in titles.items())]
    out = {ROOT / "docs/reference/README.md": "\n".join([*index, ""])}
    for file in FILES:
        out[ROOT / "docs" / "reference" / f"{file.name}.md"] = page(file, COMMAND)
        out[ROOT / "configs" / "schemas" / f"{file.name}.json"] = json.dumps(schema(file), indent=1) + "\n"
    return out


def main(argv: Sequence[str] | None = None) -> int:
    if not (ROOT / "docs").is_dir():
        print("error: only a checkout of the sources has these pages", file=sys.stderr)
        return 2
    for path, text in files().items():
        with atomic_write(path) as stream:
            stream.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
