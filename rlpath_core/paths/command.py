"""What ``flows.paths`` takes: flags and params files, checked before anything loads, and where a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlpath_core.config import ModelReference, Section, check, located, merge, nested, read_mapping
from rlpath_core.errors import InputError
from rlpath_core.lockstep.options import Positive
from rlpath_core.paths.options import PathsConfig, by_name
from rlpath_core.paths.preflight import check_config
from rlpath_core.store import Store, find_store, queries
from rlpath_core.structure import Structure, read_structures

SOURCES = ("campaign", "sampling_run", "initial", "structure_json")
"""Keys that say where a run begins: one of them is given."""


class PathsShorthand(Section):
    """Flags of ``flows.paths`` that stand for keys of ``paths``, and lie on top of them."""

    config: Path | None = None
    """A YAML file with the keys of `paths`; what is given under `paths` lies on top of it."""
    max_searches: int | None = None
    """`paths.max_searches`: searches in all."""
    max_force_calls: int | None = None
    """`paths.max_force_calls`: stop after this number of evaluated structures."""
    walkers: int | Literal["auto"] | None = None
    """`paths.walkers`: searches side by side."""
    searches: list[str] | None = None
    """`paths.searches`, by their names alone: minmode, sella, dimer, band."""
    proposals: list[str] | None = None
    """`paths.proposals`, by their names alone."""


class PathsSpec(Section):
    """One run of ``flows.paths``: the documented flags, as they stand in a params file."""

    shorthand = PathsShorthand

    run_dir: Path
    """The output folder. A run that is already in it is continued with `resume` and refused without."""
    campaign: Path | None = None
    """A campaign's folder: begins from all minima that its rounds found, with its last model."""
    sampling_run: Path | None = None
    """The folder of a sampling run: begins from its basins, with its model."""
    initial: Path | None = None
    """One end of a path, in any file that ASE reads; with `final`, what joins the two is looked for first."""
    final: Path | None = None
    """The other end: the same atoms in the same order and cell. A symmetry copy of `initial` is another end."""
    structure_json: Path | None = None
    """Searches begin around this structure: JSON with numbers, positions, cell, fixed and tags, or any file that ASE
    reads."""
    manifest: ModelReference | None = None
    """The model: manifest.json or its folder, or `ase:package.module.Class(key=value, ...)`. Null takes that of the
    campaign or of the sampling run."""
    weights: Path | None = None
    """A state_dict in place of the manifest's own weights."""
    device: Literal["cuda", "cpu", "auto"] = "cpu"
    """The device of the model; auto takes a GPU if there is one."""
    head: str | None = None
    """The head of a model with several; null takes the manifest's."""
    amp: bool = False
    """bfloat16 inference on a GPU; it has no effect on a CPU."""
    seed: int = Field(0, ge=0)
    """The seed of everything random in the run."""
    resume: bool = False
    """Continue the run that is in `run_dir`."""
    max_end_force: Positive | None = 1.0
    """`initial` and `final` are relaxed with the model first; one with a larger force than this on a movable atom, in
    eV/Å, is refused, for it is hardly the end that was meant. Null relaxes them from wherever they are."""
    paths: PathsConfig = PathsConfig()


SHORT = ("max_searches", "max_force_calls", "walkers", "searches", "proposals")


def resolve_paths(params: Mapping[str, Any], source: Path | None = None) -> PathsSpec:
    """The flags of ``python -m flows.paths`` and its params file as one checked section.

    ``config`` names a YAML file; keys under ``paths`` lie on top of it, the short flags on top of both. Relative paths
    are read against the folder of ``source``, without one against the working directory. Raises InputError.
    """
    value = located(params, PathsSpec, source.resolve().parent if source else None)
    value = {key: entry for key, entry in value.items() if entry is not None or key == "max_end_force"}
    config = value.pop("config", None)
    where: str | Path = source or "--params"
    if not isinstance(config, str | None):
        raise InputError(f"expected the path of a YAML file, got {config!r}", where, "config")
    over = value.pop("paths", {})
    if not isinstance(over, dict):
        raise InputError(f"expected a mapping of keys to values, got {over!r}", where, "paths")
    if config:
        check_config(check(PathsConfig, read_mapping(config), config), config)
    paths = merge(read_mapping(config) if config else {}, over)
    for flag in SHORT:
        if flag not in value:
            continue
        given: Any = value.pop(flag)
        if flag in ("searches", "proposals"):  # the names alone: of what the file has, the options of these are kept
            before = by_name(paths.get(flag, {}))
            known = before if isinstance(before, dict) else {}
            paths = paths | {flag: {name: known.get(name, {}) for name in _names(given)}}
        else:
            paths = merge(paths, nested(flag, given))
    spec = check(PathsSpec, value | {"paths": paths}, where)
    _check_source(spec, where)
    check_config(spec.paths, where, "paths.")
    return spec


def _names(given: Any) -> list[str]:
    return [str(name) for name in (given if isinstance(given, list | dict) else [given])]


def _check_source(spec: PathsSpec, where: str | Path) -> None:
    given = [key for key in SOURCES if getattr(spec, key) is not None]
    if spec.final is not None and spec.initial is None:
        raise InputError("needs `initial`, the other end", where, "final")
    if spec.initial is not None and spec.final is None:
        raise InputError(
            "needs `final`, the other end; to explore around one structure give structure_json", where, "initial"
        )
    if len(given) != 1:
        what = "give one of campaign, sampling_run, initial with final, or structure_json: where the run begins"
        raise InputError(what if not given else f"{' and '.join(given)} are given; {what}", where)
    if spec.manifest is None and given[0] in ("initial", "structure_json"):
        raise InputError("--manifest is required: the model", where)


@dataclass(frozen=True)
class Beginning:
    """Where a run begins.

    Attributes
    ----------
    structures
        As they were read.
    files
        What to call each in a message.
    model
        The reference of the model, unless the user gives another.
    joined
        Pairs of ``structures``, by their places, that an action joined, and how often.
    between
        Whether the two structures are the ends of a path.
    """

    structures: list[Structure]
    files: list[str | Path]
    model: str | None = None
    joined: dict[tuple[int, int], int] = field(default_factory=dict)
    between: bool = False


def beginning(spec: PathsSpec) -> Beginning:
    """Read what a run begins with. Raises InputError that names the file."""
    if spec.initial is not None and spec.final is not None:
        files: list[str | Path] = [spec.initial, spec.final]
        return Beginning([_one(path) for path in files], files, between=True)
    if spec.structure_json is not None:
        found = read_structures(spec.structure_json)
        return Beginning(found, [spec.structure_json] * len(found))
    if spec.campaign is not None:
        return minima_of_runs(spec.campaign, None)
    assert spec.sampling_run is not None
    return minima_of_runs(spec.sampling_run, spec.sampling_run)


def _one(path: str | Path) -> Structure:
    found = read_structures(path)
    if len(found) != 1:
        raise InputError(f"holds {len(found)} structures, and an end of a path is one: give a file with that one", path)
    return found[0]


def minima_of_runs(folder: Path, run_dir: Path | None) -> Beginning:
    """The basins of sampling runs, their transitions, and the model of the last of them.

    Parameters
    ----------
    folder
        The store's, or one below it.
    run_dir
        The folder of one run; None takes all runs of the store.

    Raises
    ------
    InputError
        There is no database, or no basin in it.
    """
    where = find_store(folder)
    with Store(where) as store:
        runs = [run for run in queries.runs(store) if run.kind == "sampling"]
        if run_dir is not None:
            runs = [run for run in queries.runs_in(store, run_dir) if run.kind == "sampling"]
        wanted = {run.id for run in runs}
        basins = [basin for basin in queries.basins(store) if basin.run in wanted]
        if not basins:
            raise InputError("holds no basins of a sampling run: run flows.sample or a campaign first", folder)
        place = {basin.id: k for k, basin in enumerate(basins)}
        joined: dict[tuple[int, int], int] = {}
        for step in queries.transitions(store):
            if step.start in place and step.end in place:
                pair = place[step.start], place[step.end]
                joined[pair] = joined.get(pair, 0) + step.count
        structures = store.get([basin.structure_id for basin in basins])
        models = {model.sha256: model.manifest for model in queries.models(store)}
        of_last = next((run.model_sha256 for run in reversed(runs) if run.model_sha256), None)
    files: list[str | Path] = [f"{folder}: basin {basin.name} of {basin.run}" for basin in basins]
    return Beginning(structures, files, models.get(of_last or ""), joined)
