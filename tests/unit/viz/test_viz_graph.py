"""Contact sheet and graph against a database with known basins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from rlpath_core.errors import InputError
from rlpath_core.store import Store, orm
from rlpath_core.store.queries import transitions
from rlpath_core.testing.systems import SYSTEMS
from rlpath_core.viz import basin_graph
from rlpath_core.viz.basins import read_basins
from rlpath_core.viz.graph import _figure, columns
from rlpath_core.viz.options import VisualizeSpec

ENERGIES = {1: [-1.0, -3.0, -2.0], 2: [-5.0, -4.5]}
STEPS = {1: [(0, 1, "md", 2), (1, 0, "md", 1), (0, 1, "jitter", 1), (1, 2, "mine", 9)], 2: []}


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """Two rounds with three and two basins."""
    slab = SYSTEMS["triclinic"]()
    rng = np.random.default_rng(0)
    with Store(tmp_path) as store, store.session() as session:
        for round, energies in ENERGIES.items():
            run = f"sample/round-{round}"
            session.add(orm.RunRow(id=run, kind="sampling", folder=str(tmp_path), round=round, seed=1, config={}))
            session.flush()
            made = [slab.moved(slab.positions + rng.normal(scale=0.1, size=(len(slab), 3))) for _ in energies]
            ids = store.put(made, session)
            rows = [
                orm.BasinRow(run_id=run, name=f"b{k:04d}", structure_id=sid, energy=energy, first_attempt=k)
                for k, (sid, energy) in enumerate(zip(ids, energies, strict=True))
            ]
            session.add_all(rows)
            session.flush()
            for start, end, action, count in STEPS[round]:
                ends = {"from_basin": rows[start].id, "to_basin": rows[end].id}
                session.add(orm.TransitionRow(run_id=run, action=action, count=count, **ends))
    return tmp_path


def test_basins_come_by_energy_and_know_their_round(campaign: Path) -> None:
    with Store(campaign) as store:
        basins = read_basins(store)
        assert [basin.energy for basin in basins] == sorted(ENERGIES[1] + ENERGIES[2])
        assert {(b.round, b.name): b.above for b in basins}[1, "b0002"] == pytest.approx(1.0)
        assert [b.round for b in read_basins(store, round_index=2)] == [2, 2]
        assert [step.count for step in transitions(store)] == [2, 1, 1, 9]
        assert not transitions(store, round_index=2)
        with pytest.raises(InputError, match="round 7"):
            read_basins(store, round_index=7)


@pytest.mark.slow
def test_the_graph_has_every_basin_at_its_energy_and_every_transition(campaign: Path) -> None:
    with Store(campaign) as store:
        basins, steps = read_basins(store), transitions(store)
    runs = sorted({basin.run for basin in basins})
    figure = _figure("x", runs, [[b for b in basins if b.run == run] for run in runs], steps)
    for axis, round in zip(figure.axes, ENERGIES, strict=True):
        heights = sorted(point[1] for point in axis.collections[0].get_offsets())
        assert heights == pytest.approx(sorted(np.array(ENERGIES[round]) - min(ENERGIES[round])))
        arrows = [patch for patch in axis.patches if isinstance(patch, FancyArrowPatch)]
        assert len(arrows) == len(STEPS[round])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"md", "jitter", "mine"}
    path = basin_graph(VisualizeSpec(campaign=campaign))
    with Image.open(path) as image:
        assert min(image.size) > 300
        assert np.asarray(image.convert("L")).std() > 5


def test_no_two_basins_share_a_place_and_neighbours_stand_together(campaign: Path) -> None:
    with Store(campaign) as store:
        basins, steps = read_basins(store, 1), transitions(store, 1)
    places = columns(basins, steps)
    assert sorted(places.values()) == [0, 1, 2]
    middle = {b.name: places[b.id] for b in basins}["b0001"]  # 0 - 1 - 2 is a chain
    assert middle == 1


def test_a_folder_without_basins_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rlpath\.db"):
        basin_graph(VisualizeSpec(campaign=tmp_path))
    assert not any(tmp_path.iterdir()), "looking must not make a database"
    Store(tmp_path).close()
    with pytest.raises(InputError, match="no basin"):
        basin_graph(VisualizeSpec(campaign=tmp_path))
