"""A campaign's config from what its user gave: a file of their own, or keys that lie on the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlpath_core.backends.registry import backend_of
from rlpath_core.campaign.fine_tuning import fine_tuning
from rlpath_core.campaign.options import CampaignConfig
from rlpath_core.config import check, is_path, located, merge, read_layer, read_mapping
from rlpath_core.config.base import shorthand_fields
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.resolve import resolve_dft
from rlpath_core.errors import InputError
from rlpath_core.outbox.select import check_selection
from rlpath_core.packaged import packaged
from rlpath_core.paths.preflight import check_config
from rlpath_core.sampling.preflight import check_plugins

SETS = ("heldout", "near", "replay")
"""Keys of labelled structures, which belong to one system."""
OUTPUTS = {"campaigns_dir": "campaigns", "models_dir": "models"}
"""Default folders: beside the campaign's file, and for the demonstration of an installed rlpath where it is run."""


def resolve_campaign(params: dict[str, Any], source: Path | None = None) -> CampaignConfig:
    """The campaign that ``params`` describe.

    Parameters
    ----------
    params
        Keys of a campaign. Relative paths are read against the folder of ``source``, without one against the working
        directory.
    source
        The file that ``params`` were read from, which stands alone. If there is none, ``params`` are single keys and
        lie on configs/al_loop.yaml, the campaign of the demonstration.

    Raises
    ------
    InputError
        For a wrong key or value and for a file that is not there.
    """
    where = source or "--params"
    if source is None:
        demonstration = _demonstration()
        value = located(merge(demonstration, params), CampaignConfig)
    else:
        value = located(OUTPUTS | params, CampaignConfig, source.resolve().parent)
        if "structure" not in value and set(value) <= {*CampaignConfig.model_fields, *shorthand_fields(CampaignConfig)}:
            what = "is missing: a campaign file stands alone and takes nothing from configs/al_loop.yaml"
            raise InputError(what, where, "structure")
    if "sampling_config" in value:
        value["sampling"] = merge(read_mapping(value.pop("sampling_config")), value.get("sampling", {}))
    config = check(CampaignConfig, value, where)
    paths: dict[str, str | Path | None] = {key: getattr(config, key) for key in ("structure", *SETS)}
    paths |= {f"backends.{backend}.model": settings.model for backend, settings in config.backends.items()}
    for key, path in paths.items():
        if path is not None and is_path(path) and not Path(path).exists():
            raise InputError(f"no such file: {path}", where, key)
    dft = resolve_dft(config.dft, where, "dft.", None if source is None else source.resolve().parent)
    if source is None:
        _check_system(params, dft, demonstration.get("dft", {}))
    for backend in config.backends:
        if backend_of(backend).trainer is not None:
            fine_tuning(config, backend, source=where)
    check_plugins(config.sampling, where, "sampling.")
    if config.paths is not None:
        check_config(config.paths, where, "paths.")
    check_selection(config.outbox, where, "outbox.")
    return config.model_copy(update={"dft": dft})


def _demonstration() -> dict[str, Any]:
    path = packaged("configs/al_loop.yaml")
    installed = path.is_relative_to(Path(__file__).resolve().parents[1])
    return read_layer(path) | (OUTPUTS if installed else {})


def _check_system(params: dict[str, Any], dft: DftConfig, demonstration: dict[str, Any]) -> None:
    """The labelled sets of the demonstration belong to its own structure and to its own reference method, which its
    section ``dft`` gives."""
    missing = [key for key in SETS if key not in params]
    if not missing:
        return
    own = resolve_dft(DftConfig.model_validate(demonstration), "configs/al_loop.yaml")
    other = {
        "structure": ("another structure", "structure" in params),
        "dft.engine": ("labels of another method", (dft.engine, dft.settings) != (own.engine, own.settings)),
    }
    for key, (what, differs) in other.items():
        if differs:
            raise InputError(
                f"{', '.join(missing)} of the demonstration would be used with {what}: write a campaign file of your "
                "own and give it with --params, or give these keys too (null: none)",
                "--params",
                key,
            )
