"""The first file of a campaign: checked inputs, and a commented YAML that runs as it is. ``rlpath init``"""

from __future__ import annotations

import json
import logging
import shutil
import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from rlpath_core.backends import load_model
from rlpath_core.backends.registry import backend_of
from rlpath_core.campaign.options import NAME
from rlpath_core.config import ModelReference, Section, is_path
from rlpath_core.dft.engines import ENGINES
from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write
from rlpath_core.packaged import packaged
from rlpath_core.sampling.options import AdsorbateName, Direction, SamplingConfig
from rlpath_core.sampling.preflight import check_starts, roles_of
from rlpath_core.structure import Structure, read_structures

log = logging.getLogger("rlpath.campaign")


class InitSpec(Section):
    """What ``rlpath init`` takes."""

    name: str = Field(pattern=f"^{NAME}$")
    """The campaign's name; NAME.yaml is written into the current folder."""
    structure: Path
    """Where every walker starts: JSON with numbers, positions, cell, fixed and tags, or any file that ASE reads."""
    model: ModelReference
    """The starting model: manifest.json or its folder, or `ase:package.module.Class(key=value, ...)`."""
    adsorbate: AdsorbateName = None
    """`sampling.adsorbate`: a formula such as H2O, or atoms, counted from 0; null: by tags, else guessed, and said."""
    normal: Direction | None = None
    """`sampling.normal`: the direction out of the surface (--normal=-z); null: to the side of the adsorbate."""
    engine: str = "tblite"
    """What makes the labels: tblite, gpaw, espresso, vasp, or `ase:package.module.Class`, any ASE calculator."""


HEADER = """\
# Campaign {name}: explore with the model, label what it gets wrong, fine-tune it, measure, and again.
#   rlpath loop --config {name}.yaml                      runs it; given again, it continues
#   rlpath loop --config {name}.yaml --params rounds=5    the same with one key changed
# Paths are relative to this file. Results: campaigns/{name}/ (report.html, rounds.json) and models/{name}/.
campaign: {name}
seed: 1
rounds: 3               # of exploring, labelling and fine-tuning
labels_per_round: 16    # reference calculations in each
execution: inline       # in this process; pools: by the workers that `rlpath services up` starts
device: auto            # cuda, cpu, or auto: a GPU if there is one

# Every walker starts here. Fixed atoms never move. Tags: 0 slab, 1 surface layer, 2 adsorbate, or the layers as
# ASE's builders number them; without tags the adsorbate is guessed. `sampling.adsorbate` and `sampling.normal` say it.
structure: {structure}

# Labelled structures, with energies and forces of the engine below: an LMDB, or anything that ASE reads. All optional.
# heldout: heldout.xyz  # no round trains on it; without it the error on new labels is reported, before they are learned
# near: near.xyz        # near-equilibrium structures, measured after each round: nothing may be forgotten there
# replay: train.xyz     # what the model was trained on: mixed into every fine-tuning, replay_ratio structures per label
"""

MACE = """
# The starting model and its fine-tuning. `train` takes the keys of the section `train` of a run.yaml.
backend: mace
backends:
  mace:
    model: {model}
    update_steps: 300   # optimizer steps in each round, whatever the number of labels
    replay_ratio: 1.0
    train:
      batch_size: 8
      lr: 0.001
      scheduler: cosine
      lr_min: 0.00001
      ema_decay: 0.98
      energy_weight: 10.0
      force_weight: 10.0
      force_loss: huber
"""

FAIRCHEM = """
# The starting model and its fine-tuning by FairChem's own trainer, as {config_yml} has it.
backend: {backend}
backends:
  {backend}:
    model: {model}
    update_steps: 300   # optimizer steps in each round, whatever the number of labels
    replay_ratio: 1.0
    train: {{config_yml: {config_yml}}}
"""

OTHER = """
# The starting model; `train` takes the options of its backend's trainer.
backend: {backend}
backends:
  {backend}:
    model: {model}
    train: {{}}
"""

UNTRAINED = """
# The model. It cannot be trained: rounds explore with it, label, and measure its error on the new labels.
backend: {backend}
backends:
  {backend}:
    model: {model}
"""

FOOTER = """
# Reference calculations: the labels. Keys of `settings` are the engine's own.
dft:
  engine: {engine}
  settings: {settings}
  wall_seconds: 600.0   # time limit of one calculation
  # launcher: slurm     # on a cluster; `launcher_options` has its partition, account and setup lines

# Exploring. Lengths Å, angles degrees, energies eV, forces eV/Å; `weight` is an action's share of the draws, 0 is off.
sampling:
{roles}  walkers: auto         # in lockstep: each asks, and the model answers all in one batch
  steps: 64             # attempts in a round
  rigid_translate: {{weight: 1.0, max_step: 0.3}}   # of an adsorbate; also rigid_rotate, push_pull, dihedral_twist,
  md: {{weight: 0.25, max_temp_K: 400.0}}           # jitter and site_hop
  quench: {{method: bfgs, fmax: 0.1, steps: 100}}   # each accepted attempt is relaxed into its basin
  pipeline:
    validators: {{quality: {{max_force: 5.0}}}}      # attempts with larger forces are rejected
    trigger: {{max_force: 0.7, top_k_mean: 0.35}}  # structures with larger forces are candidates for a label

# Saddles: searched in every round, labelled before other candidates within `saddle_share`, confirmed by the reference.
paths: {{max_searches: 64}}   # null leaves them out
saddle_share: 0.5
"""


def write_campaign(spec: InitSpec, folder: Path) -> list[Path]:
    """Write ``folder/NAME.yaml``.

    Returns
    -------
    The files that were written: the campaign's, and for a FairChem model the configuration of its trainer.

    Raises
    ------
    InputError
        If the campaign's file exists, a structure or the model cannot be read, the model or the engine cannot
        calculate the structure, or the engine is not installed. Nothing is written then.
    """
    path = folder / f"{spec.name}.yaml"
    _refuse_existing(path)
    structures = read_structures(spec.structure)
    keys = {"adsorbate": spec.adsorbate, "normal": spec.normal}
    sampling = SamplingConfig(**{key: value for key, value in keys.items() if value is not None})
    check_starts(structures, spec.structure, sampling)
    described = roles_of(structures, sampling, spec.structure)[0].describe()
    log.info("%s", described)
    if is_path(spec.model) and not Path(spec.model).exists():
        raise InputError("no such file or folder", spec.model, "model")
    engine, settings = _engine(spec.engine, structures, spec.structure)
    model = load_model(spec.model)
    for structure in structures:
        model.check_elements(structure, str(spec.structure))
    if not is_path(spec.model):
        model.predict(structures[:1])  # a calculator does not say which elements it knows

    words = {"name": spec.name, "model": _beside(spec.model, folder), "backend": model.backend}
    text = HEADER.format(name=spec.name, structure=_beside(str(spec.structure), folder))
    written = [path]
    if model.backend == "mace":
        text += MACE.format(**words)
    elif (recipe := packaged("configs/fairchem") / f"loop_{model.backend}.yml").exists():
        written.append(folder / f"{spec.name}_{model.backend}.yml")
        _refuse_existing(written[1])
        text += FAIRCHEM.format(**words, config_yml=written[1].name)
        shutil.copy(recipe, written[1])
    else:
        text += (OTHER if backend_of(model.backend).trainer else UNTRAINED).format(**words)
    roles = "".join(f"  # {line}\n" for line in textwrap.wrap(described, 115))
    given = {key: value for key, value in keys.items() if value is not None}
    roles += "".join(f"  {key}: {json.dumps(value)}\n" for key, value in given.items())
    text += FOOTER.format(
        roles=roles, engine=engine, settings=yaml.safe_dump(settings, default_flow_style=True, width=1000).strip()
    )
    with atomic_write(path) as stream:
        stream.write(text)
    return written


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError("exists already: give the campaign another name, or move the file away", path)


def _engine(name: str, structures: list[Structure], where: Path) -> tuple[str, dict[str, Any]]:
    """The engine's name and settings in the campaign's file."""
    settings: dict[str, Any] = {}
    if name.startswith("ase:"):
        module, _, attribute = name.removeprefix("ase:").rpartition(".")
        name, settings = "ase", {"calculator": f"{module}:{attribute}"}
    try:
        engine = ENGINES[name](settings)
        engine.require()
    except InputError as error:
        raise InputError(error.what, error.where or "--engine", error.key) from error
    for structure in structures:
        if (reason := engine.refuse(structure)) is not None:
            raise InputError(f"{reason} (--engine chooses another)", where)
    return name, settings


def _beside(path: str, folder: Path) -> str:
    """A path as it is written into the file, relative if it lies below ``folder``; a calculator's name as it is."""
    if is_path(path) and Path(path).is_relative_to(folder.resolve()):
        path = str(Path(path).relative_to(folder.resolve()))
    return yaml.safe_dump(path, width=1000).removesuffix("\n...\n").strip()
