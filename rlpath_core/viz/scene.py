"""What a renderer draws, as plain numbers: spheres, sticks, lines, an orthographic camera. Å; colours are sRGB 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data.colors import jmol_colors
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.geometry.adsorbate import numbers_layers
from rlpath_core.structure import Structure
from rlpath_core.viz.bonds import drawn_bonds
from rlpath_core.viz.options import Look
from rlpath_core.viz.trajectory import Shot
from rlpath_core.viz.view import Placement, View, sphere_radii, system_of

Colours = NDArray[np.float64]

BACKGROUND = (0.965, 0.97, 0.98)
FIXED = np.array([0.47, 0.50, 0.55])
"""What the colours of fixed atoms are faded towards."""
FADE = 0.66
LINE = (0.30, 0.33, 0.40)
LINE_RADIUS = 0.035
"""Å; more in a small picture, where it would be less than a pixel and a half."""
STICK = 0.18
"""Å, radius of a stick where the radius scale is 1."""
TAGS = {0: (0.55, 0.58, 0.62), 1: (0.93, 0.60, 0.20), 2: (0.16, 0.45, 0.78)}
TAG_NAMES = {0: "slab", 1: "surface", 2: "adsorbate"}
OTHER_TAG = (0.55, 0.35, 0.65)


@dataclass(frozen=True)
class Picture:
    """A scene with what its caption needs: ``legend`` pairs of name and colour, ``bar`` the force scale's top."""

    scene: dict[str, Any]
    info: dict[str, Any]
    legend: list[tuple[str, tuple[float, float, float]]]
    bar: float | None = None


def element_colours() -> Colours:
    """[119, 3]: Jmol's, a little less loud, and white dark enough for a light background."""
    return np.clip(0.86 * jmol_colors + 0.05, 0, 0.92)


def colour_map(share: Colours) -> Colours:
    """[n, 3] for shares 0..1 of the largest force."""
    from matplotlib import colormaps

    return np.asarray(colormaps["plasma"](0.05 + 0.85 * np.clip(share, 0, 1)))[:, :3]


def pictures(shots: Sequence[Shot], look: Look, width: int, height: int, steady: bool = True) -> list[Picture]:
    """One picture of ``width`` x ``height`` pixels per shot; shots of one system share the direction of their view.

    ``steady``: they share its centre and scale too, so that nothing jumps in a film. Else each fills its picture.

    Raises InputError for ``colour: force`` where a frame has no forces.
    """
    top = _largest_force(shots) if look.colour == "force" else None
    groups: dict[bytes, list[int]] = {}
    for k, shot in enumerate(shots):
        groups.setdefault(system_of(shot.structure), []).append(k)
    out: list[Picture | None] = [None] * len(shots)
    for members in groups.values():
        placement = Placement(shots[members[0]].structure)
        placed = [placement.place(shots[k].structure) for k in members]
        shared = placement.view(placed, look.radius) if steady else None
        for k, structure in zip(members, placed, strict=True):
            view = shared or placement.view([structure], look.radius)
            colours, legend = _colours(shots[k], look, top)
            scene = _scene(structure, colours, view, look, width, height)
            out[k] = Picture(scene, shots[k].info, legend, top)
    return [picture for picture in out if picture is not None]


def _largest_force(shots: Sequence[Shot]) -> float:
    """Top of the colour scale, eV/Å: of the movable atoms of all frames, rounded up to one digit."""
    largest = 0.0
    for shot in shots:
        if shot.forces is None:
            raise InputError("needs forces, and a frame has none; choose element or tag", "--colour", "force")
        movable = ~shot.structure.fixed
        norms = np.linalg.norm(shot.forces[movable if movable.any() else slice(None)], axis=1)
        largest = max(largest, float(norms.max()))
    if largest <= 0:
        return 1.0
    digit = 10.0 ** np.floor(np.log10(largest))
    return float(np.round(np.ceil(largest / digit - 1e-9) * digit, 12))


def _colours(shot: Shot, look: Look, top: float | None) -> tuple[Colours, list[tuple[str, tuple[float, float, float]]]]:
    from ase.data import chemical_symbols

    structure = shot.structure
    legend: list[tuple[str, tuple[float, float, float]]]
    if look.colour == "force":
        assert shot.forces is not None
        assert top is not None
        colours = colour_map(np.linalg.norm(shot.forces, axis=1) / top)
        legend = []
    elif look.colour == "tag":
        table = {int(tag): TAGS.get(int(tag), OTHER_TAG) for tag in np.unique(structure.tags)}
        tags, inverse = np.unique(structure.tags, return_inverse=True)
        colours = np.array([table[int(tag)] for tag in tags])[inverse]
        known = {} if numbers_layers(structure) else TAG_NAMES
        legend = [(known.get(tag, f"tag {tag}"), colour) for tag, colour in table.items()]
    else:
        colours = element_colours()[structure.numbers]
        kinds = np.unique(structure.numbers)
        legend = [(chemical_symbols[z], tuple(element_colours()[z])) for z in kinds]
    if structure.fixed.any():
        faded = (1 - FADE) * colours + FADE * FIXED
        colours = np.where(structure.fixed[:, None], faded, colours)
        legend = [*legend, ("fixed: darker", tuple(FIXED))]
    return colours, legend


def _scene(structure: Structure, colours: Colours, view: View, look: Look, width: int, height: int) -> dict[str, Any]:
    """A dict of plain lists: it goes to the renderer's process as one line of JSON."""
    bonds = drawn_bonds(structure)
    start = structure.positions[bonds.i]
    sticks = np.concatenate([start, start + bonds.vector / 2], axis=1)
    half_height = max(view.half[1], view.half[0] * height / width)
    return {
        "width": width,
        "height": height,
        "samples": look.samples,
        "background": list(BACKGROUND),
        "right": _plain(view.right),
        "up": _plain(view.up),
        "towards": _plain(view.towards),
        "centre": _plain(view.centre),
        "half_height": round(half_height, 4),
        "positions": _plain(structure.positions),
        "radii": _plain(sphere_radii(structure, look.radius)),
        "colours": _plain(colours),
        "sticks": _plain(sticks),
        "stick_colours": _plain(colours[bonds.i]),
        "stick_radius": round(STICK * look.radius, 4),
        "lines": _plain(view.lines.reshape(-1, 6)),
        "line_colour": list(LINE),
        "line_radius": round(max(LINE_RADIUS, 1.5 * half_height / height), 4),
    }


def _plain(values: NDArray[np.float64]) -> list[Any]:
    rounded: list[Any] = (np.round(values, 4) + 0.0).tolist()
    return rounded
