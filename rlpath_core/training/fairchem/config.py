"""What FairChem is told: the user's ``train.config_yml`` with its includes, ``backend_args`` laid over it, and what a
run.yaml decides filled in.

FairChem imports, evaluates or unpickles what some places of its configuration name. So nothing of a configuration is
passed on unseen: names must be of a known list or plain words, files must be numbers (JSON or NPZ), and whole sections
that a run.yaml decides (data, logger, folders) are ours. Plain data from here on: no torch, no fairchem.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml

from rlpath_core.backends.fairchem.architecture import network_of
from rlpath_core.config import merge
from rlpath_core.errors import InputError, nearest
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.options import RunSpec

CHECKPOINT, BEST = "checkpoint.pt", "best_checkpoint.pt"
OURS = "rlpath"
"""The key of a checkpoint that holds what FairChem's own lacks."""
SECTIONS = (
    "trainer", "model", "optim", "dataset", "outputs", "loss_functions", "loss_fns", "evaluation_metrics",
    "eval_metrics", "task", "amp",
)  # fmt: skip
IGNORED = (
    "logger",
    "gpus",
    "num_gpus",
    "slurm",
    "val_dataset",
    "test_dataset",
    "relax_dataset",
    "hide_eval_progressbar",
)
"""Sections that say what a run.yaml says: where data, logs and devices are."""
TRAINERS = ("ocp", "forces", "equiformerv2_forces")
SPLIT_KEYS = ("transforms", "normalize_labels", "target_mean", "target_std", "grad_target_mean", "grad_target_std")
TRANSFORMS = ("normalizer", "element_references")
OUTPUTS = {
    "energy": {"shape": 1, "level": "system"},
    "forces": {"irrep_dim": 1, "level": "atom", "train_on_free_atoms": False, "eval_on_free_atoms": False},
}
METRICS = {
    "metrics": {"energy": ["mae", "per_atom_mae"], "forces": ["mae", "cosine_similarity"]},
    "primary_metric": "forces_mae",
}
LOSSES = [
    {"energy": {"fn": "per_atom_mae", "coefficient": 1}},
    {"forces": {"fn": "l2mae", "coefficient": 10}},
]
PER_ATOM = {"mae": "per_atom_mae"}
"""FairChem's losses of an energy per structure that have one per atom beside them."""
FIT_BATCH = 32
FIT_STRUCTURES = 20_000
"""Structures at most that references and normalisers are fitted on."""
FLAGS = {"--amp": 0, "--print-every": 1}
"""FairChem's own flags that ``backend_args`` may hold, and how many values they take."""
SAID_BY = {
    "--mode": "task",
    "--config-yml": "train.config_yml",
    "--identifier": "train.identifier",
    "--seed": "train.seed",
    "--checkpoint": "model_in",
    "--run-dir": "run_dir",
    "--timestamp-id": "run_dir",
    "--cpu": "device",
}


class _UniqueKeys(yaml.SafeLoader):
    """As FairChem reads its files: a key that is there twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if (name := self.construct_object(key, deep=deep)) in seen:  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem=f"{name!r} is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_config(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A FairChem configuration with the files of its ``includes`` below it, as FairChem's ``load_config`` merges them.

    Raises InputError for a file that is not there, is not such a mapping, or includes itself.
    """
    path = path.resolve()
    if path in above:
        raise InputError("includes itself", path, "includes")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        if above:
            raise InputError(f"no such file: {path}", above[-1], "includes") from None
        raise InputError("no such file", path, "train.config_yml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        raise InputError(f"not YAML: {getattr(error, 'problem', None) or error}", path, line) from error
    if not isinstance(value, dict):
        raise InputError("expected a mapping of keys to values", path)
    includes = value.pop("includes", None) or []
    if not isinstance(includes, list) or not all(isinstance(one, str) for one in includes):
        raise InputError("expected a list of file names", path, "includes")
    base: dict[str, Any] = {}
    for name in includes:
        included = read_config(path.parent / name, (*above, path))
        if (twice := _leaves(base) & _leaves(included)) and any(_at(base, k) != _at(included, k) for k in twice):
            raise InputError(f"two of its files say different things of {min(twice)}", path, "includes")
        base = merge(base, included)
    return merge(base, value)


def _leaves(value: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, one in value.items():
        found |= _leaves(one, f"{prefix}{key}.") if isinstance(one, dict) else {f"{prefix}{key}"}
    return found


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def split_arguments(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """``backend_args`` as what they lay over the configuration (``--optim.max_epochs=20``), and FairChem's flags."""
    overrides: dict[str, Any] = {}
    flags: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, text = word.partition("=")
        if name in SAID_BY:
            raise InputError(f"{name} is said by {SAID_BY[name]}", key="backend_args")
        if name in FLAGS:
            flags.append(name)
            if FLAGS[name]:
                if not equals and not waiting:
                    raise InputError(f"{name} takes a value", key="backend_args")
                flags.append(text if equals else waiting.pop(0))
        elif not name.startswith("--") or not equals:
            raise InputError(
                f"{word!r}: expected --section.key=value of FairChem's configuration, or one of {', '.join(FLAGS)}",
                key="backend_args",
            )
        elif name[2:].split(".")[0] not in SECTIONS:
            hint = nearest(name[2:].split(".")[0], SECTIONS)
            raise InputError(f"{word!r}: no such section.{hint} Known: {', '.join(SECTIONS)}", key="backend_args")
        else:
            try:
                value = ast.literal_eval(text)  # as FairChem does: a Python literal, else text
            except (ValueError, SyntaxError):
                value = text
            for key in reversed(name[2:].split(".")):
                value = {key: value}
            overrides = merge(overrides, value)
    return overrides, flags


def complete(
    spec: RunSpec[FairChemTraining],
    network: dict[str, Any] | None = None,
    targets: Literal["fit", "fitted", "model"] = "fit",
) -> tuple[dict[str, Any], list[str]]:
    """The whole configuration of a run, and FairChem's flags.

    network  the ``model`` section of the bundle that is fine-tuned or the run that is taken up: it decides, and a
             ``model`` section of ``config_yml`` must agree with it
    targets  whose references and normalisers: as ``config_yml`` says, fitted where it says nothing; the same, fitted
             already in a run that is taken up; or those of the model that is fine-tuned
    """
    assert spec.train.config_yml is not None
    path = spec.train.config_yml
    overrides, flags = split_arguments(spec.backend_args)
    config = merge(read_config(path), overrides)
    for section in config:
        if section not in SECTIONS + IGNORED:
            hint = nearest(section, SECTIONS)
            raise InputError(f"unknown section.{hint} Known: {', '.join(SECTIONS)}", path, str(section))
    config = {key: value for key, value in config.items() if key in SECTIONS}
    for key, value in config.items():
        if key not in ("trainer", "loss_functions", "loss_fns", "amp", "dataset") and not isinstance(value, dict):
            raise InputError("expected a mapping of keys to values", path, key)
    if config.pop("amp", False) and "--amp" not in flags:
        flags.append("--amp")
    if spec.train.log_every is not None and "--print-every" not in flags:
        flags += ["--print-every", str(spec.train.log_every)]
    config["model"] = _network(spec, config.get("model"), network)
    _set_optim(config, path)
    _set_what_is_learned(config, spec)
    config["dataset"] = _datasets(spec, config, targets)
    config["task"] = {k: v for k, v in config.get("task", {}).items() if k != "relax_dataset"} | {"dataset": "lmdb"}
    config["logger"] = {"name": "rlpath"}
    return config, flags


def _network(
    spec: RunSpec[FairChemTraining], given: dict[str, Any] | None, network: dict[str, Any] | None
) -> dict[str, Any]:
    """The ``model`` section as FairChem takes it."""
    path = spec.train.config_yml
    assert path is not None
    if given is None and network is None:
        raise InputError("missing: the network to train", path, "model")
    wanted = None if given is None else network_of({"model": given}, path)
    if network is not None:
        found = network_of({"model": network}, "the model that is trained on")
        if wanted is not None and (key := _difference(wanted.arguments, found.arguments)):
            raise InputError(
                "differs from the model that is trained on: leave the section out, or make them agree",
                path,
                f"model.{key}",
            )
    else:
        assert wanted is not None
        found = wanted
    if found.backend != spec.backend:
        raise InputError(
            f"is a network of backend {found.backend}, and the run is of {spec.backend}", path, "model.name"
        )
    out = {"name": found.name, **copy.deepcopy(found.arguments)}
    part = out.get("backbone", out)
    part["otf_graph"] = out["otf_graph"] = True
    scales = (given or {}).get("scale_file", ((given or {}).get("backbone") or {}).get("scale_file"))
    if network is None and scales is not None:
        part["scale_file"] = _file(scales, path, "model.scale_file", (".json",))
    return out


def first_difference(a: Any, b: Any, path: str = "") -> str | None:
    """The key of the first value that differs between two configurations, marks of what was fitted left out."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b} - {"fitted"}, key=str):
            if found := first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else str(key)):
                return found
        return None
    return None if a == b else path


def _difference(wanted: dict[str, Any], found: dict[str, Any]) -> str | None:
    """The first key that is given and differs."""
    for key, value in wanted.items():
        if key == "otf_graph":
            continue
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            if inner := _difference(value, found[key]):
                return f"{key}.{inner}"
        elif found.get(key) != value:
            return key
    return None


def _set_optim(config: dict[str, Any], path: Path) -> None:
    optim = config.get("optim", {})
    for key in ("max_epochs", "lr_initial", "batch_size"):
        if not isinstance(optim.get(key), int | float) or isinstance(optim.get(key), bool) or optim[key] <= 0:
            raise InputError(f"expected a number above 0, got {optim.get(key)!r}", path, f"optim.{key}")
    for key in ("optimizer", "scheduler"):
        if key in optim and not _plain(optim[key]):
            raise InputError(f"not a name: {optim[key]!r}", path, f"optim.{key}")
    optim = {"num_workers": 0, "eval_batch_size": optim["batch_size"], **optim}
    optim.pop("load_datasets_and_model_then_exit", None)
    config["optim"] = optim
    trainer = config.setdefault("trainer", "ocp")
    if trainer not in TRAINERS:
        raise InputError(f"choose one of {', '.join(TRAINERS)}, got {trainer!r}", path, "trainer")
    if trainer == "ocp" and "scheduler" not in optim and not {"lr_milestones", "warmup_steps"} <= optim.keys():
        optim["scheduler"] = "Null"  # FairChem's default needs these


def _set_what_is_learned(config: dict[str, Any], spec: RunSpec[FairChemTraining]) -> None:
    """Outputs, losses and metrics, as FairChem's configurations of 2.0 and later have them; older ones are its own to
    bring up to date."""
    path = spec.train.config_yml
    for old, new in (("loss_fns", "loss_functions"), ("eval_metrics", "evaluation_metrics")):
        if old in config:
            config.setdefault(new, config.pop(old))
    before_2 = "loss_functions" not in config and any(
        key in config["optim"]
        for key in ("loss_energy", "loss_force", "loss_forces", "energy_coefficient", "force_coefficient")
    )
    if before_2:
        if spec.train.energy_loss_per is not None:
            fn = config["optim"].get("loss_energy", "mae")
            config["optim"]["loss_energy"] = _energy_loss(fn, spec.train.energy_loss_per, path)
        return
    outputs = config.setdefault("outputs", OUTPUTS)
    if set(outputs) != set(OUTPUTS):
        raise InputError(f"expected energy and forces, got {', '.join(map(str, outputs)) or 'none'}", path, "outputs")
    metrics = config.setdefault("evaluation_metrics", METRICS)
    metrics.setdefault("primary_metric", METRICS["primary_metric"])
    for target, names in metrics.get("metrics", {}).items():
        if not _plain(target) or not isinstance(names, list) or not all(map(_plain, names)):
            raise InputError(f"not a list of names: {names!r}", path, f"evaluation_metrics.metrics.{target}")
    losses = config.setdefault("loss_functions", LOSSES)
    wrong = not isinstance(losses, list) or not all(
        isinstance(one, dict)
        and all(t in OUTPUTS and isinstance(s, dict) and _plain(s.get("fn")) for t, s in one.items())
        for one in losses
    )
    if wrong:
        raise InputError("expected a list of {energy|forces: {fn, coefficient}}", path, "loss_functions")
    if spec.train.energy_loss_per is not None:
        config["loss_functions"] = [
            {
                target: {**said, "fn": _energy_loss(said["fn"], spec.train.energy_loss_per, path)}
                if target == "energy"
                else said
                for target, said in one.items()
            }
            for one in losses
        ]


def _energy_loss(name: str, per: str, path: Path | None) -> str:
    names = PER_ATOM if per == "atom" else {value: key for key, value in PER_ATOM.items()}
    if name in names.values():
        return name
    if name not in names:
        raise InputError(f"FairChem has no {name} per {per}: choose {', '.join(names)}", path, "train.energy_loss_per")
    return names[name]


def _plain(name: Any) -> bool:
    """A word, and no path of a module that FairChem would import."""
    return isinstance(name, str) and name.isidentifier()


def _datasets(spec: RunSpec[FairChemTraining], config: dict[str, Any], targets: str) -> dict[str, Any]:
    path = spec.train.config_yml
    given = config.get("dataset") or {}
    if isinstance(given, list):
        given = {"train": given[0]} if given else {}
    train = given.get("train", given if any(key in given for key in SPLIT_KEYS) else {}) or {}
    if "lin_ref" in train:
        raise InputError("FairChem opens it as a pickle: give transforms.element_references", path, "dataset.lin_ref")
    kept = {key: train[key] for key in SPLIT_KEYS if key in train}
    transforms = dict(kept.get("transforms") or {})
    for name, what in transforms.items():
        if name not in TRANSFORMS:
            raise InputError(f"choose of {', '.join(TRANSFORMS)}", path, f"dataset.train.transforms.{name}")
        transforms[name] = _with_files(what, path, f"dataset.train.transforms.{name}")
    if targets == "model":
        kept, transforms = {}, {}
    ours_to_fit = targets != "model" and not transforms and not kept.get("normalize_labels")
    if ours_to_fit:
        batches = {"batch_size": FIT_BATCH, "num_batches": FIT_STRUCTURES // FIT_BATCH}
        transforms = {
            "element_references": {"fit": {"targets": ["energy"], **batches}},
            "normalizer": {"fit": {"targets": {"energy": {"mean": 0.0}, "forces": {"mean": 0.0}}, **batches}},
        }
    if targets == "fitted":
        for what in transforms.values():
            if isinstance(what, dict) and isinstance(what.get("fit"), dict):
                what["fit"]["fitted"] = True  # FairChem's own mark of it
    network = network_of(config, "model")
    part = network.backbone
    radii = [part.get(name) or 0.0 for name in ("cutoff_qint", "cutoff_aeaint", "cutoff_aint")]
    ours = {"format": "rlpath", "no_shuffle": True, "data": spec.data.model_dump(mode="json"), "seed": spec.train.seed}
    ours["radius"] = max(network.cutoff, *radii)
    if network.backend == "equiformer_v2":
        ours["n_elements"] = part.get("max_num_elements") or 90
    else:
        ours["n_elements"] = (part.get("num_elements") or 83) + 1
    datasets = {"train": {**kept, "transforms": transforms, **ours, "src": str(spec.data.train), "split": "train"}}
    if spec.data.val is not None:
        datasets["val"] = {**ours, "src": str(spec.data.val), "split": "val", "use_train_settings": False}
    if ours_to_fit and network.conservative:
        config.setdefault("task", {})["tie_normalizers"] = True
    return datasets


def _with_files(what: Any, path: Path | None, key: str) -> Any:
    """The same section with absolute paths of files, which must hold numbers."""
    if not isinstance(what, dict):
        return what
    return {
        name: _file(value, path, f"{key}.file", (".npz",))
        if name == "file"
        else _with_files(value, path, f"{key}.{name}")
        for name, value in what.items()
    }


def _file(name: Any, config: Path | None, key: str, suffixes: tuple[str, ...]) -> str:
    assert config is not None
    found = config.parent / str(name)
    if found.suffix not in suffixes:
        raise InputError(f"expected a {' or '.join(suffixes)} file, got {name}", config, key)
    if not found.is_file():
        raise InputError(f"no such file: {found}", config, key)
    return str(found.resolve())


def needs_scales(network: dict[str, Any]) -> bool:
    """Whether the scale factors of a ``model`` section are still to be fitted."""
    part = network.get("backbone", network)
    return str(part.get("model", network["name"])).startswith("gemnet_oc") and "scale_file" not in part
