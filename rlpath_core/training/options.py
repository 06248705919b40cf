"""run.yaml: one training, fine-tuning, evaluation, inference or export run. No torch here: a config checks anywhere.

The keys of ``train`` are those of the backend's own trainer: ``MaceTraining`` here, ``FairChemTraining`` in
``training/fairchem``, or the section that another backend names in ``rlpath_core.backends.registry``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import TypeVar

from rlpath_core.backends.registry import BACKENDS, BackendName, backend_of
from rlpath_core.config import ModelReference, Section, check, located, merge, nested, read_mapping, wrong
from rlpath_core.errors import InputError, nearest
from rlpath_core.registry import import_name

Task = Literal["train", "finetune", "resume", "evaluate", "infer", "export"]
TRAINING = ("train", "finetune", "resume")
"""Tasks that change weights."""


class IndexSpec(Section):
    """Which entries of a split are used: those of an index file, else the first or randomly drawn ``max_samples``."""

    max_samples: int | None = Field(None, ge=1)
    """The largest number of entries that are used; null uses all."""
    shuffle: bool = False
    """Draw the entries at random instead of taking the first ones."""
    seed: int = 0
    """The seed of the random draw that `shuffle` switches on."""
    indices_path: Path | None = None
    """A JSON list of indices; it takes precedence over `max_samples`, `shuffle` and `seed`."""


class DataSpec(Section):
    """Each path is an LMDB (a file, a folder with ``data.mdb``, or a folder of shards), an ASE database, or a file with
    energies and forces that ASE reads."""

    train: Path | None = None
    """The training set. Tasks train, finetune and resume need it."""
    val: Path | None = None
    """The validation set, evaluated at every checkpoint: the best weights on it are kept. Without one, the last are."""
    test: Path | None = None
    """The set that evaluate and infer read; `data.val` if not given. Structures without labels will do for infer."""
    energy_key: str | None = None
    """The name of the energies in these files. null takes the usual ones: `REF_energy` (as mace_run_train has it),
    before `energy`, before `free_energy`; in LMDBs of FairChem `y` before `energy`. What was taken is said."""
    forces_key: str | None = None
    """The name of the forces in these files. null takes `REF_forces` before `forces` before `force`; in LMDBs
    `force` before `forces`."""
    indices: list[int] | None = None
    """Indices of the entries to use of the task's split (train, or test when evaluating). They take precedence over all
    other index keys."""
    indices_path: Path | None = None
    """A JSON file with the same; ignored if `indices` is given."""
    train_indices: IndexSpec = IndexSpec()
    """Which entries of `data.train` are used."""
    val_indices: IndexSpec = IndexSpec()
    """Which entries of `data.val` are used."""
    replay: Path | None = None
    """Older data that are mixed into each epoch, so that fine-tuning does not forget them."""
    replay_ratio: float = Field(1.0, gt=0)
    """Replayed structures per structure of `data.train`, drawn anew in each epoch from `train.seed` and the epoch."""
    replay_head: str | None = None
    """The head that the replayed data belong to, for a model with several; null takes the head that is trained."""
    cache: Path | None = None
    """A folder for neighbour lists, which are kept from run to run and memory-mapped: for sets that take long to build
    or do not fit into memory. null builds them in memory at the start."""


class ModelSpec(Section):
    """The model that a run starts from."""

    manifest: ModelReference | None = None
    """The model: manifest.json or the folder that holds it, or `ase:package.module.Class(key=value, ...)`. It takes
    precedence over `model_in`."""
    weights: Path | None = None
    """A state_dict in place of the manifest's own weights."""
    trust_pickle: bool = False
    """Must be true if `model_in` is a pickled `.model` from elsewhere: opening one runs whatever code it holds. It is
    converted once, into `run_dir/model_in`."""


class Training(Section):
    """The keys of ``train`` that every trainer has."""

    seed: int = 0
    """The seed of the initial weights and of the order of the data."""
    log_every: int | None = Field(None, ge=1)
    """Update steps between two lines of metrics.jsonl; null writes about 20 lines an epoch, with FairChem one every 10
    steps."""
    progress_bar: bool | Literal["auto"] = "auto"
    """Whether a progress bar is drawn; auto draws it on a terminal only."""
    progress_mininterval: float = Field(0.5, ge=0)
    """Seconds between two updates of the progress bar."""
    max_seconds: float | None = Field(None, gt=0)
    """Training ends after this time, at the end of an update step, with the best weights so far. The seconds are those
    of this session: the same command after a kill, and task resume, have the whole time again."""
    energy_loss_per: Literal["atom", "configuration"] | None = None
    """atom takes energy errors in eV/atom, so that all sizes count alike; configuration takes them in eV per
    configuration, so that large ones count more. null: atom for mace; as `config_yml` says for FairChem (atom is its
    per_atom_mae, configuration its mae)."""
    head_key: str = "omat_pbe"
    """The head to train and to predict with, of a model with several. If it is not given, the model's own head is used;
    omat_pbe is for a model that names none and has it. A model with one head uses that one."""

    from_the_model: ClassVar[tuple[str, ...]] = ("head_key",)
    """Keys that the model decides where they are not given: a written run.yaml leaves them out then."""
    own_process: ClassVar[bool] = True
    """Whether the trainer runs in a process of its own, which ``backend_python``, ``_env`` and ``_args`` configure."""

    def complete(self, run: RunSpec) -> None:
        """Check what this trainer needs of the rest of the run. Raises ``wrong``."""

    @property
    def given_head(self) -> str | None:
        """``head_key`` if it was given."""
        return self.head_key if "head_key" in self.model_fields_set else None

    @model_serializer(mode="wrap")
    def _without_what_the_model_decides(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        out: dict[str, Any] = handler(self)
        left_out = set(self.from_the_model) - self.model_fields_set
        return {key: value for key, value in out.items() if key not in left_out}


class MaceTraining(Training):
    """The core trainer. An update step is one optimizer step, after ``accum_steps`` micro-batches."""

    hints = dict.fromkeys(("config_yml",), "belongs to the FairChem backends; mace takes train.input_json") | {
        "identifier": "belongs to the FairChem backends; mace runs in this environment"
    }

    input_json: Path | None = None
    """model.json, the architecture. Task train requires it; the other tasks find it in their model, and task finetune
    takes from this file the energies of free atoms alone, with `e0s: given`."""
    epochs: int = Field(100, ge=1)
    """Passes over the data, including those before a resumption."""
    batch_size: int = Field(8, ge=1)
    """Structures in a micro-batch, summed over all processes."""
    max_edges: int | None = Field(None, ge=1)
    """A micro-batch with more edges than this is computed in pieces, so that one large structure does not limit the
    batch size. The update stays the same."""
    num_workers: int = Field(0, ge=0)
    """Threads that collate the coming batches; their number never changes the result."""
    lr: float = Field(1e-3, gt=0)
    """The learning rate before the scheduler acts on it."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the products and linear layers, as in mace's own trainer."""
    optimizer: Literal["adam", "adamw", "amsgrad", "sgd"] = "amsgrad"
    """The optimizer; amsgrad is the variant of Adam that mace trains with, sgd has momentum 0.9."""
    amp: bool = False
    """bfloat16 autocast on a GPU; it has no effect on a CPU."""
    dtype: Literal["float32", "float64"] = "float32"
    """The precision of weights and arithmetic. If it is not given, a fine-tuning has that of its model."""
    accum_steps: int = Field(1, ge=1)
    """Micro-batches in an update step; the update is that of one batch that holds them all."""
    drop_last: bool = False
    """Leave out the last update step of an epoch if the data do not fill it."""
    cycle_steps: int = 0
    """If above 0, a checkpoint and then a validation follow after every this number of update steps, and `drop_last` is
    forced on."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    """Gradients with a larger norm are scaled down to it; null leaves them as they are."""
    save_every: int = Field(1, ge=1)
    """Epochs between two checkpoints, if `cycle_steps` is 0."""
    freeze: Literal["none", "head_only"] = "none"
    """head_only trains the readouts and nothing else."""
    energy_weight: float = Field(1.0, ge=0)
    """The weight of the energy error, whose mean square has the unit (eV/atom)² or eV². With 0 the data need no
    energies."""
    force_weight: float = Field(1.0, ge=0)
    """The weight of the error over force components, whose mean square has the unit (eV/Å)². With 0 the data need no
    forces."""
    energy_loss: Literal["mse", "mae", "huber"] = "mse"
    """The loss function of an energy error."""
    energy_loss_per: Literal["atom", "configuration"] | None = "atom"
    """atom takes energy errors in eV/atom, so that all sizes count alike; configuration takes them in eV per
    configuration, so that large ones count more."""
    force_loss: Literal["mse", "mae", "huber"] = "mse"
    """The loss function of the error of a force component."""
    huber_delta: float = Field(0.05, gt=0)
    """The error at which the Huber loss turns from quadratic to linear, in eV/atom and eV/Å."""
    scheduler: Literal["none", "cosine", "step", "exponential", "plateau"] = "none"
    """How the learning rate changes. plateau lowers it when validation no longer improves, and only then."""
    scheduler_step_unit: Literal["epoch", "cycle"] = "epoch"
    """The unit in which cosine, step and exponential count."""
    scheduler_gamma: float = Field(0.5, gt=0, le=1)
    """The factor by which step, exponential and plateau change the learning rate."""
    scheduler_step_size: int = Field(10, ge=1)
    """Units between two drops of the step scheduler; the patience, in evaluations, of plateau."""
    lr_min: float = Field(0.0, ge=0)
    """The learning rate that cosine ends with and plateau does not fall below."""
    warmup_steps: int = Field(0, ge=0)
    """Update steps over which the learning rate rises linearly to `lr`."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """The decay of an exponential moving average of the weights; the average is what is validated and kept."""
    early_stop_factor: float | None = Field(None, gt=1)
    """Training stops once the validation loss exceeds the best by this factor."""
    new_head: str | None = None
    """Task finetune only: add a head of this name, which starts as a copy of the one that `head_key` or the model
    names, and train that one."""
    e0s: Literal["given", "lstsq", "model"] | None = None
    """The energies of free atoms. model takes those of the model that is fine-tuned; given takes those of `input_json`;
    lstsq fits them by least squares: to the energies in task train, and in task finetune to what the labels differ from
    the model's predictions by, so that elements that the data lack keep theirs. null: the model's if there is one, else
    those of `input_json` if it has them, else least squares. With `new_head` the other heads keep theirs."""

    from_the_model = (*Training.from_the_model, "dtype")
    own_process = False

    @property
    def drops_last(self) -> bool:
        """``drop_last`` as it is used: cycles force it on."""
        return self.drop_last or self.cycle_steps > 0

    @field_validator("energy_loss_per", mode="before")
    @classmethod
    def _per_atom(cls, value: Any) -> Any:
        return "atom" if value is None else value

    def complete(self, run: RunSpec) -> None:
        if run.task == "train" and self.input_json is None:
            raise wrong("train.input_json", "task train needs the model.json of the network to train")
        if self.scheduler_step_unit == "cycle" and self.cycle_steps <= 0:
            raise wrong("train.scheduler_step_unit", "cycle needs train.cycle_steps above 0")
        if self.new_head and run.task not in ("finetune", "resume"):
            raise wrong("train.new_head", "belongs to task finetune")
        if self.energy_weight == 0 and self.force_weight == 0:
            raise wrong("train.energy_weight", "is 0 like train.force_weight: there is nothing to train on")


class EvalSpec(Section):
    """Settings of evaluate and infer."""

    energy_only: bool = False
    """Leave out the forces, which evaluate then needs no labels of."""
    amp: bool = False
    """bfloat16 autocast on a GPU; it has no effect on a CPU."""
    batch_size: int = Field(32, ge=1)
    """Structures in a forward pass; fewer are taken if memory does not suffice."""
    formats: list[Literal["extxyz", "parquet", "lmdb"]] = Field(["extxyz"], min_length=1)
    """The files of predictions that infer writes into run_dir."""


def training_options(backend: str) -> type[Training]:
    """The section ``train`` of a backend's trainer; without a trainer, only what evaluation uses.

    Raises InputError for an unknown backend, and where its section cannot be imported or is no ``Training``.
    """
    name = backend_of(backend).training_options
    if name is None:
        return Training
    section: Any = import_name(name, f"training options of backend {backend}")
    if not (isinstance(section, type) and issubclass(section, Training)):
        raise InputError(f"training options of backend {backend}: {name} is no subclass of {__name__}.Training")
    return section


T = TypeVar("T", bound=Training, default=Training, covariant=True)


class RunSpec(Section, Generic[T]):
    """One run. Paths are absolute once read from a file; see ``read_run``."""

    backend: BackendName = "mace"
    """The kind of model: mace, equiformer_v2, gemnet_oc, or a backend that an installed package adds."""
    task: Task
    """What to do."""
    run_dir: Path
    """The folder of all outputs: run.yaml as resolved, metrics.jsonl, checkpoints/, artifacts/, predictions."""
    model_in: Path | None = None
    """A bundle (its folder or manifest.json), a run_dir, which stands for its best weights, a checkpoint.pt, which
    stands for its last ones (their moving average if the run keeps one; FairChem's own and published ones too), or a
    foreign .model (see `model.trust_pickle`)."""
    model: ModelSpec = ModelSpec()
    device: str = "cuda"
    """cuda, cuda:N, cpu, or auto, which takes a GPU if there is one. Under torchrun, cuda is each process's own GPU."""
    backend_python: str | None = None
    """The Python of FairChem's environment; null takes the one that `make fairchem` built. An error for mace, which is
    trained in this environment."""
    backend_env: dict[str, str] = {}
    """Environment variables of FairChem's process; an error for mace."""
    backend_args: list[str] = []
    """FairChem's own overrides of its configuration, such as `--optim.max_epochs=20`, and its flags `--amp` and
    `--print-every`; an error for mace."""
    data: DataSpec = DataSpec()
    train: SerializeAsAny[T]
    eval: EvalSpec = EvalSpec()

    @classmethod
    def chosen(cls, value: Mapping[str, Any]) -> dict[str, type[Section]]:
        backend = value.get("backend", "mace")
        return {"train": training_options(backend)} if isinstance(backend, str) and backend in BACKENDS else {}

    @model_validator(mode="before")
    @classmethod
    def _with_training(cls, value: Any) -> Any:
        return {"train": {}} | value if isinstance(value, dict) else value

    @property
    def starting_model(self) -> str:
        """The model that a task other than train starts from: a reference, checkpoint, run_dir or foreign file."""
        given = self.model.manifest or self.model_in
        assert given is not None  # _complete has checked it
        return str(given)

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        if value not in ("cpu", "cuda", "auto") and not (value.startswith("cuda:") and value[5:].isdigit()):
            raise ValueError("choose cuda, cuda:N, cpu or auto")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.task != "train" and not (self.model_in or self.model.manifest):
            raise ValueError(f"task {self.task} needs model_in or model.manifest")
        if self.task in TRAINING and self.data.train is None:
            raise ValueError(f"task {self.task} needs data.train")
        if self.task in TRAINING and backend_of(self.backend).trainer is None:
            raise wrong("backend", f"models of backend {self.backend} cannot be trained, only evaluated")
        if self.task in ("evaluate", "infer") and not (self.data.test or self.data.val):
            raise ValueError(f"task {self.task} needs data.test (or data.val)")
        if self.data.replay_head and not self.data.replay:
            raise ValueError("data.replay_head needs data.replay")
        if not self.train.own_process:
            for key in ("backend_python", "backend_env", "backend_args"):
                if getattr(self, key):
                    what = f"belongs to the FairChem backends; {self.backend} runs in this environment"
                    raise wrong(key, what)
        self.train.complete(self)
        return self


def _undotted(value: dict[str, Any]) -> dict[str, Any]:
    """``data.train: x`` written flat means ``data: {train: x}``."""
    out: dict[str, Any] = {}
    for key, entry in value.items():
        out = merge(out, nested(str(key), entry))
    return out


def read_run(path: str | Path, name: str | None = None, overrides: dict[str, Any] | None = None) -> RunSpec:
    """The run of a run.yaml: one mapping, or ``runs: [...]`` with a ``name`` each, chosen by ``name``.

    Relative paths are relative to the file. ``overrides`` is laid over what the file says. Raises InputError.
    """
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
    return check(RunSpec, located(merged, RunSpec, path.resolve().parent), path)
