"""The ``dft`` section against the engines and launchers that are there. Called once, by whoever reads the config."""

from __future__ import annotations

from pathlib import Path

from rlpath_core.config import check, located
from rlpath_core.dft.engines import ENGINES
from rlpath_core.dft.launchers import LAUNCHERS
from rlpath_core.dft.options import DftConfig
from rlpath_core.errors import InputError


def resolve_dft(config: DftConfig, where: str | Path, prefix: str = "", folder: Path | None = None) -> DftConfig:
    """``config`` with every key of its engine and of its launcher, defaults included, and absolute paths.

    Parameters
    ----------
    config
        As it was read.
    where, prefix
        The file that errors name, and what leads to the section in it, such as ``"dft."``.
    folder
        What relative paths are relative to; the working directory if not given.

    Raises
    ------
    InputError
        For an engine or launcher that nobody knows, and for a wrong key or value of its settings.
    """
    settings, options = config.settings, config.launcher_options
    key = "engine"
    try:
        engine = ENGINES[config.engine]
        key = "launcher"
        launcher = LAUNCHERS[config.launcher]
        key = "settings"
        settings = engine(located(settings, engine.Settings, folder)).resolved()
        key = "launcher_options"
        options = check(launcher.Options, options, where).model_dump(mode="json")
    except InputError as error:
        inner = "" if error.key is None else f".{error.key}"
        raise InputError(error.what, where, f"{prefix}{key}{inner}") from error
    return config.model_copy(update={"settings": settings, "launcher_options": options})
