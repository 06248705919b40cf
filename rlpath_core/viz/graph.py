"""The graph of the basins: each at the height of its energy, an arrow for every action that led from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlpath_core.files import atomic_write
from rlpath_core.store import queries
from rlpath_core.store.records import Basin, Transition
from rlpath_core.viz.basins import open_database, read_basins
from rlpath_core.viz.options import VisualizeSpec
from rlpath_core.viz.trajectory import natural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "rigid_translate": "#1f77b4",
    "rigid_rotate": "#9467bd",
    "push_pull": "#d62728",
    "dihedral_twist": "#8c564b",
    "jitter": "#7f7f7f",
    "md": "#ff7f0e",
    "site_hop": "#2ca02c",
}
OTHERS = ("#17becf", "#e377c2", "#bcbd22", "#000000")
MOST_LABELS = 80
"""In a panel with more basins than this, only the lowest are named."""


def columns(basins: Sequence[Basin], transitions: Sequence[Transition]) -> dict[int, float]:
    """A place 0, 1, ... across the page for each basin, none used twice, so that no two basins overlap.

    The order is that of the Fiedler vector of the transitions' graph, which puts what is joined side by side (Fiedler
    1973, doi:10.21136/CMJ.1973.101168); pieces that nothing joins follow each other, the largest first.
    """
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(sorted(basin.id for basin in basins))
    for step in transitions:
        if graph.has_node(step.start) and graph.has_node(step.end):
            before = graph.get_edge_data(step.start, step.end, {"weight": 0})["weight"]
            graph.add_edge(step.start, step.end, weight=before + step.count)
    order: list[int] = []
    for piece in sorted(nx.connected_components(graph), key=lambda nodes: (-len(nodes), min(nodes))):
        nodes = sorted(piece)
        if len(nodes) > 2:
            laplacian = nx.laplacian_matrix(graph, nodelist=nodes).toarray()
            vector = np.linalg.eigh(laplacian)[1][:, 1]
            vector = vector * (1.0 if vector[np.abs(vector).argmax()] > 0 else -1.0)
            nodes = [nodes[k] for k in np.argsort(np.round(vector, 9), kind="stable")]
        order += nodes
    return {node: float(k) for k, node in enumerate(order)}


def basin_graph(spec: VisualizeSpec) -> Path:
    """``basin_graph.png``: a panel for each run, its basins by energy above the lowest, edges coloured by action.

    The dot's area grows with the visits, the arrow's width with the number of walks. Raises InputError for a folder
    without a database or without a basin.
    """
    assert spec.campaign is not None
    with open_database(spec.campaign) as store:
        basins = read_basins(store, spec.round)
        transitions = queries.transitions(store, spec.round)
    runs = sorted({basin.run for basin in basins}, key=lambda run: natural(Path(run)))
    panels = [[basin for basin in basins if basin.run == run] for run in runs]
    figure = _figure(spec.campaign.resolve().name, runs, panels, transitions)
    path = (spec.out or spec.campaign / "viz") / "basin_graph.png"
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=110)
    return path


def _figure(title: str, runs: list[str], panels: list[list[Basin]], transitions: list[Transition]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    widths = [max(3.0, min(0.75 * len(panel) + 0.5, 24.0)) for panel in panels]
    figure = Figure(figsize=(sum(widths) + 0.8, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    actions = sorted({step.action for step in transitions})
    spare = [action for action in actions if action not in COLOURS]
    colours = COLOURS | {action: OTHERS[k % len(OTHERS)] for k, action in enumerate(spare)}
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths, sharey=True)[0]
    top = max(max(basin.above for basin in panel) for panel in panels)
    for axis, run, panel in zip(axes, runs, panels, strict=True):
        members = {basin.id for basin in panel}
        own = [step for step in transitions if step.start in members and step.end in members]
        _panel(axis, panel, own, colours, max(top, 0.05))
        axis.set_title(run if panel[0].round is None else f"round {panel[0].round}", fontsize=11)
    axes[0].set_yticks([tick for tick in axes[0].get_yticks() if 0 <= tick <= 1.12 * max(top, 0.05)])
    axes[0].set_ylabel("energy above the lowest basin of the round, eV")
    handles = [Line2D([], [], color=colours[action], lw=2, label=action.replace("_", " ")) for action in actions]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), frameon=False)
    figure.suptitle(f"{title}: basins (0 is b0000), and the actions that lead from one to another", fontsize=12)
    return figure


def _panel(
    axis: Axes, panel: Sequence[Basin], steps: Sequence[Transition], colours: dict[str, str], top: float
) -> None:
    from matplotlib.patches import FancyArrowPatch

    across = columns(panel, steps)
    place = {basin.id: (across[basin.id], basin.above) for basin in panel}
    size = {basin.id: 170 + 18 * min(basin.visits, 30) for basin in panel}
    drawn: dict[tuple[int, int], int] = {}
    for step in steps:
        nth = drawn[step.start, step.end] = drawn.get((step.start, step.end), -1) + 1
        arrow = FancyArrowPatch(
            place[step.start],
            place[step.end],
            connectionstyle=f"arc3,rad={0.2 + 0.17 * nth}",
            arrowstyle="-|>,head_length=5,head_width=2.6",
            shrinkA=np.sqrt(size[step.start]) / 2 + 1,
            shrinkB=np.sqrt(size[step.end]) / 2 + 1,
            linewidth=0.9 + 0.5 * min(step.count - 1, 6),
            color=colours[step.action],
            alpha=0.85,
            zorder=2,
        )
        axis.add_patch(arrow)
    points = np.array([place[basin.id] for basin in panel])
    axis.scatter(
        points[:, 0],
        points[:, 1],
        s=[size[b.id] for b in panel],
        c="#f4f6fa",
        edgecolors="#2b3140",
        linewidths=1.2,
        zorder=3,
    )
    for basin in panel[:MOST_LABELS]:
        number = str(int(basin.name.lstrip("b") or 0))
        axis.text(*place[basin.id], number, ha="center", va="center", fontsize=8, weight="bold", zorder=4)
    axis.set_xlim(-0.7, len(panel) - 0.3)
    axis.set_ylim(-0.22 * top, 1.12 * top)
    axis.set_xticks([])
    axis.grid(axis="y", color="#e3e6ec", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
