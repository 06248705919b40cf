"""The wheel in an empty folder, without a checkout: the demonstration, and a Cu slab that has nothing of it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from rlpath_core.store.schema import HEAD

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
UNREACHABLE = ("No matching distribution found", "Connection", "Max retries exceeded", "Could not fetch")
SMALL = [
    "rounds=1",
    "labels_per_round=3",
    "sampling.steps=12",
    "sampling.walkers=6",
    "sampling.quench.steps=8",
    "paths.max_searches=2",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    if done.returncode and any(words in done.stderr for words in UNREACHABLE):
        pytest.skip(f"hatchling, which builds the wheel, cannot be had: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    return next(folder.glob("rlpath-*.whl"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment that holds the wheel, and borrows the packages that it needs from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    # A line of a .pth file is a place to import from; the .pth files there, such as that of the checkout, are not read.
    (packages / "borrowed.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps"]
    subprocess.run([*install, "--quiet", "--no-index", str(wheel)], check=True, timeout=300)
    return folder / "bin"


class Folder:
    """An empty folder in which ``rlpath`` runs, with nothing set that points to the checkout."""

    def __init__(self, path: Path, programs: Path) -> None:
        self.path = path
        self.programs = programs
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "PYTHON", "RLPATH_"))}
        self.env = kept | {
            "HOME": str(path.parent),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RLPATH_PORT": "4395",
        }

    def run(self, *words: str | Path, code: int = 0, timeout: int = 500) -> str:
        done = subprocess.run(
            [self.programs / words[0], *map(str, words[1:])],
            cwd=self.path,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def rlpath(self, *words: str | Path, code: int = 0) -> str:
        return self.run("rlpath", *words, code=code)


@pytest.fixture
def empty(programs: Path, tmp_path: Path) -> Folder:
    (tmp_path / "empty").mkdir()
    return Folder(tmp_path / "empty", programs)


def test_help_imports_nothing_heavy(empty: Folder) -> None:
    printed = empty.rlpath("--help")
    assert all(f"  {name} " in printed for name in ("init", "loop", "sample", "dft", "action-quality", "services"))
    code = (
        "import sys, flows.main; flows.main.main(['--help']); print({'torch', 'prefect', 'numpy'} & set(sys.modules))"
    )
    assert empty.run("python", "-c", code).strip().endswith("set()")
    imported = empty.run("python", "-c", "import flows, tasks, rlpath_core as core; print(flows, tasks, core)")
    assert str(ROOT) not in imported
    assert not list(empty.path.iterdir())


def test_a_store_of_the_newest_revision_opens(empty: Folder) -> None:
    """The wheel carries Alembic's env.py and every revision."""
    empty.run("python", "-c", "from rlpath_core import Store; Store('new').close()")
    with sqlite3.connect(empty.path / "new" / "rlpath.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_an_unknown_command_is_one_line(empty: Folder) -> None:
    assert "Did you mean 'sample'" in empty.rlpath("sampel", code=2)


def test_the_first_round_of_the_demonstration(empty: Folder) -> None:
    pytest.importorskip("tblite", reason="the demonstration's labels need tblite")
    empty.rlpath("loop", "--params", *SMALL, "train.epochs=1", "--execution", "inline")
    assert [e["round"] for e in json.loads((empty.path / "campaigns/default/rounds.json").read_text())] == [0, 1]
    assert (empty.path / "models/default/round-1/artifacts/manifest.json").exists()
    assert {path.name for path in empty.path.iterdir()} == {"campaigns", "models"}


@pytest.fixture(scope="module")
def cu(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A Cu slab with an O atom, 20 rattled copies of it labelled by EMT, and the run.yaml of a tiny model."""
    from ase.build import add_adsorbate, fcc111
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms
    from ase.io import write

    folder = Folder(tmp_path_factory.mktemp("cu"), programs)
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 3))
    write(folder.path / "cu.xyz", slab)
    labelled = []
    for seed in range(20):
        atoms = slab.copy()
        atoms.rattle(0.1, seed=seed)
        atoms.set_constraint()
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        labelled.append(atoms)
    write(folder.path / "train.xyz", labelled)
    model = {
        "model_type": "ScaleShiftMACE",
        "z_table": [8, 29],
        "cutoff": 4.0,
        "num_interactions": 2,
        "num_radial_basis": 6,
        "radial_type": "bessel",
        "num_polynomial_cutoff": 5,
        "interactions": [
            {"type": "RealAgnosticInteractionBlock", "radial_mlp": [16]},
            {"type": "RealAgnosticResidualInteractionBlock", "radial_mlp": [16]},
        ],
        "products": [{"correlation": 2}, {"correlation": 2}],
        "hidden_irreps": "8x0e",
        "max_ell": 2,
        "heads": ["Default"],
    }
    (folder.path / "model.json").write_text(json.dumps(model))
    run = {
        "backend": "mace",
        "task": "train",
        "run_dir": "models/tiny",
        "device": "cpu",
        "data": {"train": "train.xyz"},
        "train": {"input_json": "model.json", "epochs": 3, "batch_size": 5, "lr": 0.01},
    }
    (folder.path / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


EMT_LABELS = ["--engine", "ase:ase.calculators.emt.EMT"]


def test_a_model_a_campaign_file_and_a_round_of_ones_own(cu: Folder) -> None:
    cu.rlpath("run", "--config", "run.yaml")
    init = ["init", "mine", "--structure", "cu.xyz", "--model", "models/tiny/artifacts/manifest.json"]
    assert "metal" in cu.rlpath(*init, code=2), "GFN1-xTB, the default, does not describe metals"
    assert not (cu.path / "mine.yaml").exists()
    cu.rlpath(*init, *EMT_LABELS)
    assert "exists already" in cu.rlpath(*init, *EMT_LABELS, code=2)

    low = ["sampling.pipeline.trigger.max_force=0.05", "backends.mace.update_steps=4"]
    cu.rlpath("loop", "--config", "mine.yaml", "--execution", "inline", "--params", *SMALL, *low)
    rounds = json.loads((cu.path / "campaigns/mine/rounds.json").read_text())
    assert [entry["round"] for entry in rounds] == [0, 1]
    assert 1 <= rounds[1]["labels"] <= 3
    assert rounds[1]["model"]["manifest"] == str(cu.path / "models/mine/round-1/artifacts/manifest.json")


def test_a_calculator_as_the_model_explores_and_labels(cu: Folder) -> None:
    cu.rlpath("init", "emt", "--structure", "cu.xyz", "--model", "ase:ase.calculators.emt.EMT", *EMT_LABELS)
    low = "sampling.pipeline.trigger.max_force=0.05"
    cu.rlpath("loop", "--config", "emt.yaml", "--params", *SMALL, low)
    _, entry = json.loads((cu.path / "campaigns/emt/rounds.json").read_text())
    assert 1 <= entry["labels"] <= 3
    assert entry["error_on_new_labels"]["force_mae"] < 1e-6, "the labels are its own"


def texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """All text below a folder: files that are UTF-8, and every cell of the databases."""
    for path in filter(Path.is_file, folder.rglob("*")):
        content = path.read_bytes()
        if path.suffix == ".db":
            with sqlite3.connect(path) as connection:
                yield path, "\n".join(connection.iterdump())
        else:
            try:
                yield path, content.decode()
            except UnicodeDecodeError:
                assert b"models/starter" not in content, path


def test_nothing_of_the_demonstration_is_in_it(cu: Folder) -> None:
    assert (cu.path / "campaigns/mine/rounds.json").exists(), "made by the test above"
    seen = 0
    for path, text in texts(cu.path):
        seen += 1
        assert not re.search(r"MgO|models/starter|GFN1", text), path
        assert str(ROOT) not in text, path
    assert seen > 20
    for path in (cu.path / "campaigns/mine/structures").rglob("*.npz"):
        assert set(np.load(path)["numbers"]) == {8, 29}


def test_the_resolved_config_has_no_path_outside_the_folder(cu: Folder) -> None:
    def strings(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            for entry in value.values():
                yield from strings(entry)
        elif isinstance(value, list):
            for entry in value:
                yield from strings(entry)

    config = yaml.safe_load((cu.path / "campaigns/mine/config.yaml").read_text())
    paths = [Path(text) for text in strings(config) if text.startswith(("/", "..", "~"))]
    assert len(paths) >= 4, "structure, model, and the two folders of results"
    assert all(path.is_relative_to(cu.path) for path in paths)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--structure", "nowhere.xyz", "--model", "models/tiny/artifacts/manifest.json"], "nowhere.xyz: no such file"),
        (["--structure", "cu.xyz", "--model", "nowhere"], "nowhere: model: no such file"),
        (["--structure", "au.xyz", "--model", "models/tiny/artifacts/manifest.json"], "does not know Au"),
        (["--structure", "cu.xyz", "--model", "ase:ase.calculators.emt.EMTX"], "has no 'EMTX'"),
        (["--structure", "cu.xyz"], "--model is required"),
    ],
)
def test_init_checks_what_it_is_given(cu: Folder, words: list[str], says: str) -> None:
    (cu.path / "au.xyz").write_text("1\n\nAu 0 0 0\n")
    printed = cu.rlpath("init", "other", *words, *EMT_LABELS, code=2)
    assert [says in line for line in printed.splitlines() if line.startswith("error: ")] == [True]
    assert not (cu.path / "other.yaml").exists()


@pytest.mark.nightly
def test_services_run_the_loop_from_the_wheel(empty: Folder) -> None:
    try:
        empty.rlpath("loop", "--services", "--params", *SMALL, "train.epochs=1")
        assert "worker-gpu-mace: up" in empty.rlpath("services", "status")
        assert "al-loop/default" in empty.run("prefect", "deployment", "ls")
    finally:
        empty.rlpath("services", "down")
    assert [e["round"] for e in json.loads((empty.path / "campaigns/default/rounds.json").read_text())] == [0, 1]
