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


Graph = dict[str, set[str]]


def imports_of_modules(root: Path, package: str) -> Graph:
    """Which modules of a package import which others: inside functions and for type checkers too.

    The package's own ``__init__`` is left out: it offers names of all rooms, and each room may ask it for the version.
    """
    found: Graph = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = set()
    del found[package]
    for module, targets in found.items():
        file = root.joinpath(*module.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in found else node.module for name in below]
            targets |= {name for name in names if name in found and name != module}
    return found


def rooms(modules: Graph) -> Graph:
    """The same for the folders and files directly below the package."""
    found: Graph = {}
    for module, targets in modules.items():
        for target in targets:
            own, other = (f"{name}.".split(".")[1] for name in (module, target))
            if own and other and own != other:
                found.setdefault(own, set()).add(other)
    return found


def circle(graph: Graph) -> list[str] | None:
    """A path of imports that ends where it begins."""
    done: set[str] = set()

    def look(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph.get(node, ())):
            if found := look(target, [*path, node]):
                return found
        done.add(node)
        return None

    return next((found for node in sorted(graph) if (found := look(node, []))), None)


def test_no_circle_of_imports() -> None:
    modules = imports_of_modules(ROOT, "rlpath_core")
    assert len(rooms(modules)) > 15, "the graph has lost its rooms"
    for graph in (rooms(modules), modules):
        found = circle(graph)
        assert found is None, f"a circle of imports: {' -> '.join(found)}"


@pytest.mark.parametrize(
    "line",
    ["from core.b.two import X", "import core.b.two", "from core.b import two"],
    ids=["name", "module", "package"],
)
def test_a_planted_circle_is_found(tmp_path: Path, line: str) -> None:
    for name in (".", "a", "b"):
        (tmp_path / "core" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "core" / name / "__init__.py").touch()
    (tmp_path / "core" / "a" / "one.py").write_text(f"def f():\n    {line}\n", encoding="utf-8")
    two = tmp_path / "core" / "b" / "two.py"
    two.write_text("X = 1\n", encoding="utf-8")
    assert circle(rooms(imports_of_modules(tmp_path, "core"))) is None
    two.write_text("if TYPE_CHECKING:\n    from core.a.one import f\n", encoding="utf-8")
    modules = imports_of_modules(tmp_path, "core")
    assert circle(rooms(modules)) == ["a", "b", "a"]
    assert circle(modules) is not None


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(answer.stdout.split())


def test_config_is_the_bottom_room() -> None:
    """It imports no other room, and nothing that a room needs."""
    own = rooms(imports_of_modules(ROOT, "rlpath_core"))["config"]
    assert own <= {"errors", "files", "registry"}
    assert not loaded_by("rlpath_core.config") & {"ase", "qtoolkit", "numpy", "torch", "sqlalchemy", "rlpath_core.dft"}


@pytest.mark.parametrize("room", ["campaign", "dft", "outbox", "sampling", "training", "viz", "lockstep", "kinetics"])
def test_options_load_no_engine(room: str) -> None:
    loaded = loaded_by(f"rlpath_core.{room}.options")
    assert not loaded & {"ase", "qtoolkit", "torch", "rlpath_core.dft.engines", "rlpath_core.dft.launchers"}


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
