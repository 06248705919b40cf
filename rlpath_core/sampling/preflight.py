"""Input that is refused before a run makes its folder: missing plug-ins, starting structures that lead nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends.base import Model
from rlpath_core.config import Section, check
from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import closed_cell, thickness
from rlpath_core.geometry.neighbours import SAME_PLACE, closest_pair
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.registry import Registry
from rlpath_core.sampling.actions import ACTIONS, Action
from rlpath_core.sampling.basins import BASINS, BasinIndex
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.sampling.plugins import PLUGINS, Plugin
from rlpath_core.sampling.policy import POLICIES, Policy
from rlpath_core.sampling.recorders import RECORDERS, Recorder
from rlpath_core.sampling.triggers import TRIGGERS, Trigger
from rlpath_core.sampling.validators import VALIDATORS, Validator
from rlpath_core.structure import Structure

FAR = 1e6
"""Å: an atom this far from the origin is a mistake; so is a cell thinner than ``SAME_PLACE``."""


def check_run(config: SamplingConfig, model: Model, starts: Sequence[Structure]) -> None:
    """Everything that can be wrong with a run's input. Raises InputError."""
    check_plugins(config)
    check_starts(starts, config=config)
    for structure in starts:
        model.check_elements(structure, "structure")
    trigger = config.pipeline.trigger
    if trigger is not None and trigger.spread is not None and not model.committee:
        raise InputError("needs a committee: give `committee`, manifests of further models", None, "trigger.spread")


def check_plugins(config: SamplingConfig, where: str | Path | None = None, prefix: str = "") -> None:
    """Every plug-in that the config names is there, is one of its kind, and takes its options.

    Raises InputError with the key, which begins with ``prefix``, in the file ``where``.
    """
    pipeline, trigger = config.pipeline, config.pipeline.trigger
    with_options: list[tuple[str, Registry[Any], type, dict[str, Any]]] = [
        ("actions", ACTIONS, Action, config.actions),
        ("pipeline.action_plugins", PLUGINS, Plugin, pipeline.action_plugins),
        ("pipeline.validators", VALIDATORS, Validator, pipeline.validators),
        ("pipeline.recorders", RECORDERS, Recorder, pipeline.recorders),
    ]
    for at, registry, base, entries in with_options:
        for name, options in entries.items():
            key = f"{prefix}{at}.{name}"
            _checked(_kind(registry, base, name, where, key), options, where, key)
    policy = _kind(POLICIES, Policy, config.walk.policy, where, f"{prefix}walk.policy")
    _checked(policy, config.walk.options, where, f"{prefix}walk.options")
    _kind(BASINS, BasinIndex, config.basin.name, where, f"{prefix}basin.name")
    if trigger is not None:
        _kind(TRIGGERS, Trigger, trigger.name, where, f"{prefix}pipeline.trigger.name")


def _checked(kind: type, options: dict[str, Any], where: str | Path | None, key: str) -> None:
    try:
        check(getattr(kind, "Options", Section), options, "")
    except InputError as error:
        raise InputError(error.what, where, f"{key}.{error.key}") from error


def _kind(registry: Registry[Any], base: type, name: str, where: str | Path | None, key: str) -> type:
    try:
        kind = registry[name]
    except InputError as error:
        raise InputError(error.what, where, key) from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise InputError(f"{name} is no subclass of {base.__module__}.{base.__name__}", where, key)
    lacking = [one for one in dir(kind) if getattr(getattr(kind, one), "__isabstractmethod__", False)]
    if lacking:
        raise InputError(f"{name} lacks {', '.join(lacking)}", where, key)
    return kind


def roles_of(
    starts: Sequence[Structure], config: SamplingConfig | None = None, where: str | Path = "structure"
) -> list[Roles]:
    """The roles of the atoms of each given structure, as the config or the structure names them, else guessed.

    Raises InputError if the config's ``adsorbate`` and ``normal`` do not fit, tags cannot be, or nothing may move.
    """
    found = []
    for k, structure in enumerate(starts):
        which = "" if len(starts) == 1 else f" of structure {k}"
        try:
            roles = infer_roles(structure, *(() if config is None else (config.adsorbate, config.normal)))
        except InputError as error:
            raise InputError(error.what + which.replace(" of ", ", "), where, error.key) from error
        if not roles.movable.any():
            raise InputError(f"no atom{which} may move: all are fixed", where)
        if roles.conflict:
            what = f"{roles.conflict}{which.replace(' of ', ', ')}: mend them, or name the adsorbate (`adsorbate:`)"
            raise InputError(what, where)
        found.append(roles)
    return found


def check_starts(
    starts: Sequence[Structure], where: str | Path = "structure", config: SamplingConfig | None = None
) -> None:
    """Structures in which something may move and no two atoms are at the same place. Raises InputError."""
    if not starts:
        raise InputError("sampling needs at least one starting structure", where)
    for k, structure in enumerate(starts):
        which = "" if len(starts) == 1 else f" of structure {k}"
        distance = np.abs(structure.positions).max(axis=1)
        if distance.max() > FAR:
            raise InputError(f"atom {distance.argmax()}{which} is {distance.max():.3g} Å from the origin", where)
        thinnest = thickness(closed_cell(structure)).min()
        if thinnest < SAME_PLACE:
            raise InputError(f"the cell{which} is {thinnest:.3g} Å thin: not a structure", where)
        if (closest := closest_pair(structure)) is not None:
            i, j, d = closest
            raise InputError(f"atoms {i} and {j}{which} are {d:.4f} Å apart: not a structure", where)
    roles_of(starts, config, where)
