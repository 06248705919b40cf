"""The network of minima and saddles as a picture: what is joined with what, over which barriers, how well verified."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import Floats
from rlpath_core.kinetics.files import JSON, read_network
from rlpath_core.kinetics.network import ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.kinetics.routes import Route
from rlpath_core.viz.energy_diagram import diagram_figure, important_routes
from rlpath_core.viz.options import VisualizeSpec
from rlpath_core.viz.pictures import INK, QUIET, new_figure, of_state, save, states_legend

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINK = 1.08
"""Inches between a minimum and the label of a saddle, before labels are moved apart."""
DISC = (0.72, 0.72)
LABEL = (0.98, 0.36)
"""Width and height of a minimum and of a saddle's label, inches."""
GAP = 0.16
"""Inches kept free between any two of them."""
PAGE, BETWEEN = 9.0, 0.35
"""Inches: the width of a row of parts that nothing joins, and the space between two."""
MOST = 60
"""With more saddles than this only the lowest are drawn, and the title says so."""
PALE, DEEP = np.array([0.87, 0.92, 0.98]), np.array([0.10, 0.26, 0.52])


def draw_network(
    network: ReactionNetwork,
    folder: str | Path,
    options: KineticsOptions,
    start: str | None = None,
    end: str | None = None,
) -> list[Path]:
    """``network`` and ``energy_diagram``, each as .png and .svg; the same network gives the same bytes.

    Parameters
    ----------
    network
    folder
        Made where it is not there.
    options
        Of the rates, for the fastest way.
    start, end
        Names of the minima between which the energy diagram leads; see
        `rlpath_core.viz.energy_diagram.important_routes`.

    Raises
    ------
    InputError
        The network has no minimum of that name.
    """
    return _save(network, important_routes(network, options, start, end), Path(folder))


def ways(spec: VisualizeSpec) -> tuple[ReactionNetwork, Path, list[Route]]:
    """The network that ``spec.network`` names, its folder, and the ways of its energy diagram.

    Raises InputError if there is none, or no minimum of the names that are given.
    """
    assert spec.network is not None
    file = spec.network / JSON if spec.network.is_dir() else spec.network
    network = read_network(file)
    try:
        routes = important_routes(network, KineticsOptions(temperatures=[spec.temperature]), spec.start, spec.end)
    except InputError as error:
        raise InputError(error.what, file) from error
    return network, file.parent, routes


def network_pictures(spec: VisualizeSpec) -> list[Path]:
    """``network`` and ``energy_diagram`` of ``spec.network``, each as .png and .svg."""
    network, folder, routes = ways(spec)
    return _save(network, routes, spec.out or folder / "viz")


def _save(network: ReactionNetwork, routes: Sequence[Route], folder: Path) -> list[Path]:
    figures = {"network": network_figure(network), "energy_diagram": diagram_figure(network, routes)}
    return [path for name, figure in figures.items() for path in save(figure, folder / name)]


def network_figure(network: ReactionNetwork, title: str | None = None) -> Figure:
    """Draw the network: minima are discs with the energy above the lowest, deeper in colour the lower they lie.

    A saddle is a line with its name and its barriers along the arrow and back, in eV: the thicker the lower they are.
    Colour and style of the line show the state of verification. No two discs or labels overlap.
    """
    shown = sorted(network.saddles, key=lambda saddle: (saddle.energy, saddle.name))[:MOST]
    shown.sort(key=lambda saddle: saddle.name)
    places = layout([minimum.name for minimum in network.minima], shown)
    points = np.array(list(places.values())) if places else np.zeros((1, 2))
    low, high = points.min(axis=0) - [0.7, 0.55], points.max(axis=0) + [0.7, 0.55]
    width, height = np.maximum(high - low, [6.4, 1.4])
    foot, head = 0.75, 0.45
    total = height + foot + head
    figure = new_figure(width, total)
    axis = figure.add_axes((0, foot / total, 1, height / total))
    middle = (low + high) / 2
    axis.set_xlim(middle[0] - width / 2, middle[0] + width / 2)
    axis.set_ylim(middle[1] - height / 2, middle[1] + height / 2)
    axis.axis("off")
    energies = {minimum.name: minimum.energy for minimum in network.minima}
    for saddle in shown:
        _saddle(axis, saddle, energies, places)
    _minima(axis, energies, places)
    said = _counted(network) if title is None else title
    if len(shown) < len(network.saddles):
        said += f" (drawn: the {len(shown)} lowest saddles of {len(network.saddles)})"
    figure.text(0.5, 1 - 0.25 / total, said, ha="center", va="center", fontsize=11, color=INK, weight="bold")
    note = "discs: minima, eV above the lowest    lines: barriers in eV along the arrow / back, thicker if lower"
    figure.text(0.5, 0.2 / total, note, ha="center", va="center", fontsize=7.5, color=QUIET)
    states_legend(figure, [saddle.state for saddle in shown], 0.5 / total)
    return figure


def _counted(network: ReactionNetwork) -> str:
    n, m = len(network.minima), len(network.saddles)
    return f"{n} minim{'um' if n == 1 else 'a'}, {m} saddle{'s' * (m != 1)}"


def layout(minima: Sequence[str], saddles: Sequence[Saddle]) -> dict[str, Floats]:
    """A place in inches for every minimum and for every saddle's label, none of which overlap.

    Minima and saddles are nodes of one graph, placed by Kamada and Kawai (Inf. Process. Lett. 31, 7 (1989),
    doi:10.1016/0020-0190(89)90102-6) and then moved apart. Parts that nothing joins stand side by side, in rows as
    on a page, the largest first.
    """
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(minima)
    for saddle in saddles:
        graph.add_edge(saddle.start, saddle.name)
        graph.add_edge(saddle.name, saddle.end)
    parts = sorted((sorted(part) for part in nx.connected_components(graph)), key=lambda part: (-len(part), part))
    blocks = []
    for part in parts:
        sizes = np.array([LABEL if node not in minima else DISC for node in part]) + GAP
        x = _labels_between(_placed(graph, part), part, saddles) if len(part) > 1 else np.zeros((1, 2))
        x = apart(x, sizes)
        low, high = (x - sizes / 2).min(axis=0), (x + sizes / 2).max(axis=0)
        blocks.append((part, x - (low + high) / 2, high - low))
    return _shelved(blocks)


def _shelved(blocks: list[tuple[list[str], Floats, Floats]]) -> dict[str, Floats]:
    """Blocks (names, [n, 2] places about the middle, width and height) in rows from the top, as they come."""
    longest = max([PAGE, *(size[0] for _, _, size in blocks)])
    rows: list[list[tuple[list[str], Floats, Floats]]] = [[]]
    for block in blocks:
        if rows[-1] and sum(size[0] + BETWEEN for _, _, size in [*rows[-1], block]) - BETWEEN > longest:
            rows.append([])
        rows[-1].append(block)
    places: dict[str, Floats] = {}
    top = 0.0
    for row in rows:
        height = max((size[1] for _, _, size in row), default=0.0)
        at = -(sum(size[0] + BETWEEN for _, _, size in row) - BETWEEN) / 2
        for names, x, size in row:
            places.update(zip(names, x + [at + size[0] / 2, top - height / 2], strict=True))
            at += size[0] + BETWEEN
        top -= height + BETWEEN
    return places


def _placed(graph: nx.Graph, part: list[str]) -> Floats:
    """[n, 2] inches: nodes of one part, its long side across the page."""
    import networkx as nx

    ordered = nx.Graph()
    ordered.add_nodes_from(part)
    ordered.add_edges_from((a, b) for a, b in combinations(part, 2) if graph.has_edge(a, b))
    found = nx.kamada_kawai_layout(ordered, pos=nx.circular_layout(ordered))
    x = np.array([found[node] for node in part])
    x -= x.mean(axis=0)
    axes = np.linalg.svd(x, full_matrices=True)[2]
    x = x @ axes.T
    x *= np.where(x[0] < 0, -1, 1)  # the first name stands to the right of the middle, and above it
    x[:, 0] *= -1
    lengths = [np.linalg.norm(x[part.index(a)] - x[part.index(b)]) for a, b in ordered.edges]
    return x * LINK / max(float(np.mean(lengths)), 1e-9)


def _labels_between(x: Floats, part: list[str], saddles: Sequence[Saddle]) -> Floats:
    """Labels to the middle of their two minima, side by side if several join the same two; hops stay outside."""
    x = x.copy()
    at = {name: k for k, name in enumerate(part)}
    beside: dict[tuple[str, str], list[str]] = {}
    for saddle in saddles:
        if saddle.name in at:
            beside.setdefault((min(saddle.start, saddle.end), max(saddle.start, saddle.end)), []).append(saddle.name)
    for (one, other), names in beside.items():
        a, b = x[at[one]], x[at[other]]
        if one == other:
            continue
        across = np.array([-(b - a)[1], (b - a)[0]]) / max(float(np.linalg.norm(b - a)), 1e-9)
        for k, name in enumerate(names):
            x[at[name]] = (a + b) / 2 + across * (k - (len(names) - 1) / 2) * 0.7
    return x


def apart(x: Floats, sizes: Floats) -> Floats:
    """Move boxes of ``sizes`` [n, 2] about ``x`` [n, 2] until no two overlap, each as little as it takes."""
    x = x.copy()
    a, b = np.triu_indices(len(x), 1)
    reach = (sizes[a] + sizes[b]) / 2
    for turn in range(2000):
        between = x[b] - x[a]
        over = reach - np.abs(between)
        hit = (over > 1e-6).all(axis=1)
        if not hit.any():
            break
        across = over[:, 0] < over[:, 1]
        push = np.where(np.stack([across, ~across], axis=1), over, 0) * np.where(between < 0, -1, 1) * 0.51
        np.add.at(x, b[hit], push[hit] / 2)
        np.add.at(x, a[hit], -push[hit] / 2)
        if turn % 50 == 49:  # no room in between
            x *= 1.05
    return x


def _saddle(axis: Axes, saddle: Saddle, energies: dict[str, float], places: dict[str, Floats]) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    there, back = saddle.energy - energies[saddle.start], saddle.energy - energies[saddle.end]
    start, at, end = places[saddle.start], places[saddle.name], places[saddle.end]
    along = end - start
    if saddle.start == saddle.end:  # a loop through the label
        along = np.array([-(at - start)[1], (at - start)[0]]) * 1.1
    along = along * min(0.3, 0.45 / max(float(np.linalg.norm(along)), 1e-9))
    first = [start, start + (at - start) / 3 - along * 0.4, at - along, at]
    second = [at + along, end + (at - end) / 3 + along * 0.4, end]
    codes = [Curve.MOVETO] + [Curve.CURVE4] * 6
    colour, style = of_state(saddle.state)
    width = 0.9 + 2.6 * float(np.exp(-max(there, back) / 0.6))
    axis.add_patch(PathPatch(Curve(first + second, codes), fill=False, ec=colour, ls=style, lw=width, zorder=1))
    _arrow(axis, [at, *second], colour)
    text = f"{there:.2f}" if saddle.start == saddle.end else f"{there:.2f} / {back:.2f}"
    box: dict[str, Any] = {"boxstyle": "round,pad=0.22", "fc": "white", "ec": colour, "lw": 0.6}
    look: dict[str, Any] = {"fontsize": 7, "color": INK, "linespacing": 1.15, "zorder": 3, "bbox": box}
    axis.text(at[0], at[1], f"{saddle.name}\n{text}", ha="center", va="center", **look)


def _arrow(axis: Axes, curve: list[Floats], colour: str) -> None:
    """A head where the curve from the label meets the disc at its end."""
    t = np.linspace(0, 1, 200)[:, None]
    p, q, r, end = curve
    points = (1 - t) ** 3 * p + 3 * t * (1 - t) ** 2 * q + 3 * t**2 * (1 - t) * r + t**3 * end
    away = np.linalg.norm(points - end, axis=1)
    tip, tail = (points[np.argmax(away <= DISC[0] / 2 + length)] for length in (0.0, 0.17))
    ahead = (tip - tail) / max(float(np.linalg.norm(tip - tail)), 1e-9) * 0.17
    side = np.array([-ahead[1], ahead[0]]) * 0.3
    corners = np.array([tip, tip - ahead + side, tip - ahead - side])
    axis.fill(corners[:, 0], corners[:, 1], color=colour, lw=0, zorder=2)


def _minima(axis: Axes, energies: dict[str, float], places: dict[str, Floats]) -> None:
    from matplotlib.patches import Circle

    lowest = min(energies.values(), default=0.0)
    span = max(max(energies.values(), default=0.0) - lowest, 1e-9)
    for name, energy in energies.items():
        share = (energy - lowest) / span
        fill = DEEP + (PALE - DEEP) * share**0.7
        ink = "white" if fill @ [0.3, 0.59, 0.11] < 0.55 else INK
        x, y = places[name]
        axis.add_patch(Circle((x, y), DISC[0] / 2, fc=tuple(fill), ec=INK, lw=0.8, zorder=4))
        text = f"{energy - lowest:.2f}"
        axis.text(x, y + 0.085, name, ha="center", va="center", fontsize=8, weight="bold", color=ink,
                  zorder=5)  # fmt: skip
        axis.text(x, y - 0.095, text, ha="center", va="center", fontsize=7.5, color=ink, zorder=5)
