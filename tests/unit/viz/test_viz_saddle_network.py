"""Network picture and energy diagram: everything is on them, nothing overlaps, and they are the same each time."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image

from rlpath_core.errors import InputError
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.structure import Structure
from rlpath_core.viz.energy_diagram import diagram_figure, important_routes
from rlpath_core.viz.pictures import STATES
from rlpath_core.viz.saddle_network import MOST, apart, draw_network, network_figure

OPTIONS = KineticsOptions(temperatures=[300])
ATOM = Structure([1, 1], [[0, 0, 0], [0, 0, 1]], fixed=[True, False])


def made(n: int, m: int, seed: int = 0) -> ReactionNetwork:
    """``n`` minima, the last of them alone, and ``m`` saddles: parallel steps and hops to a copy among them."""
    rng = np.random.default_rng(seed)
    minima = [Minimum(f"B{k + 1:03d}", ATOM, -50 + 0.1 * k, rng.uniform(100, 900, 3)) for k in range(n)]
    saddles = []
    for k in range(m):
        a, b = (k % (n - 1), k // 3 % (n - 1)) if k % 4 else (k % (n - 1), (k + 1) % (n - 1))
        height = max(minima[a].energy, minima[b].energy) + rng.uniform(0.01, 1.5)
        frequencies = np.array([-200.0, *rng.uniform(100, 900, 2)])
        state = ("reference_confirmed", "rate_ready", "connected")[k % 3]
        mode = np.array([[0, 0, 0], [0, 0, 1.0]])
        saddles.append(
            Saddle(f"TS{k + 1:03d}", ATOM, height, mode, minima[a].name, minima[b].name, frequencies, state=state)
        )
    return ReactionNetwork(tuple(minima), tuple(saddles))


def boxes(figure: Figure) -> dict[str, np.ndarray]:
    """[x0, y0, x1, y1] in pixels of every text, and of the discs."""
    figure.canvas.draw()
    found = {}
    for axis in figure.axes:
        for text in axis.texts:
            name = text.get_text()
            while name in found:
                name += " "
            found[name] = text.get_window_extent().extents
        for k, patch in enumerate(p for p in axis.patches if isinstance(p, Circle)):
            found[f"disc {k}"] = patch.get_window_extent().extents
    return found


def overlaps(found: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """Pairs of boxes that overlap, without texts on their own disc."""
    pairs = []
    for (one, a), (other, b) in combinations(found.items(), 2):
        inside = any((p[:2] >= q[:2]).all() and (p[2:] <= q[2:]).all() for p, q in ((a, b), (b, a)))
        if (a[:2] < b[2:]).all() and (b[:2] < a[2:]).all() and not inside:
            pairs.append((one, other))
    return pairs


@pytest.mark.parametrize(("n", "m"), [(2, 1), (8, 12), pytest.param(30, 55, marks=pytest.mark.slow)])
def test_every_minimum_and_saddle_is_there_and_nothing_overlaps(n: int, m: int) -> None:
    network = made(n, m)
    figure = network_figure(network)
    found = boxes(figure)
    shown = "\n".join(found)
    for one in (*network.minima, *network.saddles):
        assert one.name in shown
    first = network.saddles[0]
    there, back = (first.energy - network.minimum(name).energy for name in (first.start, first.end))
    assert f"TS001\n{there:.2f} / {back:.2f}" in found or first.start == first.end
    assert not overlaps(found)
    width, height = figure.bbox.size
    assert all((box[:2] >= 0).all() and box[2] <= width and box[3] <= height for box in found.values())
    colours = {patch.get_edgecolor() for patch in figure.axes[0].patches if not isinstance(patch, Circle)}
    assert len(colours) == min(len({STATES[saddle.state][0] for saddle in network.saddles}), 3)


def test_boxes_that_lie_on_each_other_move_apart() -> None:
    rng = np.random.default_rng(1)
    x, sizes = rng.uniform(0, 1, (40, 2)), np.tile([0.9, 0.3], (40, 1))
    moved = apart(x, sizes)
    assert all((np.abs(moved[a] - moved[b]) >= sizes[0] - 1e-5).any() for a, b in combinations(range(40), 2))
    far = np.array([[0.0, 0.0], [2.0, 0.0]])
    assert np.array_equal(apart(far, sizes[:2]), far), "what does not overlap stays"


def test_of_many_saddles_the_lowest_are_drawn_and_the_title_says_so() -> None:
    network = made(6, MOST + 3)
    figure = network_figure(network)
    assert f"the {MOST} lowest saddles of {MOST + 3}" in figure.texts[0].get_text()
    shown = "\n".join(text.get_text() for text in figure.axes[0].texts)
    highest = max(network.saddles, key=lambda saddle: saddle.energy)
    assert highest.name not in shown
    assert shown.count("TS") == MOST


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    network = made(4, 5)
    first, second = (draw_network(network, tmp_path / name, OPTIONS) for name in "ab")
    assert [path.name for path in first] == ["network.png", "network.svg", "energy_diagram.png", "energy_diagram.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with Image.open(first[0]) as image:
        assert np.asarray(image.convert("L")).std() > 10
    assert b"<svg" in first[1].read_bytes()


def test_the_diagram_has_each_level_at_its_energy_and_the_barriers_both_ways() -> None:
    network = made(5, 9)
    (route, *_) = important_routes(network, OPTIONS)
    figure = diagram_figure(network, [route])
    axis = figure.axes[0]
    energies = {one.name: one.energy for one in (*network.minima, *network.saddles)}
    names = [route.minima[0]]
    for saddle, minimum in zip(route.saddles, route.minima[1:], strict=True):
        names += [saddle, minimum]
    levels = {line.get_xdata()[0]: line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 2}
    heights = [levels[x][0] for x in sorted(levels)]
    assert heights == pytest.approx([energies[name] + 50 for name in names])
    texts = [text.get_text() for text in axis.texts]
    for left, at, right in zip(names[::2], names[1::2], names[2::2], strict=False):
        assert f"↗ {energies[at] - energies[left]:.2f}" in texts
        assert f"{energies[at] - energies[right]:.2f} ↖" in texts
    assert not overlaps(boxes(figure))


def test_which_ways_are_drawn() -> None:
    network = made(6, 14)
    routes = important_routes(network, OPTIONS)
    assert 0 < len(routes) <= 3
    assert {route.minima[0] for route in routes} == {"B001"}
    assert [route.highest for route in routes] == sorted(route.highest for route in routes)
    assert all("B006" not in route.minima for route in routes), "nothing leads there"
    between = important_routes(network, OPTIONS, "B003", "B002")
    assert {(route.minima[0], route.minima[-1]) for route in between} == {("B003", "B002")}
    assert between[-1].rate is not None
    assert important_routes(network, OPTIONS, "B003", "B006") == []
    with pytest.raises(InputError, match="no minimum 'B9'"):
        important_routes(network, OPTIONS, "B9")


def test_a_hop_to_a_copy_is_a_way_where_there_is_no_other() -> None:
    network = made(2, 1)
    hop = dataclasses.replace(network, saddles=(dataclasses.replace(network.saddles[0], start="B001", end="B001"),))
    (route,) = important_routes(hop, OPTIONS)
    assert (route.minima, route.saddles) == (("B001", "B001"), ("TS001",))
    assert diagram_figure(hop, [route]).axes
    empty = dataclasses.replace(network, saddles=())
    assert important_routes(empty, OPTIONS) == []
    assert "No steps" in diagram_figure(empty, []).texts[0].get_text()


def test_parts_that_nothing_joins_fill_a_page_and_not_a_line() -> None:
    network = made(40, 1)
    figure = network_figure(network)
    assert figure.get_size_inches()[0] < 11
    assert not overlaps(boxes(figure))
