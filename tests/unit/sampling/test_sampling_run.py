"""Whole runs: the same seed gives the same files, kills lose nothing, every kind of cell works."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from rlpath_core.config import check
from rlpath_core.errors import InputError
from rlpath_core.files import read_lines
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling import sample
from rlpath_core.sampling.basins import BASINS
from rlpath_core.sampling.options import BasinOptions, SamplingConfig
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.models import DyingModel, Interrupted, NotFiniteModel, UnusedModel
from rlpath_core.testing.sampled import rows_of
from rlpath_core.testing.systems import SYSTEMS, orthogonal, triclinic

pytestmark = pytest.mark.slow

FILES = ("steps.jsonl", "basins.jsonl", "dft_queue.jsonl")
SMALL = {"walkers": 4, "checkpoint_every": 8, "quench": {"steps": 25}}


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "run" / name).read_bytes() for name in FILES}


def test_every_kind_of_cell_goes_through(run, tmp_path: Path, system: Structure):
    summary = run(system, steps=12, **SMALL)
    steps = read_lines(tmp_path / "a" / "run" / "steps.jsonl")
    assert [s["n"] for s in steps] == list(range(13))
    assert summary.attempts_total == 12
    assert summary.attempts_rejected == sum(not s["accepted"] for s in steps) < 9
    assert summary.force_calls == sum(s["force_calls"] for s in steps) > 12
    assert summary.stop_reason == "steps"
    assert summary.basins == len(read_lines(tmp_path / "a" / "run" / "basins.jsonl"))
    assert json.loads((tmp_path / "a" / "run" / "summary.json").read_text())["basins"] == summary.basins


def test_files_database_and_npz_agree(run, tmp_path: Path, copper: Structure):
    summary = run(copper, steps=24, **SMALL)
    queue = read_lines(tmp_path / "a" / "run" / "dft_queue.jsonl")
    assert summary.candidates == len(queue) > 0
    assert [line["id"] for line in queue] == list(range(1, len(queue) + 1))
    with Store(tmp_path / "a") as store, store.reading() as session:
        rows = session.scalars(sa.select(orm.QueueRow).order_by(orm.QueueRow.id)).all()
        assert [(r.structure_id, r.attempt, r.stage, r.max_force, r.energy) for r in rows] == [
            tuple(line[key] for key in ("structure_id", "attempt", "stage", "max_force", "energy")) for line in queue
        ]
        steps = {s["n"]: s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl")}
        assert len(steps) == session.scalar(sa.select(sa.func.count()).select_from(orm.AttemptRow))
        basins = session.scalars(sa.select(orm.BasinRow)).all()
        reached = [s["basin"] for s in steps.values() if s["basin"]]
        assert {b.name: b.visits for b in basins} == {name: reached.count(name) for name in set(reached)}
        moves = [s for s in steps.values() if s["basin"] and s["start_basin"] not in (None, s["basin"])]
        assert session.scalar(sa.select(sa.func.sum(orm.TransitionRow.count))) == (len(moves) or None)
        for line in queue:
            (structure,) = store.get([line["structure_id"]])
            energy, forces = (lambda p: (p.energy, p.forces))(EMTModel().predict([structure])[0])
            assert energy == pytest.approx(line["energy"], abs=1e-4)
            largest = np.linalg.norm(forces[~structure.fixed], axis=1).max()
            assert largest == pytest.approx(line["max_force"], abs=2e-2)
            assert line["structure_id"] in steps[line["attempt"]]["candidates"]


def test_candidates_meet_the_trigger(run, tmp_path: Path, copper: Structure):
    trigger = {"max_force": 1.0, "top_k_mean": 100.0, "upper": 3.0, "stages": ["sample"]}
    run(copper, steps=32, pipeline={"trigger": trigger}, **SMALL)
    accepted = [s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl") if s["accepted"] and s["n"] > 0]
    expected = [s["n"] for s in accepted if 1.0 < s["max_force"] <= 3.0]
    queued = [line["attempt"] for line in read_lines(tmp_path / "a" / "run" / "dft_queue.jsonl")]
    assert queued == expected
    assert 0 < len(expected) < len(accepted)


def test_same_seed_same_bytes_other_seed_other(run, tmp_path: Path, copper: Structure):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(copper, name, seed, steps=16, **SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_walkers_share_the_work_and_change_nothing(run, tmp_path: Path, copper: Structure):
    """One step each from the same start, no quench: one walker and eight visit the same structures."""
    config = {"steps": 24, "quench": "none", "walk": {"policy": "origin"}}
    one, eight = EMTModel(), EMTModel()
    run(copper, "a", using=one, walkers=1, **config)
    run(copper, "b", using=eight, walkers=8, **config)
    first, second = (read_lines(tmp_path / name / "run" / "steps.jsonl") for name in "ab")
    for a, b in zip(first, second, strict=True):
        a.pop("walker"), b.pop("walker")
        assert a == b
    assert max(one.batches) == 1
    assert max(eight.batches) == 8


@pytest.mark.parametrize("policy", ["frontier", "metropolis"])
def test_killed_and_resumed_equals_uninterrupted(run, tmp_path: Path, copper: Structure, policy: str):
    config = SMALL | {"steps": 20, "walk": {"policy": policy}, "pipeline": {"recorders": {"viz": {}}}}
    config["pipeline"]["recorders"] |= {"step_trace": {}, "basin_registry": {}, "dft_queue": {}}
    whole = EMTModel()
    run(copper, "whole", using=whole, **config)
    for at in (0, len(whole.batches) // 2, len(whole.batches) - 2):
        name = f"killed{at}"
        with pytest.raises(Interrupted):
            run(copper, name, using=DyingModel(at), **config)
        with (tmp_path / name / "run" / "steps.jsonl").open("a") as stream:
            stream.write('{"n": 99, "torn')  # what a kill in the middle of a write leaves
        with pytest.raises(Interrupted):  # and once more, at once
            run(copper, name, using=DyingModel(1), resume=True, **config)
        run(copper, name, resume=True, **config)
        assert files(tmp_path / name) == files(tmp_path / "whole")
        viz = "run/viz/trajectory.extxyz"
        assert (tmp_path / name / viz).read_bytes() == (tmp_path / "whole" / viz).read_bytes()
        assert rows_of(tmp_path / name) == rows_of(tmp_path / "whole")


def in_flight(folder: Path) -> list:
    """Attempts in flight at the last checkpoint."""
    with Store(folder) as store, store.reading() as session:
        return session.scalars(sa.select(orm.RunRow.state)).one()["state"]["in_flight"]


def test_attempts_in_flight_are_resumed(run, tmp_path: Path, copper: Structure):
    """Checkpoints meet attempts half done; their predictions by then are not made again, and nothing differs."""
    config = {"walkers": 2, "steps": 20, "quench": {"steps": 12, "fmax": 0.3}, "basin": {"refine_fmax": 0.1}}
    whole = EMTModel()
    run(copper, "whole", using=whole, **config)
    steps = read_lines(tmp_path / "whole" / "run" / "steps.jsonl")
    assert sorted(s["n"] for s in steps) == list(range(21))
    assert not in_flight(tmp_path / "whole")
    first, last = (whole.batches.index(2), len(whole.batches) - whole.batches[::-1].index(2))
    assert set(whole.batches[first:last]) == {2}, "every walker takes part in every batch, across checkpoints"
    kept = 0
    for at in np.linspace(len(whole.batches) // 2, len(whole.batches) - 2, 3, dtype=int):
        name = f"killed{at}"
        with pytest.raises(Interrupted):
            run(copper, name, using=DyingModel(int(at)), **config)
        kept += len(in_flight(tmp_path / name))
        again = EMTModel()
        run(copper, name, resume=True, using=again, **config)
        assert again.batches == whole.batches[-len(again.batches) :]
        assert files(tmp_path / name) == files(tmp_path / "whole")
        assert rows_of(tmp_path / name) == rows_of(tmp_path / "whole")
    assert kept, "a kill came after a checkpoint with attempts in flight"


def test_a_damaged_checkpoint_is_named(run, tmp_path: Path, copper: Structure):
    config = {"walkers": 2, "steps": 20, "quench": {"method": "fire", "steps": 12}, "walk": {"relax_share": 1}}
    with pytest.raises(Interrupted):
        run(copper, using=DyingModel(90), **config)
    (path,) = (tmp_path / "a" / "run").glob("checkpoint-*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=path.name):
        run(copper, resume=True, **config)
    path.unlink()
    with pytest.raises(InputError, match=path.name):
        run(copper, resume=True, **config)


def test_kill_9_in_the_middle_and_resume(run, program, tmp_path: Path):
    """A real process, killed by SIGKILL in the middle of its third checkpoint, then resumed here."""
    config = SMALL | {"steps": 24}
    words = program("sample_killed_in_commit", tmp_path / "killed", json.dumps(config), 3)
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    run(triclinic(), "killed", resume=True, **config)
    run(triclinic(), "whole", **config)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


def test_finished_runs_return_their_summary_and_continue_when_limits_rise(run, tmp_path: Path, copper: Structure):
    first = run(copper, steps=8, **SMALL)
    assert run(copper, steps=8, resume=True, using=UnusedModel(), **SMALL) == first
    further = run(copper, steps=16, resume=True, **SMALL)
    assert further.attempts_total == 16
    run(copper, "b", steps=16, **SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_an_existing_output_is_never_overwritten(run, tmp_path: Path, copper: Structure):
    run(copper, steps=4, **SMALL)
    before = files(tmp_path / "a")
    with pytest.raises(InputError, match="--resume"):
        run(copper, steps=4, **SMALL)
    assert files(tmp_path / "a") == before
    (tmp_path / "b" / "run").mkdir(parents=True)
    (tmp_path / "b" / "run" / "steps.jsonl").write_text("{}\n")
    for resume in (False, True):
        with pytest.raises(InputError, match="knows no run"):
            run(copper, "b", steps=4, resume=resume, **SMALL)
    assert (tmp_path / "b" / "run" / "steps.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 2}, "seed"), ({"basin": {"tolerance": 0.2}}, "basin"), ({"walkers": 2}, "walkers")],
)
def test_a_resume_with_something_else_is_refused(run, copper: Structure, change: dict, named: str):
    run(copper, steps=4, **SMALL)
    with pytest.raises(InputError, match=named):
        run(copper, steps=8, resume=True, **(SMALL | change))


def test_a_resume_from_another_start_is_refused(run, copper: Structure):
    run(copper, steps=4, **SMALL)
    with pytest.raises(InputError, match="starts"):
        run(orthogonal(), steps=8, resume=True, **SMALL)


def test_a_shortened_file_is_noticed(run, tmp_path: Path, copper: Structure):
    run(copper, steps=4, **SMALL)
    path = tmp_path / "a" / "run" / "steps.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="shorter"):
        run(copper, steps=8, resume=True, **SMALL)


def test_corrupt_lines_are_named(tmp_path: Path):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"n": 1}\n{"n": \n{"n": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        read_lines(path)


def test_unknown_elements_leave_nothing_behind(run, tmp_path: Path):
    iron = Structure([26], [[0, 0, 0]])
    with pytest.raises(InputError, match="Fe"):
        run(iron, steps=4)
    assert not (tmp_path / "a" / "run").exists()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"target_basins": 2}, "target_basins"),
        ({"max_candidates": 5}, "max_candidates"),
        ({"max_force_calls": 100}, "max_force_calls"),
        ({"max_seconds": 1e-6}, "max_seconds"),
        ({"steps": 0}, "steps"),
        ({"patience": 6}, "patience"),
    ],
)
def test_stoppers(run, copper: Structure, limits: dict, reason: str):
    summary = run(copper, **({"steps": 200} | limits | SMALL))
    assert summary.stop_reason == reason
    if reason == "target_basins":
        assert summary.basins >= 2
    if reason == "max_candidates":
        assert summary.candidates >= 5
    if reason == "max_force_calls":
        assert summary.force_calls >= 100


def test_several_starts_of_different_compositions(run, tmp_path: Path):
    summary = run([triclinic(), SYSTEMS["thin"]()], steps=12, **SMALL)
    steps = read_lines(tmp_path / "a" / "run" / "steps.jsonl")
    assert [s["n"] for s in steps[:3]] == [-1, 0, 1]
    assert summary.attempts_total == 12
    with Store(tmp_path / "a") as store:
        sizes = {len(store.get([s["start_id"]])[0]) for s in steps}
    assert sizes == {14, 5}


def test_a_structure_that_another_round_queued_is_not_queued_again(run, tmp_path: Path, copper: Structure, model):
    run(copper, steps=8, **SMALL)
    config = check(SamplingConfig, {"steps": 8} | SMALL, "x")
    with Store(tmp_path / "a") as store:
        again = sample(config, model, copper, tmp_path / "a" / "run2", store, seed=1, round=2)
    assert again.candidates == 0
    assert (tmp_path / "a" / "run2" / "dft_queue.jsonl").read_bytes() == b""


def test_predictions_that_are_not_finite_end_the_attempt_and_not_the_run(run, tmp_path: Path, copper: Structure):
    summary = run(copper, steps=16, using=NotFiniteModel(), **SMALL)
    reasons = [s["reason"] for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl")]
    assert summary.attempts_total == 16
    assert "model:not_finite" in reasons


def test_viz_frames_carry_their_marks(run, tmp_path: Path, copper: Structure):
    from ase.io import read

    def frames(name: str) -> list:
        return read(tmp_path / name / "run" / "viz" / "trajectory.extxyz", ":")

    run(copper, steps=8, pipeline={"recorders": ["step_trace", "viz"]}, **SMALL)
    every = frames("a")
    steps = [s for s in read_lines(tmp_path / "a" / "run" / "steps.jsonl") if s["accepted"] and s["n"] > 0]
    assert not (tmp_path / "a" / "run" / "dft_queue.jsonl").exists()
    for step in steps:
        own = [frame for frame in every if frame.info["attempt"] == step["n"]]
        assert [frame.info["stage"] for frame in own[:1]] == ["action"]
        assert own[-1].info["stage"] == ("minimum" if step["basin"] and not step["quench"]["cut"] else "quench_step")
        assert own[-1].info["quench_step"] == step["quench"]["steps"]
        assert {frame.info["stage"] for frame in own[1:-1]} <= {"quench_step"}
        last = own[-1]
        assert {frame.info["action"] for frame in own} == {step["action"]}
        assert {frame.info["basin"] for frame in own} == {step["basin"] or "none"}
        assert last.get_potential_energy() == pytest.approx(step["quench"]["energy"], abs=1e-5)
        norms = np.linalg.norm(last.get_forces(apply_constraint=False), axis=1)
        assert norms[~copper.fixed].max() == pytest.approx(step["quench"]["fmax"], abs=1e-3)
        assert np.array_equal(Structure.from_ase(last).fixed, copper.fixed)
        assert np.array_equal(last.get_tags(), copper.tags)
        assert own[0].get_potential_energy() == pytest.approx(step["energy"], abs=1e-5)
    assert len({frame.info["attempt"] for frame in every}) == len(steps)

    new = {"step_trace": {}, "dft_queue": {}, "viz": {"keep": "new_basin", "stride": 0}}
    run(copper, "b", steps=40, pipeline={"recorders": new}, **SMALL)
    steps = read_lines(tmp_path / "b" / "run" / "steps.jsonl")
    found = [s for s in steps if s["new_basin"] and s["n"] > 0]
    assert found
    few = frames("b")
    assert sorted({frame.info["attempt"] for frame in few}) == [s["n"] for s in found]
    wanted = {candidate for s in found for candidate in s["candidates"]}
    assert {Structure.from_ase(f).id for f in few if f.info["trigger"]} >= wanted
    assert all((f.info["trigger_reason"] != "none") == f.info["trigger"] for f in few)


def test_a_relaxation_stopped_early_is_in_the_basin_that_it_names(run, tmp_path: Path, copper: Structure):
    """The same trials with ``look_ahead`` and without. CO on top of copper hardly holds.

    Up to where one stops, both relaxations are the same; there, the structure is in the basin, above its minimum.
    """
    from ase.io import read

    viz = {"pipeline": {"recorders": ["step_trace", "basin_registry", {"name": "viz", "stride": 1}]}}
    config = {
        "walkers": 1,
        "steps": 40,
        "walk": {"policy": "origin"},
        "quench": {"steps": 60},
        "md": {"weight": 0},
    } | viz
    run(copper, "early", basin={"look_ahead": 4}, **config)
    run(copper, "whole", basin={"look_ahead": None}, **config)
    steps = {name: read_lines(tmp_path / name / "run" / "steps.jsonl")[1:] for name in ("early", "whole")}
    frames = {name: read(tmp_path / name / "run" / "viz" / "trajectory.extxyz", ":") for name in steps}
    lines = read_lines(tmp_path / "early" / "run" / "basins.jsonl")
    with Store(tmp_path / "early") as store:
        structures = store.get([line["structure_id"] for line in lines])
    minima = {line["basin"]: (s, line["energy"]) for line, s in zip(lines, structures, strict=True)}
    pairs = [(a, b) for a, b in zip(steps["early"], steps["whole"], strict=True) if a["quench"] and a["quench"]["cut"]]
    assert pairs
    for a, b in pairs:
        early, whole = (
            [frame for frame in frames[name] if frame.info["attempt"] == a["n"]] for name in ("early", "whole")
        )
        for one, other in zip(early[:-1], whole, strict=False):
            np.testing.assert_array_equal(one.positions, other.positions)
        assert not a["quench"]["converged"]
        assert a["quench"]["steps"] % 4 == 0
        assert a["quench"]["steps"] <= b["quench"]["steps"]
        assert a["force_calls"] <= b["force_calls"]
        index = BASINS["histogram"](BasinOptions(), copper, infer_roles(copper))
        index.add(0, *minima[a["basin"]])
        assert index.find(Structure.from_ase(early[-1]), a["quench"]["energy"]) == 0
        assert a["quench"]["energy"] >= minima[a["basin"]][1] - 1e-6
    assert sum(a["force_calls"] for a, _ in pairs) < sum(b["force_calls"] for _, b in pairs)


def test_progress_is_reported(tmp_path: Path, copper: Structure, model: EMTModel):
    reports: list[dict] = []
    with Store(tmp_path) as store:
        config = check(SamplingConfig, {"steps": 8} | SMALL, "x")
        sample(config, model, copper, tmp_path / "run", store, seed=1, progress=reports.append)
    assert reports[-1]["attempts"] == 8
    assert set(reports[-1]) == {"attempts", "accepted", "basins", "candidates", "force_calls_per_s"}
