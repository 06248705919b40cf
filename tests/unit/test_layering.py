"""flows -> tasks -> rlpath_core, one way only, and the habits that a machine can hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("rlpath_core", "tasks", "flows")
FORBIDDEN = {
    "rlpath_core": {"prefect", "tasks", "flows"},
    "tasks": {"flows"},
    "flows": {"numpy", "torch", "ase"},
}
LONGEST = 500


def sources(layer: str) -> list[Path]:
    found = sorted((ROOT / layer).rglob("*.py"))
    assert found, f"no source found under {layer}"
    return found


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    wrong = {str(p.relative_to(ROOT)): imported(p) & FORBIDDEN[layer] for p in sources(layer)}
    assert not {path: names for path, names in wrong.items() if names}


def test_the_check_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import prefect.states\n    from flows.cli import parser\n", encoding="utf-8")
    assert imported(file) == {"prefect", "flows"}


def test_importing_the_core_is_light() -> None:
    heavy = "{'prefect', 'torch', 'mace', 'e3nn', 'fairchem'}"
    code = f"import sys, rlpath_core; print(sorted({heavy} & {{name.split('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module", ["rlpath_core.campaign", "rlpath_core.training.options", "rlpath_core.sampling.options"]
)
def test_configs_are_checked_without_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules, 'prefect' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.split() == ["False", "False"]


def test_files_are_short_and_named_by_subject() -> None:
    every = [path for layer in LAYERS for path in sources(layer)]
    long = [str(p.relative_to(ROOT)) for p in every if len(p.read_text(encoding="utf-8").splitlines()) > LONGEST]
    assert not long
    assert not [str(p.relative_to(ROOT)) for p in every if p.stem in ("utils", "helpers", "common", "misc")]
