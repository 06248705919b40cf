"""Which Python a backend is given, and one clear line where there is none that will do."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from rlpath_core.backends.environments import child_environment, interpreter_of, is_installed
from rlpath_core.backends.fairchem.environment import VERSION
from rlpath_core.backends.registry import BACKENDS, FAIRCHEM, MACE, backend_of
from rlpath_core.errors import InputError


@pytest.fixture(autouse=True)
def own(monkeypatch, tmp_path):
    """The settings file of the environment, not written yet; no variable is set and the user has no file."""
    monkeypatch.delenv("RLPATH_FAIRCHEM_PYTHON", raising=False)
    monkeypatch.delenv("RLPATH_MACE_PYTHON", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return tmp_path / "rlpath.toml"


def environment(folder, **versions):
    """A real virtual environment that holds the metadata of distributions, and of rlpath what is needed to find it."""
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    for name, version in versions.items():
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    if "rlpath" in versions:
        (packages / "rlpath_core").mkdir()
        (packages / "rlpath_core" / "__init__.py").touch()
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("good"), fairchem_core=VERSION, rlpath="0.1.0")


def test_the_backend_of_this_interpreter_is_here():
    """Whichever of the two environments the tests run in."""
    here = {
        backend for backend in BACKENDS if backend_of(backend).environment in (MACE, FAIRCHEM) and is_installed(backend)
    }
    assert here in ({"mace"}, {"equiformer_v2", "gemnet_oc"})
    for backend in here:
        assert interpreter_of(backend) == Path(sys.executable)


def test_asking_imports_nothing_heavy():
    code = (
        "import sys; from rlpath_core.backends.environments import is_installed\n"
        "is_installed('mace'), is_installed('gemnet_oc')\n"
        "print(sorted({'torch', 'mace', 'fairchem', 'e3nn', 'torch_geometric'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_given_then_variable_then_file_of_the_environment_then_of_the_user(good, own, tmp_path, monkeypatch):
    other = environment(tmp_path / "other", fairchem_core=VERSION, rlpath="0.1.0")
    users = environment(tmp_path / "users", fairchem_core=VERSION, rlpath="0.1.0")
    built = environment(tmp_path / "built", fairchem_core=VERSION, rlpath="0.1.0")
    (tmp_path / "config" / "rlpath").mkdir(parents=True)
    (tmp_path / "config" / "rlpath" / "rlpath.toml").write_text(f'fairchem_python = "{users}"\n')
    assert interpreter_of("gemnet_oc") == users
    own.write_text('fairchem_python = "built/bin/python"\n')  # relative to the file
    assert interpreter_of("gemnet_oc") == built
    monkeypatch.setenv("RLPATH_FAIRCHEM_PYTHON", str(other))
    assert interpreter_of("gemnet_oc") == other
    assert interpreter_of("equiformer_v2", str(good)) == good
    assert good.is_symlink(), "an environment's python must be run under its own name"


def test_a_path_relative_to_here(good, monkeypatch):
    monkeypatch.chdir(good.parents[1])
    assert interpreter_of("gemnet_oc", "bin/python") == good


@pytest.mark.skipif(is_installed("equiformer_v2"), reason="FairChem is in this environment")
def test_no_environment_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"run `make fairchem` in a checkout, .*\$RLPATH_FAIRCHEM_PYTHON") as error:
        interpreter_of("equiformer_v2")
    assert str(tmp_path / "config" / "rlpath" / "rlpath.toml") in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fairchem = '/x'", "rlpath.toml: fairchem: unknown key: settings are called NAME_python"),
        ("fairchem_python = 3", "rlpath.toml: fairchem_python: expected a path, got 3"),
        ("fairchem_python = ", "rlpath.toml: cannot be read as TOML"),
        ("fairchem_python = '/no/such/python'", "rlpath.toml: fairchem_python: no such Python"),
    ],
)
def test_a_bad_settings_file_is_named(own, text, message):
    own.write_text(text)
    with pytest.raises(InputError, match=message):
        interpreter_of("gemnet_oc")


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"fairchem_core": "2.3.0", "rlpath": "0.1.0"}, rf"needs fairchem-core {VERSION}, and \S+ has 2\.3\.0"),
        ({"rlpath": "0.1.0"}, rf"needs fairchem-core {VERSION}, and \S+ has no fairchem-core"),
        ({"fairchem_core": VERSION}, "has no rlpath: .* -m pip install --no-deps rlpath=="),
    ],
)
def test_an_environment_that_will_not_do(tmp_path, monkeypatch, versions, said):
    python = environment(tmp_path / "env", **versions)
    with pytest.raises(InputError, match=f"{said}.*run `make fairchem`") as told:
        interpreter_of("gemnet_oc", python)
    assert told.value.key == "backend_python"
    monkeypatch.setenv("RLPATH_FAIRCHEM_PYTHON", str(python))
    with pytest.raises(InputError, match=said) as told:
        interpreter_of("gemnet_oc")
    assert told.value.key == "RLPATH_FAIRCHEM_PYTHON"


def test_a_mended_environment_is_looked_at_again(tmp_path):
    python = environment(tmp_path / "env", fairchem_core="2.0.0", rlpath="0.1.0")
    with pytest.raises(InputError, match="2\\.0\\.0"):
        interpreter_of("gemnet_oc", python)
    packages = next((tmp_path / "env" / "lib").glob("python*")) / "site-packages"
    (packages / "fairchem_core-2.0.0.dist-info").rename(packages / f"fairchem_core-{VERSION}.dist-info")
    metadata = packages / f"fairchem_core-{VERSION}.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("2.0.0", VERSION))
    assert interpreter_of("gemnet_oc", python) == python


def test_what_is_no_python(tmp_path):
    with pytest.raises(InputError, match="no such Python"):
        interpreter_of("gemnet_oc", tmp_path / "nowhere")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    script.chmod(0o755)
    with pytest.raises(InputError, match="does not run as a Python: broken"):
        interpreter_of("gemnet_oc", script)


def test_an_unknown_backend():
    with pytest.raises(InputError, match="Did you mean 'gemnet_oc'"):
        interpreter_of("gemnet_ox")


def test_a_child_does_not_inherit_what_mace_sets_for_itself(monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_environment()
    )
    found = json.loads(answer.stdout)
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in found
    assert found["OMP_NUM_THREADS"] == "3"
