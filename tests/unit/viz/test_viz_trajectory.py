"""Reading trajectories: what is wanted, in order; what is broken is one line with the file and where in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlpath_core.errors import InputError
from rlpath_core.sampling.trajectory import TrajectoryFrame, extxyz
from rlpath_core.testing.systems import SYSTEMS
from rlpath_core.viz.trajectory import read_shots, trajectories


def written(path: Path, count: int, first: int = 0) -> Path:
    """``count`` frames as the recorder writes them; the attempt is the frame's number."""
    rng = np.random.default_rng(first)
    slab = SYSTEMS["triclinic"]()
    frames = []
    for n in range(first, first + count):
        moved = slab.moved(np.round(slab.positions + rng.normal(scale=0.1, size=(len(slab), 3)), 4))
        frame = TrajectoryFrame("action", 0, moved, -1.5 * n, np.round(rng.normal(size=(len(slab), 3)), 4))
        frames.append((frame, {"attempt": n, "action": "jitter", "new_basin": n % 2 == 0, "energy": frame.energy}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(extxyz(frames))
    return path


def test_what_the_recorder_writes_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path / "run" / "viz" / "trajectory.extxyz", 3)
    from ase.io import read

    images = read(path, ":")
    shots = read_shots([path])
    slab = SYSTEMS["triclinic"]()
    assert len(images) == len(shots) == 3
    for n, (atoms, shot) in enumerate(zip(images, shots, strict=True)):
        assert np.allclose(shot.structure.cell, slab.cell)
        assert np.array_equal(shot.structure.fixed, slab.fixed)
        assert np.array_equal(shot.structure.tags, slab.tags)
        assert np.array_equal(shot.structure.pbc, slab.pbc)
        assert np.array_equal(shot.structure.positions, atoms.positions)
        assert np.array_equal(shot.forces, atoms.get_forces(apply_constraint=False))
        assert shot.info["attempt"] == n
        assert bool(shot.info["new_basin"]) == (n % 2 == 0)
        assert shot.info["energy"] == -1.5 * n
        assert shot.info["where"] == "run"


def test_files_follow_each_other_and_stride_runs_through(tmp_path: Path) -> None:
    for round, count in ((1, 3), (2, 4), (10, 3)):
        first = {1: 0, 2: 3, 10: 7}[round]
        written(tmp_path / "sampling" / f"round-{round}" / "viz" / "trajectory.extxyz", count, first)
    paths = trajectories(tmp_path)
    assert [path.parents[1].name for path in paths] == ["round-1", "round-2", "round-10"]
    assert [shot.info["attempt"] for shot in read_shots(paths)] == list(range(10))
    assert [shot.info["attempt"] for shot in read_shots(paths, stride=4)] == [0, 4, 8]
    assert [shot.info["attempt"] for shot in read_shots(paths, stride=2, max_frames=3)] == [0, 2, 4]
    assert trajectories(tmp_path / "sampling" / "round-2") == [paths[1]]


@pytest.mark.parametrize(
    ("harm", "line", "says"),
    [
        (lambda lines: lines[:-3], 17, "ends within"),
        (lambda lines: [*lines[:16], "Cu 0 0", *lines[17:]], 17, "number of atoms"),
        (lambda lines: [*lines[:20], "Cu 0.0 zero 1.0 1 0 0 0 0", *lines[21:]], 17, "not extended XYZ"),
        (lambda lines: [*lines[:20], "Cu 0.0 nan 1.0 1 0 0 0 0", *lines[21:]], 17, "finite"),
        (
            lambda lines: [*lines[:20], "Xx 0.0 0.0 1.0 1 0 0 0 0", *lines[21:]],
            17,
            "between 1 and 118|not extended",
        ),
        (lambda lines: [], None, "no frame"),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, harm, line: int | None, says: str) -> None:
    path = written(tmp_path / "run" / "viz" / "trajectory.extxyz", 2)
    path.write_text("\n".join(harm(path.read_text().splitlines())))
    with pytest.raises(InputError, match=says) as caught:
        read_shots([path])
    assert str(path) in str(caught.value)
    assert caught.value.key == line
    assert "\n" not in str(caught.value)


def test_no_trajectory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recorder"):
        trajectories(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        trajectories(tmp_path / "nowhere")
    (tmp_path / "bytes").mkdir()
    path = tmp_path / "trajectory.extxyz"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_shots([path])
