"""``python -m flows.visualize`` with the real OVITO, Blender and ffmpeg: frames, films, kills, and what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111, molecule
from PIL import Image

from flows.visualize import main
from rlpath_core.kinetics.files import write_network
from rlpath_core.kinetics.network import Minimum, ReactionNetwork, Saddle
from rlpath_core.kinetics.options import KineticsOptions
from rlpath_core.sampling.trajectory import TrajectoryFrame, extxyz
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure
from rlpath_core.testing.pictures import missing_for
from rlpath_core.viz.caption import bands
from rlpath_core.viz.options import Look
from rlpath_core.viz.renderers import RENDERERS
from rlpath_core.viz.scene import pictures
from rlpath_core.viz.trajectory import read_shots, trajectories

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 240, 200
SMALL = ["--width", str(WIDTH), "--height", str(HEIGHT), "--samples", "4"]


def needs(renderer: str, film: bool = False) -> pytest.MarkDecorator:
    missing = missing_for(renderer, film)
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


needs_ovito_package = pytest.mark.skipif(
    find_spec("ovito") is None, reason="needs the PyPI package ovito (requirements/viz.lock)"
)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Prefect server happens to run on this machine has no part in these tests."""
    monkeypatch.setattr("flows.cli.server_url", lambda: None)


def slab() -> Structure:
    """A small copper slab with CO whose oxygen is on top."""
    from ase.constraints import FixAtoms

    atoms = fcc111("Cu", (2, 2, 2), vacuum=6, orthogonal=False)
    add_adsorbate(atoms, molecule("CO", positions=[[0, 0, 1.15], [0, 0, 0]]), 1.8, "ontop", mol_index=1)
    atoms.pbc = True
    atoms.set_tags([0] * 4 + [1] * 4 + [2] * 2)
    atoms.set_constraint(FixAtoms(range(4)))
    return Structure.from_ase(atoms)


def make_run(folder: Path, count: int) -> Path:
    """A run folder with ``count`` frames as the recorder writes them: CO slides over the surface."""
    frames = []
    start = slab()
    for n in range(count):
        positions = start.positions.copy()
        positions[-2:] += 0.15 * n * start.cell[0] / np.linalg.norm(start.cell[0])
        frame = TrajectoryFrame(
            "action", 0, start.moved(np.round(positions, 4)), -30.0, np.full((len(start), 3), 0.1 * n)
        )
        info = {"attempt": n, "stage": "action", "action": "rigid_translate", "basin": "b0001", "new_basin": n == 1}
        info |= {"trigger": n == 2, "trigger_reason": "max_force" if n == 2 else "none", "energy": -30.0}
        frames.append((frame, info))
    path = folder / "viz" / "trajectory.extxyz"
    path.parent.mkdir(parents=True)
    path.write_text(extxyz(frames))
    return folder


def probe(movie: Path) -> dict[str, str]:
    wanted = "stream=codec_name,pix_fmt,width,height,nb_read_frames"
    words = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-show_entries", wanted, "-of", "json"]
    found = subprocess.run([*words, str(movie)], capture_output=True, text=True, check=True)
    return json.loads(found.stdout)["streams"][0]


def line_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("renderer", [pytest.param(name, marks=needs(name, film=True)) for name in RENDERERS])
def test_three_frames_for_real(tmp_path: Path, renderer: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", 3)
    assert main(["--run_dir", str(run), "--renderer", renderer, "--fps", "3", "--gif", *SMALL]) == 0
    out = run / "viz" / renderer
    frames = sorted((out / "frames").iterdir())
    assert [path.name for path in frames] == [f"frame_{k:05d}.png" for k in range(3)]

    top, bottom = bands(WIDTH, HEIGHT)
    shots = read_shots(trajectories(run))
    scenes = [picture.scene for picture in pictures(shots, Look(), WIDTH, HEIGHT - top - bottom)]
    seen = []
    for path, scene in zip(frames, scenes, strict=True):
        with Image.open(path) as image:
            assert image.size == (WIDTH, HEIGHT)
            pixels = np.asarray(image.convert("RGB")).astype(int)[top : HEIGHT - bottom]
        plain = np.abs(pixels - 255 * np.array(scene["background"])).max(axis=2) < 12
        assert 0.2 < plain.mean() < 0.95, "neither empty nor full"
        # where the camera's own arithmetic has the topmost oxygen, the picture is red
        away = np.array(scene["positions"][-2]) - scene["centre"]
        scale = (HEIGHT - top - bottom) / (2 * scene["half_height"])
        x, y = WIDTH / 2 + away @ scene["right"] * scale, (HEIGHT - top - bottom) / 2 - away @ scene["up"] * scale
        red, green, blue = pixels[round(y), round(x)]
        assert red > 1.6 * max(green, blue), (red, green, blue)
        seen.append(x)
    assert seen[0] != pytest.approx(seen[2], abs=2), "it moves"

    stream = probe(out / "movie.mp4")
    assert stream == {
        "codec_name": "h264",
        "pix_fmt": "yuv420p",
        "width": WIDTH,
        "height": HEIGHT,
        "nb_read_frames": "3",
    }
    with Image.open(out / "movie.gif") as animation:
        assert animation.n_frames == 3
    assert "film.drawn: 3" in capsys.readouterr().out

    # again: nothing is drawn; another look: everything
    assert main(["--run_dir", str(run), "--renderer", renderer, *SMALL]) == 0
    assert "film.kept: 3" in capsys.readouterr().out
    assert main(["--run_dir", str(run), "--renderer", renderer, "--colour", "force", "--max_frames", "1", *SMALL]) == 0
    assert "film.drawn: 1" in capsys.readouterr().out
    assert [path.name for path in (out / "frames").iterdir()] == ["frame_00000.png"], "of the longer film none is left"
    assert probe(out / "movie.mp4")["nb_read_frames"] == "1"


@needs("ovito", film=True)
def test_killed_rendering_goes_on_and_loses_no_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 12
    run = make_run(tmp_path / "run", count)
    words = ["--run_dir", str(run), *SMALL]
    folder = run / "viz" / "ovito" / "frames"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.visualize", *words], cwd=ROOT, env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(folder.glob("frame_*.png"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("frame_*.png")}
    assert 2 <= len(before) < count
    assert not (run / "viz" / "ovito" / "movie.mp4").exists()
    assert children
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children), "the renderer outlives its parent"

    torn = folder / "frame_00000.png"  # what no kill leaves, but a full disk may
    torn.write_bytes(torn.read_bytes()[:200])
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"film.kept: {len(before) - 1}" in said
    assert f"film.drawn: {count - len(before) + 1}" in said
    after = sorted(folder.iterdir())
    assert [path.name for path in after] == [f"frame_{k:05d}.png" for k in range(count)]
    kept = {path.name: path.stat().st_mtime_ns for path in after if path.name in before and path != torn}
    assert kept == {name: when for name, when in before.items() if name != torn.name}, "finished frames are kept"
    contents = {path.read_bytes() for path in after}
    assert len(contents) == count, "no frame twice"
    assert probe(run / "viz" / "ovito" / "movie.mp4")["nb_read_frames"] == str(count)


def make_basins(campaign: Path) -> None:
    """A database with three basins of one run."""
    rng = np.random.default_rng(0)
    with Store(campaign) as store, store.session() as session:
        session.add(orm.RunRow(id="r", kind="sampling", folder=str(campaign), round=1, seed=1, config={}))
        session.flush()
        ids = store.put(
            [slab().moved(slab().positions + rng.normal(scale=0.1, size=(10, 3))) for _ in range(3)], session
        )
        for k, sid in enumerate(ids):
            session.add(orm.BasinRow(run_id="r", name=f"b000{k}", structure_id=sid, energy=-k, first_attempt=k))


@needs("ovito")
def test_contact_sheet_and_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_basins(tmp_path)
    assert main(["--campaign", str(tmp_path), "--samples", "2"]) == 0
    said = capsys.readouterr().out
    assert "contact_sheet.basins: 3" in said
    assert "contact_sheet.drawn: 3" in said
    with Image.open(tmp_path / "viz" / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 1.6 * pixels[..., 1:].max(axis=2)) & (pixels[..., 0] > 120)
    for third in np.array_split(red[70:], 3, axis=1):
        assert third.sum() > 20, "an oxygen in each tile"
    assert (tmp_path / "viz" / "basin_graph.png").stat().st_size > 1000


def no_viz(folder: Path) -> list[str]:
    (folder / "run").mkdir()
    return ["--run_dir", str(folder / "run")]


def no_folder(folder: Path) -> list[str]:
    return ["--run_dir", str(folder / "nowhere")]


def truncated(folder: Path) -> list[str]:
    path = make_run(folder / "run", 2) / "viz" / "trajectory.extxyz"
    path.write_text(path.read_text()[:-120])
    return ["--run_dir", str(folder / "run")]


def broken(folder: Path) -> list[str]:
    path = make_run(folder / "run", 2) / "viz" / "trajectory.extxyz"
    path.write_text(path.read_text().replace("Properties=species:S:1:pos:R:3", "Properties=species:S:1:pos:R"))
    return ["--run_dir", str(folder / "run")]


def odd_width(folder: Path) -> list[str]:
    return ["--run_dir", str(make_run(folder / "run", 1)), "--width", "201"]


def no_forces(folder: Path) -> list[str]:
    path = folder / "run" / "viz" / "trajectory.extxyz"
    path.parent.mkdir(parents=True)
    slab().to_ase().write(path, format="extxyz")
    return ["--run_dir", str(folder / "run"), "--colour", "force"]


def no_database(folder: Path) -> list[str]:
    return ["--campaign", str(folder)]


def nothing(folder: Path) -> list[str]:
    return ["--renderer", "ovito"]


def misspelt(folder: Path) -> list[str]:
    return ["--params", "run_dir=x", "rendrer=ovito"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (no_viz, ["viz/trajectory*.extxyz", "recorder"]),
        (no_folder, ["nowhere", "no such folder"]),
        (truncated, ["trajectory.extxyz", "line 13", "ends within"]),
        (broken, ["trajectory.extxyz", "line 1", "not extended XYZ"]),
        (odd_width, ["width", "multiple of 2"]),
        (no_forces, ["--colour", "force"]),
        (no_database, ["rlpath.db"]),
        (nothing, ["--run_dir", "--campaign"]),
        (misspelt, ["rendrer", "'renderer'"]),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: Callable[[Path], list[str]], says: list[str]
) -> None:
    assert main(bad(tmp_path)) == 2
    line = line_of(capsys)
    for word in says:
        assert word in line
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("renderer", "there", "says"),
    [
        ("ovito", [], "ffmpeg"),
        ("ovito", ["ffmpeg"], "ovito"),
        ("blender", ["ffmpeg"], "blender"),
    ],
)
def test_a_missing_program_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    renderer: str,
    there: list[str],
    says: str,
) -> None:
    """A PATH with nothing but ``there``, and no Python package that draws."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name in there:
        (bin / name).write_text("#!/bin/sh\n")
        (bin / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(bin))
    monkeypatch.setitem(sys.modules, "ovito", None)
    monkeypatch.setitem(sys.modules, "bpy", None)
    assert main(["--run_dir", str(make_run(tmp_path / "run", 1)), "--renderer", renderer]) == 2
    line = line_of(capsys)
    assert says in line
    assert "install" in line
    assert not (tmp_path / "run" / "viz" / renderer).exists()


@needs_ovito_package
def test_no_vulkan_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the Vulkan loader or only its driver is missing."""
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "no_driver.json"))
    make_basins(tmp_path)
    assert main(["--campaign", str(tmp_path), "--samples", "2"]) == 2
    assert "apt-get install libvulkan1 mesa-vulkan-drivers" in line_of(capsys)
    assert not (tmp_path / "viz" / "contact_sheet.png").exists()


@needs_ovito_package
def test_ovito_reads_the_recorders_file_as_it_is(tmp_path: Path, program: Callable[..., list[str]]) -> None:
    """In a process of its own: OVITO loads Qt and Vulkan, which a test run should not have in it."""
    path = make_run(tmp_path / "run", 3) / "viz" / "trajectory.extxyz"
    env = {key: value for key, value in os.environ.items() if key != "QT_QPA_PLATFORM"}
    done = subprocess.run(program("read_with_ovito", path), capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    shots = read_shots([path])
    assert [[str(value) for value in marks[1:3]] for marks in read["marks"]] == [["rigid_translate", "b0001"]] * 3
    assert [marks[0] for marks in read["marks"]] == [0, 1, 2]
    assert [bool(marks[3]) for marks in read["marks"]] == [False, True, False]
    assert [bool(marks[4]) for marks in read["marks"]] == [False, False, True]
    assert [marks[5] for marks in read["marks"]] == ["none", "none", "max_force"]
    assert np.allclose(read["positions"], shots[2].structure.positions)
    assert np.allclose(read["forces"], shots[2].forces)
    assert np.allclose(read["cell"], slab().cell, atol=1e-6)
    assert read["pbc"] == [True, True, True]


def make_network(folder: Path) -> Path:
    """A run's network.json: two minima and the saddle between them."""
    start = slab()
    minima = [Minimum(f"B00{k}", start, -30 + k / 5, np.linspace(60, 900, 18)) for k in (1, 2)]
    mode = np.zeros((len(start), 3))
    mode[-1, 0] = 1
    vibrations = np.array([-150.0, *np.linspace(70, 900, 17)])
    saddle = Saddle("TS001", start, -29.1, mode, "B001", "B002", vibrations, state="rate_ready")
    return write_network(ReactionNetwork(tuple(minima), (saddle,)), folder, KineticsOptions())[0]


def test_the_network_of_a_paths_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No renderer takes part, so none is asked for."""
    file = make_network(tmp_path / "run")
    assert main(["--network", str(tmp_path / "run"), "--end", "B002"]) == 0
    said = capsys.readouterr().out
    for name in ("network.png", "network.svg", "energy_diagram.png", "energy_diagram.svg"):
        assert f"network.{name}: {tmp_path / 'run/viz' / name}" in said
        assert (tmp_path / "run/viz" / name).stat().st_size > 2000
    assert main(["--network", str(file), "--out", str(tmp_path / "elsewhere")]) == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 4


def test_a_network_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_network(tmp_path / "run")
    assert main(["--network", str(tmp_path / "run"), "--start", "B009"]) == 2
    assert "network.json: the network has no minimum 'B009'. Did you mean 'B00" in line_of(capsys)
    assert main(["--network", str(tmp_path)]) == 2
    assert "network.json: cannot be read" in line_of(capsys)
    assert not (tmp_path / "run/viz").exists()
