"""FairChem's own checkpoint files: read without running anything, and written for FairChem to go on with.

A ``.pt`` of FairChem 1.x, or of OCP before it, holds ``config``, ``state_dict`` (under ``module.`` prefixes where it
was trained in parallel), ``normalizers`` (of old under the keys ``target`` and ``grad_target``), ``elementrefs``,
``ema`` with the averaged parameters in a list, and of old ``scale_dict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlpath_core.backends.fairchem import shims
from rlpath_core.backends.fairchem.architecture import Network, network_of, plain
from rlpath_core.backends.tensors import load_tensors, save_tensors
from rlpath_core.errors import InputError

OURS = "rlpath"
"""What a run of ours adds to FairChem's checkpoint."""
OLD_TARGETS = {"target": "energy", "grad_target": "forces"}
SETTINGS = ("outputs", "loss_functions", "evaluation_metrics", "task")
_SCALAR = np.float64(0).__reduce__()[0]
NUMBERS = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "?")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # before numpy 2 and since
]
"""What a numpy number is pickled by (metrics hold some); all of it is data."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of a model.

    state        weights without prefixes
    average      the averaged parameters, in the order of the trainable ones, and their decay
    normalizers  target -> (mean, rmsd)
    references   target -> energies by atomic number, eV
    scales       scale factors by name, where they are not in ``state``
    settings     FairChem's outputs, loss_functions, evaluation_metrics and task
    parent       digest of the bundle that a run of ours fine-tuned
    """

    network: Network
    state: dict[str, torch.Tensor]
    average: list[torch.Tensor] | None = None
    decay: float | None = None
    normalizers: dict[str, tuple[float, float]] = field(default_factory=dict)
    references: dict[str, torch.Tensor] = field(default_factory=dict)
    scales: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    epoch: float = 0.0
    step: int = 0
    parent: str | None = None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Raises InputError for what is no FairChem checkpoint, for pickled code in it (which is named and not run), and
    for networks that are not known here."""
    found = load_tensors(path, NUMBERS)
    if not isinstance(found, Mapping) or not {"config", "state_dict"} <= set(found):
        raise InputError("is no FairChem checkpoint: it lacks config and state_dict", path)
    config, state = found["config"], found["state_dict"]
    if not isinstance(config, Mapping):
        raise InputError("expected a mapping", path, "config")
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise InputError("expected names and tensors", path, "state_dict")
    network = network_of(config, path)
    ema = found.get("ema") or {}
    average = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    return Checkpoint(
        network=network,
        state=_without_prefix(state),
        average=None if average is None else list(average),
        decay=None if average is None else float(ema["decay"]),
        normalizers={
            OLD_TARGETS.get(key, key): _normalizer(value, path, key)
            for key, value in (found.get("normalizers") or {}).items()
        },
        references={
            key: _tensor(value["element_references"], path, f"elementrefs.{key}").flatten()
            for key, value in (found.get("elementrefs") or {}).items()
        },
        scales=found.get("scale_dict") or None,
        settings=_settings(config, path),
        epoch=float(found.get("epoch") or 0),
        step=int(found.get("step") or 0),
        parent=(found.get(OURS) or {}).get("parent"),
    )


def _without_prefix(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parallel training puts ``module.`` before every name, once or twice."""
    found = dict(state)
    while all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _tensor(value: Any, path: str | Path, key: str) -> torch.Tensor:
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"expected numbers ({error})", path, key) from error


def _normalizer(value: Mapping[str, Any], path: str | Path, key: str) -> tuple[float, float]:
    found = []
    for names in (("mean",), ("rmsd", "std")):
        given = next((value[name] for name in names if name in value), None)
        number = None if given is None else _tensor(given, path, f"normalizers.{key}")
        if number is None or number.numel() != 1:
            raise InputError(f"needs one number as {names[0]}", path, f"normalizers.{key}")
        found.append(float(number))
    return found[0], found[1]


def _settings(config: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The sections that say which outputs are energy and forces, in today's form, by FairChem's own conversion."""
    shims.provide()
    from fairchem.core.common.utils import update_config

    from rlpath_core.backends.fairchem.network import quiet

    sections = {k: v for k, v in config.items() if k not in ("model", "model_attributes")}
    try:
        with quiet():
            known = update_config(sections)
    except (KeyError, NotImplementedError, TypeError, AttributeError):  # a config without its dataset section
        known = sections
    found = {key: plain(known.get(key) or {}, path, f"config.{key}") for key in SETTINGS}
    found["outputs"] = found["outputs"] or {
        "energy": {"level": "system"},
        "forces": {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True},
    }
    return found


def write_file(path: str | Path, found: Checkpoint) -> None:
    """A checkpoint that FairChem's trainer and calculator take: weights, normalizers and references; no optimizer."""
    dataset = {"src": "", "format": "lmdb", "key_mapping": {"y": "energy", "force": "forces"}}
    config = {
        **{key: found.settings.get(key, {}) for key in SETTINGS},
        "trainer": "ocp",
        "model": {"name": found.network.name, **found.network.arguments},
        "optim": {},
        "dataset": dataset,
        "logger": "tensorboard",
        "amp": False,
        "gpus": 0,
        "cmd": {"seed": 0, "identifier": ""},
        "slurm": {},
    }
    config["loss_functions"] = config["loss_functions"] or [
        {"energy": {"fn": "mae", "coefficient": 1}},
        {"forces": {"fn": "l2mae", "coefficient": 1}},
    ]
    save_tensors(
        path,
        {
            "config": config,
            "state_dict": found.state,
            "normalizers": {
                key: {"mean": torch.tensor(mean), "rmsd": torch.tensor(rmsd)}
                for key, (mean, rmsd) in found.normalizers.items()
            },
            "elementrefs": {key: {"element_references": value} for key, value in found.references.items()},
            "epoch": 0,
            "step": 0,
            "val_metrics": None,
            "amp": None,
        },
    )
