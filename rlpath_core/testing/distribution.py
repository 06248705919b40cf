"""A distribution with entry points, made in a folder: for tests of plug-ins that are installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_distribution(folder: Path, name: str, source: str, entry_points: Mapping[str, Mapping[str, str]]) -> Path:
    """Write module ``name`` and the metadata of a distribution of that name, version 1.0, as pip would install them.

    Parameters
    ----------
    folder
        What to put on ``sys.path`` or PYTHONPATH. It is returned.
    source
        The module's.
    entry_points
        ``module:Name`` by group and name.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    groups = [
        "\n".join((f"[{group}]", *(f"{key} = {value}" for key, value in points.items())))
        for group, points in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n", encoding="utf-8")
    return folder
