"""``python -m flows.sample`` with the starter model: every kind of cell goes through, bad input is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from rlpath_core.store import Store
from rlpath_core.structure import Structure, read_structure

pytestmark = pytest.mark.integration

STARTER = Path(__file__).resolve().parents[2] / "models" / "starter"
Command = Callable[..., subprocess.CompletedProcess[str]]


def as_json(structure: Structure, path: Path, *leave_out: str) -> Path:
    value = {key: getattr(structure, key).tolist() for key in ("numbers", "positions", "cell", "pbc", "tags", "fixed")}
    path.write_text(json.dumps({key: entry for key, entry in value.items() if key not in leave_out}))
    return path


def orthogonal(folder: Path) -> Path:
    return as_json(read_structure(STARTER / "data" / "start.xyz"), folder / "start.json")


def triclinic(folder: Path) -> Path:
    """The same crystal in another cell: b' = a + b, and c leaning."""
    start = read_structure(STARTER / "data" / "start.xyz")
    cell = start.cell.copy()
    cell[1] += cell[0]
    cell[2] += 0.5 * cell[0]
    return as_json(
        Structure(start.numbers, start.positions, cell, start.pbc, start.tags, start.fixed), folder / "start.json"
    )


def without_fixed(folder: Path) -> Path:
    return as_json(read_structure(STARTER / "data" / "start.xyz"), folder / "start.json", "fixed", "tags")


def without_a_cell(folder: Path) -> Path:
    return as_json(Structure.from_ase(molecule("CH3OH")), folder / "start.json", "cell", "pbc", "fixed", "tags")


@pytest.mark.parametrize("structure", [orthogonal, triclinic, without_fixed, without_a_cell])
def test_every_kind_of_cell_goes_through(tmp_path: Path, command: Command, structure: Callable[[Path], Path]) -> None:
    out = tmp_path / "out"
    words = ["--structure_json", structure(tmp_path), "--manifest", STARTER / "manifest.json", "--device", "cpu"]
    result = command("flows.sample", "--run_dir", out, *words, "--steps", "8", "--quench_steps", "15", "--seed", "3")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "attempts_total" in result.stdout
    assert "attempts_rejected" in result.stdout

    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert len(steps) >= 8
    queue = [json.loads(line) for line in (out / "dft_queue.jsonl").read_text().splitlines()]
    start = read_structure(tmp_path / "start.json")
    with Store(out) as store:
        for structure_found in store.get([entry["structure_id"] for entry in queue]):
            assert np.array_equal(structure_found.numbers, start.numbers)
            assert np.allclose(structure_found.cell, start.cell)
            assert np.allclose(structure_found.positions[start.fixed], start.positions[start.fixed], atol=1e-4)

    before = (out / "steps.jsonl").read_bytes()
    again = command("flows.sample", "--run_dir", out, *words, "--steps", "8")
    assert again.returncode == 2, "an output is never written over"
    assert "resume" in again.stderr
    assert (out / "steps.jsonl").read_bytes() == before


def broken_json(folder: Path) -> tuple[list[str | Path], list[str]]:
    (folder / "bad.json").write_text('{"numbers": [8, 1, 1],\n "positions": [[0, 0, 0], ')
    return ["--structure_json", folder / "bad.json", "--manifest", STARTER / "manifest.json"], ["bad.json", "line 2"]


def broken_xyz(folder: Path) -> tuple[list[str | Path], list[str]]:
    (folder / "bad.xyz").write_text("3\n\nO 0 0 zero\nH 0 0 1\n")
    return ["--structure_json", folder / "bad.xyz", "--manifest", STARTER / "manifest.json"], ["bad.xyz"]


def unknown_element(folder: Path) -> tuple[list[str | Path], list[str]]:
    (folder / "gold.xyz").write_text("2\n\nAu 0 0 0\nO 0 0 2\n")
    return ["--structure_json", folder / "gold.xyz", "--manifest", STARTER / "manifest.json"], ["does not know Au"]


def digest_off(folder: Path) -> tuple[list[str | Path], list[str]]:
    bundle = folder / "bundle"
    bundle.mkdir()
    for file in STARTER.iterdir():
        if file.is_file():
            shutil.copy(file, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    weights = bundle / manifest["weights"]["path"]
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    start = STARTER / "data" / "start.xyz"
    return ["--structure_json", start, "--manifest", bundle / "manifest.json"], ["sha256", weights.name]


def wrong_key(folder: Path) -> tuple[list[str | Path], list[str]]:
    (folder / "config.yaml").write_text("rigid_translate:\n  max_stepp: 0.4\n")
    start = STARTER / "data" / "start.xyz"
    return (
        ["--structure_json", start, "--manifest", STARTER / "manifest.json", "--config", folder / "config.yaml"],
        ["config.yaml", "rigid_translate.max_stepp", "'max_step'"],
    )


@pytest.mark.parametrize("bad", [broken_json, broken_xyz, unknown_element, digest_off, wrong_key])
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, command: Command, bad: Callable[[Path], tuple[list[str | Path], list[str]]]
) -> None:
    words, says = bad(tmp_path)
    out = tmp_path / "out"
    result = command("flows.sample", "--run_dir", out, "--steps", "4", "--device", "cpu", *words)
    assert result.returncode == 2, result.stderr[-3000:]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in says:
        assert word in errors[0]
    assert not out.exists() or not any(out.iterdir()), "nothing half-written"
