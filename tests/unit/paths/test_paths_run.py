"""A run of saddle searches: what it finds, against ASE's own band; the queue; names; resume and its limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from rlpath_core.config import check
from rlpath_core.errors import InputError
from rlpath_core.files import read_lines
from rlpath_core.kinetics.files import read_network
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.run import PathsSummary, find_paths
from rlpath_core.store import Store, queries
from rlpath_core.store.check import check as check_store
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.models import NotFiniteModel, ScaledModel, SwirlingModel, UnusedModel
from rlpath_core.testing.steps import copper_adatom, gold_on_aluminium

Run = Callable[..., PathsSummary]
SEARCHES = {"dimer": {}, "band": {"hand_over": "dimer"}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(starts, name="a", model=EMTModel(), **config)`` searches into tmp_path/name, in the store of tmp_path."""

    def go(
        starts: list[Structure],
        name: str = "a",
        model: EMTModel | None = None,
        seed: int = 1,
        resume: bool = False,
        between: bool = False,
        progress: Callable[[dict], None] | None = None,
        **config,
    ) -> PathsSummary:
        options = {"walkers": 3, "searches": SEARCHES, "pictures": False, "max_searches": 6} | config
        with Store(tmp_path) as store:
            return find_paths(
                check(PathsConfig, options, "test"),
                model or EMTModel(),
                starts,
                tmp_path / name,
                store,
                seed=seed,
                resume=resume,
                between=between,
                progress=progress,
            )

    return go


def by_ase(initial: Structure, final: Structure) -> tuple[float, float, Atoms]:
    """Barriers both ways and the saddle, by ASE's climbing-image band of three images."""
    ends = [one.to_ase() for one in (initial, final)]
    for atoms in ends:
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=0.01)
    images = [ends[0], *(ends[0].copy() for _ in range(3)), ends[1]]
    for image in images[1:-1]:
        image.calc = EMT()
    band = NEB(images, climb=True, method="improvedtangent")
    band.interpolate("idpp")
    BFGS(band, logfile=None).run(fmax=0.01, steps=200)
    energies = [image.get_potential_energy() for image in images]
    return max(energies) - energies[0], max(energies) - energies[-1], images[int(np.argmax(energies))]


@pytest.mark.parametrize(
    ("initial", "final"),
    [
        (gold_on_aluminium(movable=5), gold_on_aluminium(1, movable=5)),
        (copper_adatom("fcc"), copper_adatom("hcp")),
    ],
    ids=["gold_hops", "copper_from_fcc_to_hcp"],
)
def test_the_step_between_two_structures_is_that_of_ase(
    run: Run, tmp_path: Path, initial: Structure, final: Structure, monkeypatch
):
    forward, back, saddle_atoms = by_ase(initial, final)
    summary = run([initial, final], between=True, searches=["minmode", "band"])
    assert summary.stop_reason == "joined"
    assert summary.saddles == summary.rate_ready == 1
    network = read_network(tmp_path / "a" / "network.json")
    (saddle,) = network.saddles
    there, again = (saddle.energy - network.minimum(name).energy for name in (saddle.start, saddle.end))
    assert (there, again) == pytest.approx((forward, back), abs=1e-3)
    monkeypatch.chdir(tmp_path)
    vibrations = Vibrations(saddle_atoms, indices=np.flatnonzero(~initial.fixed), name="vib")
    vibrations.run()
    expected = vibrations.get_frequencies()
    assert (saddle.frequencies < 0).sum() == (expected.imag > 0).sum() == 1
    assert -saddle.frequencies[0] == pytest.approx(expected.imag.max(), abs=2.0)
    # both ends are connected: ASE's descent from either side of the mode ends in the energies of the two minima
    energies = []
    for sign in (-1, 1):
        atoms = saddle.structure.to_ase()
        atoms.positions += sign * 0.1 * saddle.mode
        atoms.calc = EMT()
        BFGS(atoms, logfile=None).run(fmax=0.01)
        energies.append(atoms.get_potential_energy())
    assert energies == pytest.approx([network.minimum(name).energy for name in (saddle.start, saddle.end)], abs=1e-3)


def test_what_is_found_enters_the_queue_once_saddles_first(run: Run, tmp_path: Path):
    summary = run([gold_on_aluminium()], max_searches=3)
    lines = read_lines(tmp_path / "a" / "saddles.jsonl")
    new = [line for line in lines if line["new"]]
    queued = read_lines(tmp_path / "a" / "dft_queue.jsonl")
    assert [entry["structure_id"] for entry in queued] == [key for line in new for key in line["candidates"]]
    assert summary.candidates == len(queued) == len({entry["structure_id"] for entry in queued}) > 0
    by_score = [entry["stage"] for entry in sorted(queued, key=lambda entry: -entry["score"])]
    assert by_score == sorted(by_score, key=["saddle", "mode", "end"].index)
    assert [entry["stage"] for entry in queued][:3] == ["saddle", "mode", "mode"]
    model = EMTModel()
    with Store(tmp_path) as store:
        table = queries.queue(store)
        stored = store.get([entry["structure_id"] for entry in queued])
    assert [(row.structure_id, row.stage, row.score) for row in table] == [
        (entry["structure_id"], entry["stage"], entry["score"]) for entry in queued
    ]
    for entry, prediction in zip(queued, model.predict(stored), strict=True):
        assert entry["energy"] == pytest.approx(prediction.energy, abs=1e-4)
        free = np.asarray(prediction.forces)[~stored[0].fixed]
        assert entry["max_force"] == pytest.approx(np.linalg.norm(free, axis=1).max(), abs=5e-3)
    saddle, minus, plus = stored[:3]
    assert np.linalg.norm(plus.positions - minus.positions) == pytest.approx(0.1, abs=1e-3)
    assert np.allclose((plus.positions + minus.positions) / 2, saddle.positions, atol=2e-4)
    file = tmp_path / "a" / "saddles.jsonl"
    with Store(tmp_path) as store:
        assert not check_store(store)
        content = file.read_text()
        file.write_text(content.replace('"calls": ', '"calls": 1'))
        assert "calls is" in check_store(store)[0], "a file that was changed is found"
        file.write_text(content)
    # a second run meets the same saddle and queues nothing again
    before = len(table)
    again = run([gold_on_aluminium()], "b", seed=2, max_searches=2)
    with Store(tmp_path) as store:
        assert len(queries.queue(store)) == before + again.candidates


def test_a_known_saddle_is_met_again_under_its_name_without_a_verification(run: Run, tmp_path: Path):
    run([gold_on_aluminium()], max_searches=5)
    lines = read_lines(tmp_path / "a" / "saddles.jsonl")
    first = next(line for line in lines if line["saddle"] == "TS001" and line["new"])
    again = [line for line in lines if line["saddle"] == "TS001" and line["state"] == "converged"]
    assert again
    assert all(line["energy"] == pytest.approx(first["energy"], abs=2e-3) for line in again)
    run([gold_on_aluminium(1)], "b", seed=5, max_searches=2)
    of_second = read_lines(tmp_path / "b" / "saddles.jsonl")
    assert [line["saddle"] for line in of_second if line["saddle"]], "met"
    assert not [line for line in of_second if line["new"] and line["saddle"] == "TS001"], "by its name"


def test_a_finished_run_gives_its_summary_and_continues_with_a_higher_limit(run: Run, tmp_path: Path):
    reports: list[dict] = []
    first = run([gold_on_aluminium()], max_searches=2, progress=reports.append)
    last = reports[-1]
    assert [last[key] for key in ("searches", "converged", "verified", "connected")] == [
        *(first.searches, first.converged, first.verified, first.saddles)
    ]
    assert last["calls_per_s"] > 0
    same = run([gold_on_aluminium()], model=UnusedModel(), resume=True, max_searches=2)
    assert same == first
    more = run([gold_on_aluminium()], resume=True, max_searches=3)
    assert (more.searches, more.stop_reason) == (3, "max_searches")
    lines = read_lines(tmp_path / "a" / "saddles.jsonl")
    assert sorted(line["n"] for line in lines) == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 2}, "seed: is 2"),
        ({"model": ScaledModel(0.5)}, "model: is '0.5'"),
        ({"between": True}, "between: is True"),
        ({"walkers": 2}, "walkers: is 2"),
        ({"verify": {"push": 0.3}}, "verify.push: is 0.3"),
        ({"searches": {"dimer": {"fmax": 0.02}}}, "searches.band"),
    ],
)
def test_what_changes_the_course_of_a_run_is_refused_by_name(run: Run, change: dict, says: str):
    starts = [gold_on_aluminium(), gold_on_aluminium(1)]
    run(starts, max_searches=1)
    with pytest.raises(InputError, match=says):
        run(starts, **{"resume": True, "max_searches": 1} | change)


def test_energies_that_are_no_numbers_cost_a_search_and_no_more(run: Run, tmp_path: Path):
    start = gold_on_aluminium()
    starts = [start.moved(start.positions + [0, 0, 0.01 * k] * ~start.fixed[:, None]) for k in range(6)]
    summary = run(starts, model=NotFiniteModel())
    assert summary.searches == 6
    reasons = {line["rejection"] for line in read_lines(tmp_path / "a" / "saddles.jsonl")}
    assert reasons & {"model:not_finite", "not_finite"}


def test_nothing_left_to_try_ends_a_run(run: Run):
    summary = run([copper_adatom("fcc"), copper_adatom("hcp")], proposals=["pairs"], max_searches=500)
    assert summary.stop_reason == "nothing_left"
    assert 0 < summary.searches < 500


def test_forces_that_are_no_gradient_are_told_of(run: Run, tmp_path: Path, caplog):
    start = gold_on_aluminium()
    model = SwirlingModel(0.05, float(start.positions[-1, 0]))
    with caplog.at_level("INFO", logger="rlpath.paths"):
        summary = run([start], model=model, max_searches=3, proposals=["displacements"])
    said = [record.message for record in caplog.records]
    assert sum("no gradient of its energy" in line for line in said) == 1
    searches = list(read_lines(tmp_path / "a" / "saddles.jsonl"))
    measured = [one["asymmetry"] for one in searches if one["state"] not in ("guess", "converged")]
    assert summary.asymmetry == pytest.approx(max(measured), abs=1e-6)
    assert summary.asymmetry > 1e-3
    assert summary.disagreement is not None
    assert sum(f"differ by up to {summary.disagreement:.3g} eV" in line for line in said) == 1
    edges = read_network(tmp_path / "a" / "network.json").saddles
    assert all(edge.evidence["disagreement"] <= summary.disagreement for edge in edges)


def test_structures_of_other_surfaces_are_refused(run: Run, tmp_path: Path):
    atoms = gold_on_aluminium().to_ase()
    atoms.set_constraint(FixAtoms(range(4)))
    with pytest.raises(InputError, match="fixed in only one"):
        run([gold_on_aluminium(), Structure.from_ase(atoms)])
    assert not (tmp_path / "a").exists()
