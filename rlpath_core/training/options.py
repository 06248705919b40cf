"""run.yaml: one training, fine-tuning, evaluation, inference or export run. No torch here: a config checks anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from rlpath_core.backends.registry import BackendName
from rlpath_core.config.load import Section, check, read_mapping
from rlpath_core.errors import InputError, nearest

Task = Literal["train", "finetune", "resume", "evaluate", "infer", "export"]

ELSEWHERE = {
    "input_json": "train.config_yml",
    "epochs": "optim.max_epochs",
    "batch_size": "optim.batch_size",
    "num_workers": "optim.num_workers",
    "lr": "optim.lr_initial",
    "weight_decay": "optim.optimizer_params.weight_decay",
    "optimizer": "optim.optimizer",
    "amp": "the flag --amp",
    "max_grad_norm": "optim.clip_grad_norm",
    "cycle_steps": "optim.eval_every and optim.checkpoint_every",
    "save_every": "optim.checkpoint_every, in update steps",
    "energy_weight": "the coefficients of loss_functions",
    "force_weight": "the coefficients of loss_functions",
    "energy_loss": "the fn of loss_functions",
    "force_loss": "the fn of loss_functions",
    "scheduler": "optim.scheduler and optim.scheduler_params",
    "scheduler_step_unit": "optim.scheduler and optim.scheduler_params",
    "scheduler_gamma": "optim.scheduler and optim.scheduler_params",
    "scheduler_step_size": "optim.scheduler and optim.scheduler_params",
    "lr_min": "optim.scheduler_params",
    "warmup_steps": "optim.scheduler_params",
    "ema_decay": "optim.ema_decay",
    "e0s": "dataset.train.transforms.element_references",
}
"""Keys of MACE's trainer, and where FairChem's configuration says the same. ``OF_BOTH`` are for both."""
OF_BOTH = frozenset(
    ("config_yml", "identifier", "seed", "energy_loss_per", "log_every", "progress_bar", "progress_mininterval")
    + ("max_seconds", "head_key")
)


class IndexSpec(Section):
    """Which entries of a split are used: an index file, else the first (or shuffled) ``max_samples``."""

    max_samples: int | None = Field(None, ge=1)
    """At most so many entries; null: all."""
    shuffle: bool = False
    """Draw them at random instead of taking the first."""
    seed: int = 0
    """Of the draw."""
    indices_path: Path | None = None
    """A JSON list of indices; goes before the sampling keys."""


class DataSpec(Section):
    """Each path is an LMDB file, a folder of ``*.lmdb`` shards, or a file with energies and forces that ASE reads."""

    train: Path | None = None
    """Needed by train, finetune and resume."""
    val: Path | None = None
    """Measured at every checkpoint; the weights that are kept are the best on it. Without it, the last are kept."""
    test: Path | None = None
    """What evaluate and infer read (else ``data.val``); infer takes structures without labels too."""
    indices: list[int] | None = None
    """Indices of the split at work (train, or test when evaluating); go before everything else."""
    indices_path: Path | None = None
    """The same as a JSON file; ignored where ``indices`` is given."""
    train_indices: IndexSpec = IndexSpec()
    """Which entries of ``data.train``."""
    val_indices: IndexSpec = IndexSpec()
    """Which entries of ``data.val``."""
    replay: Path | None = None
    """Older data mixed into each epoch, so that fine-tuning does not forget."""
    replay_ratio: float = Field(1.0, gt=0)
    """Replayed structures per structure of ``train``, drawn anew each epoch from ``train.seed`` and the epoch."""
    replay_head: str | None = None
    """The head that replayed data belong to, for a model with several; null: the head that is trained."""
    cache: Path | None = None
    """A folder for neighbour lists, kept from run to run and memory-mapped: for sets that take long to build, or that
    do not fit into memory. null: built in memory at the start."""


class ModelSpec(Section):
    manifest: Path | None = None
    """manifest.json of a bundle, or the folder with it; goes before ``model_in``."""
    weights: Path | None = None
    """A state_dict in place of the manifest's own weights."""
    trust_pickle: bool = False
    """Needed where ``model_in`` is a pickled ``.model`` from elsewhere: opening one runs whatever code it holds. It is
    converted once, into ``run_dir/model_in``."""


class TrainSpec(Section):
    """The core trainer. An update step is one optimizer step, after ``accum_steps`` micro-batches."""

    # What FairChem's own trainer takes, beside ``seed``, ``energy_loss_per``, ``log_every``, ``max_seconds`` and the
    # progress bar; the rest is said in its configuration:
    config_yml: Path | None = None
    """FairChem's configuration, a YAML file with or without ``includes``: network, optimizer, losses; data, logger and
    folders are filled in. Required by the FairChem backends, an error for mace."""
    identifier: str | None = None
    """FairChem's name of the run; an error for mace."""

    input_json: Path | None = None
    """model.json: the architecture. Required by ``task: train``; the other tasks have it in their model."""
    epochs: int = Field(100, ge=1)
    """Passes over the data, those before a resumption included."""
    batch_size: int = Field(8, ge=1)
    """Structures in a micro-batch, over all processes together."""
    max_edges: int | None = Field(None, ge=1)
    """A micro-batch with more edges than this is computed in pieces, so that one large structure does not set the
    batch size. The update stays the same."""
    num_workers: int = Field(0, ge=0)
    """Threads that collate the coming batches; their number never changes the result."""
    seed: int = 0
    """Of the first weights and of the order of the data."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate, before the scheduler."""
    weight_decay: float = Field(0.0, ge=0)
    """On the products and linear layers, as in mace's own trainer."""
    optimizer: Literal["adam", "adamw", "amsgrad", "sgd"] = "amsgrad"
    """amsgrad is Adam's variant that mace trains with; sgd has momentum 0.9."""
    amp: bool = False
    """bfloat16 autocast on a GPU; no effect on a CPU."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of weights and arithmetic."""
    accum_steps: int = Field(1, ge=1)
    """Micro-batches in an update step; the update is that of one batch of their sum."""
    drop_last: bool = False
    """Leave out the last update step of an epoch where the data do not fill it."""
    cycle_steps: int = 0
    """Above 0: checkpoint, then validate, every so many update steps; ``drop_last`` is then forced on."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    """Gradients are scaled down to this norm; null: never."""
    save_every: int = Field(1, ge=1)
    """Epochs between checkpoints, where cycles are off."""
    log_every: int | None = Field(None, ge=1)
    """Update steps between lines of metrics.jsonl; null: about 20 an epoch, every 10 steps for FairChem."""
    progress_bar: bool | Literal["auto"] = "auto"
    """auto: on a terminal only."""
    progress_mininterval: float = Field(0.5, ge=0)
    """Seconds between redraws of the bar."""
    freeze: Literal["none", "head_only"] = "none"
    """head_only trains the readouts and nothing else."""
    energy_weight: float = Field(1.0, ge=0)
    """Of the mean squared (or other) energy error, (eV/atom)² or eV²."""
    force_weight: float = Field(1.0, ge=0)
    """Of the mean squared (or Huber) error over force components, (eV/Å)²."""
    energy_loss: Literal["mse", "mae", "huber"] = "mse"
    """Of an energy error."""
    energy_loss_per: Literal["atom", "configuration"] | None = None
    """Errors in eV/atom, so that all sizes count alike, or in eV per configuration, so that large ones count more.
    null: atom for mace; for FairChem as ``config_yml`` says (atom is its per_atom_mae, configuration its mae)."""
    force_loss: Literal["mse", "mae", "huber"] = "mse"
    """Of the error of a force component."""
    huber_delta: float = Field(0.05, gt=0)
    """Where Huber turns from square to line, eV/atom and eV/Å."""
    scheduler: Literal["none", "cosine", "step", "exponential", "plateau"] = "none"
    """How the learning rate changes. plateau drops it where validation no longer improves, and only there."""
    scheduler_step_unit: Literal["epoch", "cycle"] = "epoch"
    """What cosine, step and exponential count."""
    scheduler_gamma: float = Field(0.5, gt=0, le=1)
    """Factor of step, exponential and plateau."""
    scheduler_step_size: int = Field(10, ge=1)
    """Units between drops of the step scheduler; patience, in evaluations, of plateau."""
    lr_min: float = Field(0.0, ge=0)
    """Where cosine ends and plateau stops."""
    warmup_steps: int = Field(0, ge=0)
    """Update steps over which the rate rises linearly to ``lr``."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Exponential moving average of the weights; the average is what is validated and kept."""
    early_stop_factor: float | None = Field(None, gt=1)
    """Stop once the validation loss is more than this many times the best."""
    head_key: str = "omat_pbe"
    """The head to train and read where a model has several; a model with one head uses that one."""
    new_head: str | None = None
    """finetune only: add a head of this name, started as a copy of ``head_key``'s, and train that one."""
    e0s: Literal["given", "lstsq", "model"] | None = None
    """Energies of free atoms: from model.json, by least squares on the data, or of the model that is fine-tuned.
    null: the model's where there is one, else model.json's where it has them, else least squares. With ``new_head``
    the others keep theirs."""
    max_seconds: float | None = Field(None, gt=0)
    """End after this much training time, at the end of an update step, with the best weights so far."""


class EvalSpec(Section):
    """evaluate and infer."""

    energy_only: bool = False
    """Leave out the forces."""
    amp: bool = False
    """bfloat16 autocast on a GPU; no effect on a CPU."""
    batch_size: int = Field(32, ge=1)
    """Structures in a forward pass; fewer where memory does not allow it."""
    formats: list[Literal["extxyz", "parquet", "lmdb"]] = Field(["extxyz"], min_length=1)
    """infer: which files of predictions to write into run_dir."""


class RunSpec(Section):
    """One run. Paths are absolute once read from a file; see ``read_run``."""

    backend: BackendName = "mace"
    """The kind of model: mace, equiformer_v2, gemnet_oc, or the backend of an installed plug-in."""
    task: Task
    """What to do."""
    run_dir: Path
    """Where everything goes: run.yaml as resolved, metrics.jsonl, checkpoints/, artifacts/, predictions."""
    model_in: Path | None = None
    """A bundle (folder or manifest.json), a run_dir, a checkpoint.pt (FairChem's own and published ones too), or a
    foreign .model (``model.trust_pickle``)."""
    model: ModelSpec = ModelSpec()
    device: str = "cuda"
    """cuda, cuda:N, cpu, or auto: cuda where there is a GPU. Under torchrun, cuda is each process's own."""
    backend_python: str | None = None
    """The interpreter of FairChem's environment; null: the one that ``make fairchem`` built. An error for mace, which
    runs in this one."""
    backend_env: dict[str, str] = {}
    """Environment variables for FairChem's own process; an error for mace."""
    backend_args: list[str] = []
    """FairChem's own overrides of its configuration, ``--optim.max_epochs=20``, and its flags ``--amp`` and
    ``--print-every``; an error for mace."""
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()
    eval: EvalSpec = EvalSpec()

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if value not in ("cpu", "cuda", "auto") and not (value.startswith("cuda:") and value[5:].isdigit()):
            raise ValueError("choose cuda, cuda:N, cpu or auto")
        return value

    @model_validator(mode="before")
    @classmethod
    def _per_atom(cls, value: Any) -> Any:
        """mace's default, spelled out, as run.yaml files of earlier versions have it."""
        if not isinstance(value, dict) or value.get("backend", "mace") != "mace":
            return value
        train = value.get("train", {})
        if isinstance(train, dict) and train.get("energy_loss_per") is None:
            return {**value, "train": {**train, "energy_loss_per": "atom"}}
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        def need(found: Any, key: str, why: str = "") -> None:
            if found is None:
                raise ValueError(f"task {self.task} needs {key}{why}")

        given = self.model_in or self.model.manifest
        if self.task != "train":
            need(given, "model_in or model.manifest")
        if self.task in ("train", "finetune", "resume"):
            need(self.data.train, "data.train")
        if self.task in ("evaluate", "infer"):
            need(self.data.test or self.data.val, "data.test (or data.val)")
        if self.backend == "mace":
            if self.task == "train":
                need(self.train.input_json, "train.input_json", ", the model.json of the network to train")
            if self.train.config_yml:
                raise ValueError("train.config_yml belongs to the FairChem backends; mace takes train.input_json")
            for key, value in (
                ("train.identifier", self.train.identifier),
                ("backend_python", self.backend_python),
                ("backend_env", self.backend_env),
                ("backend_args", self.backend_args),
            ):
                if value:
                    raise ValueError(f"{key} belongs to the FairChem backends; mace runs in this environment")
        elif self.task in ("train", "finetune", "resume"):
            need(self.train.config_yml, "train.config_yml", ", a FairChem configuration")
            self._only_fairchems_keys()
        if self.train.scheduler_step_unit == "cycle" and self.train.cycle_steps <= 0:
            raise ValueError("train.scheduler_step_unit cycle needs train.cycle_steps above 0")
        if self.train.new_head and self.task not in ("finetune", "resume"):
            raise ValueError("train.new_head belongs to task finetune")
        if self.data.replay_head and not self.data.replay:
            raise ValueError("data.replay_head needs data.replay")
        if self.train.energy_weight == 0 and self.train.force_weight == 0:
            raise ValueError("train.energy_weight and train.force_weight are both 0: there is nothing to train on")
        return self

    def _only_fairchems_keys(self) -> None:
        for name, field in TrainSpec.model_fields.items():
            if name in OF_BOTH or getattr(self.train, name) == field.default:
                continue
            where = ELSEWHERE.get(name)
            raise ValueError(
                f"train.{name} belongs to mace; "
                + (
                    f"FairChem has {where}: in train.config_yml or backend_args"
                    if where
                    else "FairChem has no such key"
                )
            )
        for name in ("replay_head", "cache"):
            if getattr(self.data, name) is not None:
                raise ValueError(f"data.{name} belongs to mace; FairChem has no such key")

    @property
    def drop_last(self) -> bool:
        """As used: cycles force it on."""
        return self.train.drop_last or self.train.cycle_steps > 0


PATH_KEYS = (
    ("run_dir",),
    ("model_in",),
    ("model", "manifest"),
    ("model", "weights"),
    ("data", "train"),
    ("data", "val"),
    ("data", "test"),
    ("data", "replay"),
    ("data", "cache"),
    ("data", "indices_path"),
    ("data", "train_indices", "indices_path"),
    ("data", "val_indices", "indices_path"),
    ("train", "input_json"),
    ("train", "config_yml"),
)


def _with_absolute_paths(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The mapping with every path read relative to ``folder``; what is no mapping or string is left to the check."""
    out = dict(value)
    for first, *rest in PATH_KEYS:
        if first not in out:
            continue
        if rest and isinstance(out[first], dict):
            out[first] = _nested(out[first], rest, folder)
        elif not rest and isinstance(out[first], str):
            out[first] = str(folder / Path(out[first]).expanduser())
    return out


def _nested(value: dict[str, Any], keys: list[str], folder: Path) -> dict[str, Any]:
    key, *rest = keys
    found = value.get(key)
    if rest and isinstance(found, dict):
        return {**value, key: _nested(found, rest, folder)}
    if not rest and isinstance(found, str):
        return {**value, key: str(folder / Path(found).expanduser())}
    return value


def _undotted(value: dict[str, Any]) -> dict[str, Any]:
    """``data.train: x`` written flat means ``data: {train: x}``."""
    from rlpath_core.config.load import merge

    out: dict[str, Any] = {}
    for key, found in value.items():
        for part in reversed(str(key).split(".")):
            found = {part: found}
        out = merge(out, found)
    return out


def read_run(path: str | Path, name: str | None = None, overrides: dict[str, Any] | None = None) -> RunSpec:
    """The run of a run.yaml: one mapping, or ``runs: [...]`` with a ``name`` each, chosen by ``name``.

    Relative paths are relative to the file. ``overrides`` is laid over what the file says. Raises InputError.
    """
    from rlpath_core.config.load import merge

    path = Path(path)
    value = read_mapping(path)
    if "runs" in value:
        runs = value["runs"]
        if set(value) != {"runs"} or not isinstance(runs, list) or not all(isinstance(r, dict) for r in runs):
            raise InputError("expected a list of runs with a name each, and nothing beside it", path, "runs")
        by_name = {str(run.get("name")): run for run in runs}
        if len(by_name) != len(runs) or "None" in by_name:
            raise InputError("every run needs a name of its own", path, "runs")
        names = ", ".join(by_name)
        if name is None and len(runs) != 1:
            raise InputError(f"holds several runs: choose one with --run. There are: {names}", path, "runs")
        if name is not None and name not in by_name:
            raise InputError(f"no run is called {name!r}.{nearest(name, by_name)} There are: {names}", path, "runs")
        value = {k: v for k, v in (by_name[name] if name else runs[0]).items() if k != "name"}
    elif name is not None and value.get("name") != name:
        raise InputError(f"holds one run, and it is not called {name!r}", path)
    value = {k: v for k, v in value.items() if k != "name"}
    merged = merge(_undotted(value), _undotted(overrides or {}))
    return check(RunSpec, _with_absolute_paths(merged, path.resolve().parent), path)


def resolved(spec: Section) -> str:
    """The YAML of a checked section with all its defaults, as written into run folders."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
