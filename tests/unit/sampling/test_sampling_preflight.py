"""``python -m flows.sample``, in this process, with a config that is wrong in each possible place.

The cases are made from the models themselves, so a new key is tested by being there: a value of the wrong type, one
past each bound, and a misspelt key at every level. Whatever it is: exit code 2, one line that names the file and the
key, and no run folder.
"""

from __future__ import annotations

import json
import os
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import annotated_types
import numpy as np
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows import cli
from flows.sample import main
from rlpath_core.config import check
from rlpath_core.errors import InputError
from rlpath_core.sampling.basins import BASINS
from rlpath_core.sampling.command import SHORT, SampleSpec
from rlpath_core.sampling.options import PLUGIN_OPTIONS, RECORDER_OPTIONS, VALIDATOR_OPTIONS, SamplingConfig
from rlpath_core.sampling.policy import POLICIES
from rlpath_core.sampling.preflight import check_plugins, check_starts
from rlpath_core.sampling.triggers import TRIGGERS
from rlpath_core.structure import Structure, read_structures

STARTER = Path(__file__).resolve().parents[3] / "models" / "starter"
PLUG_INS = {"action_plugins": PLUGIN_OPTIONS, "validators": VALIDATOR_OPTIONS, "recorders": RECORDER_OPTIONS}
Case = tuple[tuple[str, ...], Any]
Sample = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sample:
    """The one line of a command that has to be refused and to leave nothing."""
    monkeypatch.setattr(cli, "server_url", lambda: None)
    monkeypatch.chdir(tmp_path)

    def go(*words: str | Path) -> str:
        before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
        code = main([*map(str, words)])
        out, err = capsys.readouterr()
        lines = err.strip().splitlines()
        assert (code, len(lines), out) == (2, 1, ""), (words, err)
        assert lines[0].startswith("error: "), err
        assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return lines[0]

    return go


def members(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without what pydantic and typing wrap them in."""
    if typing.get_origin(annotation) is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(annotation) for one in members(part)]
    return [annotation]


def bounds(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[float]:
    """Values just past each limit that stands in a field's metadata, or in that of its type."""
    for one in metadata:
        if isinstance(one, annotated_types.Gt):
            yield one.gt
        elif isinstance(one, annotated_types.Ge):
            yield one.ge - 1
        elif isinstance(one, annotated_types.Lt):
            yield one.lt
        elif isinstance(one, annotated_types.Le):
            yield one.le + 1
    if typing.get_origin(annotation) is typing.Annotated:
        yield from bounds(typing.get_args(annotation)[0], annotation.__metadata__)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from bounds(part, ())


def wrong_values(field: FieldInfo) -> list[Any]:
    """Values that no alternative of the field takes."""
    kinds = members(field.annotation)
    wrong: list[Any] = [{"no": "such"}, [["no"]]]
    if str not in kinds and Path not in kinds:
        wrong.append("no such value")
    numbers = [kind for kind in kinds if kind in (int, float)]
    if numbers:
        wrong += [float("nan"), float("inf"), *bounds(field.annotation, tuple(field.metadata))]
    if int in kinds:
        wrong.append(1.5)
    if not numbers and bool not in kinds:
        wrong.append(7)
    if any(typing.get_origin(kind) is dict for kind in kinds):
        wrong.remove({"no": "such"})
    for kind in kinds:
        if typing.get_origin(kind) is list:
            wrong.append([1.5] if typing.get_args(kind) == (int,) else [7])
    return wrong


def cases(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[Case]:
    """Each field of a model and of its sections with each of its wrong values, and a key that nobody knows."""
    if at:
        yield (*at, "no_such_key"), 1
    for name, field in model.model_fields.items():
        section = next((k for k in members(field.annotation) if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if section is None:
            for value in wrong_values(field):
                yield (*at, name), value
        else:
            for value in ("no such value", 7, [1]):
                yield (*at, name), value
            yield from cases(section, (*at, name))
        if name in PLUG_INS:
            for plug_in, options in PLUG_INS[name].items():
                yield (*at, name, plug_in), "no such value"
                yield from cases(options, (*at, name, plug_in))


EVERY = list(cases(SamplingConfig))


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return value


def test_the_walk_over_the_models_misses_nothing() -> None:
    blocks = {path[0] for path, _ in EVERY}
    assert blocks >= set(SamplingConfig.model_fields)
    leaves = {path for path, _ in EVERY}
    assert {("pipeline", "validators", "quality", "max_force"), ("pipeline", "trigger", "stride")} <= leaves
    assert len(leaves) > 100
    assert len(EVERY) > 400


@pytest.mark.parametrize("block", [*SamplingConfig.model_fields, "no_such_key"])
def test_every_key_of_a_config_file(refused: Sample, tmp_path: Path, block: str) -> None:
    path = tmp_path / "config.yaml"
    mine = [(keys, value) for keys, value in EVERY if keys[0] == block] or [((block,), 1)]
    for keys, value in mine:
        path.write_text(yaml.safe_dump(nested(keys, value)))
        words = ["--structure_json", STARTER / "data" / "start.xyz", "--manifest", STARTER / "manifest.json"]
        line = refused("--run_dir", "out", *words, "--config", path)
        place, _, what = line.removeprefix(f"error: {path}: ").partition(": ")
        assert line.startswith(f"error: {path}: "), line
        # as much of the way as is the user's own: a list or a name may stand for a section
        named = [key for key in keys if key in line]
        assert named[:1] == [keys[0]], (keys, value, line)
        assert keys[-1] in line or keys[-2] in place, (keys, value, line)
        assert what, line


SPEC = [case for case in cases(SampleSpec) if case[0][0] != "sampling"] + [
    (("no_such_key",), 1),
    (("sampling",), 7),
    (("sampling", "no_such_key"), 1),
    (("config",), 7),
    (("quench_fmax",), 0),
    (("quench_steps",), 0),
    (("quench",), "no such method"),
    (("steps",), -1),
]


def long(key: str) -> str:
    """What a short flag stands for."""
    return f"sampling.{SHORT.get(key, key)}"


@pytest.mark.parametrize("key", sorted({keys[0] for keys, _ in SPEC}))
def test_every_key_of_the_params(refused: Sample, tmp_path: Path, key: str) -> None:
    good = {"run_dir": "out", "structure_json": str(STARTER / "data/start.xyz"), "manifest": str(STARTER)}
    inline = [case for case in SPEC if case[0][0] == key]
    assert inline
    for keys, value in inline:
        params = tmp_path / "sample.yaml"
        params.write_text(yaml.safe_dump(good | nested(keys, value)))
        line = refused("--params", params)
        assert line.startswith(f"error: {params}: "), line
        assert keys[-1] in line or key in line or long(key) in line, (keys, value, line)
        # the same by key=value on top of a good file
        params.write_text(yaml.safe_dump(good))
        line = refused("--params", params, f"{'.'.join(keys)}={json.dumps(value)}")
        assert keys[-1] in line or key in line or long(key) in line, (keys, value, line)


@pytest.mark.parametrize("key", ["run_dir", "structure_json", "manifest"])
def test_what_is_missing_is_named(refused: Sample, key: str) -> None:
    words = {"run_dir": "out", "structure_json": STARTER / "data/start.xyz", "manifest": STARTER / "manifest.json"}
    line = refused(*(word for name, value in words.items() if name != key for word in (f"--{name}", value)))
    assert key in line
    assert "required" in line


@pytest.mark.parametrize("words", [("--steps", "x"), ("--device", "abacus"), ("--quench", "fier"), ("--sed", "1")])
def test_flags_that_cannot_be(tmp_path: Path, words: tuple[str, str], capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    required = ["--run_dir", "out", "--structure_json", str(STARTER / "data/start.xyz"), "--manifest", str(STARTER)]
    try:
        code = main([*required, *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert words[0].removeprefix("--") in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [("walk: [", "line 1"), ("- 1\n", "mapping"), ("walk:\n\tkT: 1\n", "line 2"), ("a: &b [*b]\n", "unknown key")],
)
def test_config_files_that_are_no_config(refused: Sample, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    words = ["--structure_json", STARTER / "data/start.xyz", "--manifest", STARTER, "--run_dir", "out"]
    line = refused(*words, "--config", path)
    assert line.startswith(f"error: {path}: ")
    assert says in line
    path.write_bytes(b"\xff\xfe\x00steps")
    assert str(path) in refused(*words, "--config", path)
    assert str(tmp_path) in refused(*words, "--config", tmp_path)
    assert "no such file" in refused(*words, "--config", tmp_path / "nowhere.yaml")
    assert refused("--params", "sampling.steps=" + 300 * "x").startswith("error: --params: ")


PLUGGED = [
    ({"walk": {"policy": "frontir"}}, "walk.policy", "Did you mean 'frontier'"),
    ({"basin": {"name": "histgram"}}, "basin.name", "Did you mean 'histogram'"),
    ({"pipeline": {"trigger": {"name": "forc"}}}, "pipeline.trigger.name", "Did you mean 'force'"),
    ({"actions": {"nowhere:X": {}}}, "actions.nowhere:X", "cannot import 'nowhere'"),
    ({"actions": {"broken:X": {}}}, "actions.broken:X", "ZeroDivisionError"),
    ({"actions": {"own:Nothing": {}}}, "actions.own:Nothing", "has no 'Nothing'"),
    ({"actions": {"own:Shake": {"angel": 2}}}, "actions.own:Shake.angel", "Did you mean 'angle'"),
    ({"actions": {"own:Shake": {"angle": -1}}}, "actions.own:Shake.angle", "greater than 0"),
    ({"actions": {"own:function": {}}}, "actions.own:function", "no subclass"),
    ({"actions": {"own:Half": {}}}, "actions.own:Half", "lacks apply"),
    ({"pipeline": {"action_plugins": {"own:Shake": {}}}}, "action_plugins.own:Shake", "no subclass"),
    ({"pipeline": {"validators": {"own:Shake": {}}}}, "validators.own:Shake", "no subclass"),
    ({"pipeline": {"recorders": {"own:Shake": {}}}}, "recorders.own:Shake", "no subclass"),
    ({"pipeline": {"trigger": {"name": "own:Shake"}}}, "trigger.name", "no subclass"),
    ({"walk": {"policy": "own:Shake"}}, "walk.policy", "no subclass"),
    ({"basin": {"name": "own:Shake"}}, "basin.name", "no subclass"),
]


@pytest.mark.parametrize(("value", "key", "says"), PLUGGED, ids=[f"{key}-{says}" for _, key, says in PLUGGED])
def test_plug_ins_that_are_not_there(
    refused: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: dict, key: str, says: str
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "own.py").write_text(
        "from pydantic import Field\n"
        "from rlpath_core.sampling.actions import Action\n"
        "from rlpath_core.sampling.options import ActionOptions\n"
        "class Shake(Action):\n"
        "    class Options(ActionOptions):\n"
        "        angle: float = Field(1.0, gt=0)\n"
        "    def apply(self, structure, setting):\n"
        "        return None\n"
        "class Half(Action):\n"
        "    pass\n"
        "def function(options): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    for name in ("own", "broken"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(value))
    words = ["--structure_json", STARTER / "data/start.xyz", "--manifest", STARTER, "--run_dir", "out"]
    line = refused(*words, "--config", path)
    assert f"{path}: " in line
    assert f"{key}: " in line
    assert says in line
    line = refused(*words, "--params", json.dumps({"sampling": value}))
    assert f"--params: sampling.{key.split('.')[0]}" in line or "--params: sampling.pipeline" in line
    assert says in line


def test_every_name_that_is_registered_passes() -> None:
    for policy in POLICIES:
        check_plugins(check(SamplingConfig, {"walk": {"policy": policy}}, "x"))
    for trigger in TRIGGERS:
        check_plugins(check(SamplingConfig, {"pipeline": {"trigger": {"name": trigger}}}, "x"))
    for basin in BASINS:
        check_plugins(check(SamplingConfig, {"basin": {"name": basin}}, "x"))
    for kind, sections in PLUG_INS.items():
        check_plugins(check(SamplingConfig, {"pipeline": {kind: list(sections)}}, "x"))


def test_starts_that_lead_nowhere(copper: Structure) -> None:
    check_starts([copper, copper])
    far = copper.moved(copper.positions + [0, 0, 1e7])
    with pytest.raises(InputError, match="from the origin"):
        check_starts([far])
    twice = np.vstack([copper.positions, copper.positions[13] + copper.cell[0]])
    doubled = Structure(np.append(copper.numbers, 8), twice, copper.cell, copper.pbc)
    with pytest.raises(InputError, match=r"x\.xyz: atoms 13 and 14 of structure 1 are 0\.0000 Å apart"):
        check_starts([copper, doubled], "x.xyz")
    with pytest.raises(InputError, match=r"the cell is 0\.05 Å thin"):
        check_starts([Structure([29], [[0, 0, 0]], np.diag([0.05, 9, 9]), [True] * 3)])
    with pytest.raises(InputError, match=r"the cell is 1e-06 Å thin"):
        check_starts([Structure([29], [[0, 0, 0]], [[9, 0, 0], [9, 1e-6, 0], [0, 0, 9]], [True] * 3)])
    held = Structure(copper.numbers, copper.positions, copper.cell, copper.pbc, fixed=np.ones(len(copper)))
    with pytest.raises(InputError, match=r"x\.xyz: no atom may move"):
        check_starts([held], "x.xyz")
    with pytest.raises(InputError, match="at least one"):
        check_starts([])


TWO = {"numbers": [8, 1], "positions": [[0, 0, 0], [0, 0, 1]]}
START = (STARTER / "data" / "start.xyz").read_text()
BINARY = np.random.default_rng(0).bytes(2000)
BROKEN: dict[str, tuple[str | bytes | dict, str]] = {
    "empty.xyz": ("", "Empty file"),
    "empty.json": ("", "line 1"),
    "truncated.xyz": (START[:300], "line 1: ends within the frame that begins here: 19 atoms"),
    "truncated.json": (json.dumps(TWO)[:-9], "line 1"),
    "binary.xyz": (BINARY, "cannot be read"),
    "binary.json": (b"\xff\xfe" + BINARY, "UTF-8"),
    "binary.traj": (b"- of Ulm" + BINARY, "cannot read it"),
    "binary.db": (BINARY, "not a database"),
    "what.foo": ("hello", "foo"),
    "nan.xyz": ("2\n\nO 0 0 nan\nH 0 0 1\n", "not a finite number"),
    "nan.json": ('{"numbers": [8], "positions": [[0, 0, NaN]]}', "not a finite number"),
    "infinite.json": ('{"numbers": [8], "positions": [[0, 0, 1e999]]}', "not a finite number"),
    "far.json": (TWO | {"positions": [[0, 0, 0], [1e300, 0, 0]]}, "from the origin"),
    "word.xyz": ("2\n\nO 0 0 zero\nH 0 0 1\n", "line 1: not extended XYZ"),
    "twice.xyz": ("3\n\nO 0 0 0\nH 0 0 1\nH 0 0 1\n", "atoms 1 and 2 are 0.0000 Å apart"),
    "image.json": (TWO | {"positions": [[0, 0, 0], [5, 0, 0]], "cell": [5, 5, 5]}, "0.0000 Å apart"),
    "no_cell.json": (TWO | {"pbc": True}, "singular"),
    "singular.json": (TWO | {"cell": [[5, 0, 0], [5, 0, 0], [0, 0, 5]]}, "singular"),
    "singular.xyz": ('1\nLattice="5 0 0 5 0 0 0 0 9" pbc="T T T"\nO 0 0 0\n', "singular"),
    "flat.json": (TWO | {"cell": [5, 5, 0], "pbc": True}, "singular"),
    "thin.json": (TWO | {"cell": [5, 5, 1e-3]}, "0.001 Å thin"),
    "cell_word.json": (TWO | {"cell": "large"}, "cell: "),
    "cell_shape.json": (TWO | {"cell": [[1, 2], [3, 4]]}, "cell has shape (2, 2)"),
    "pbc_shape.json": (TWO | {"cell": [5, 5, 5], "pbc": [1, 1]}, "pbc: "),
    "pbc_word.json": (TWO | {"cell": [5, 5, 5], "pbc": "no"}, "pbc "),
    "ghost.json": (TWO | {"numbers": [0, 1]}, "between 1 and 118"),
    "fraction.json": (TWO | {"numbers": [8.5, 1]}, "whole number"),
    "symbols.json": (TWO | {"numbers": ["O", "H"]}, "numbers"),
    "overflow.json": (TWO | {"numbers": [10**30, 1]}, "numbers"),
    "ragged.json": (TWO | {"positions": [[0, 0, 0], [1]]}, "positions"),
    "short.json": (TWO | {"positions": [[0, 0, 0]]}, "expected (2, 3)"),
    "missing.json": ({"numbers": [8]}, "positions: is missing"),
    "misspelt.json": (TWO | {"fixd": [0, 0]}, "Did you mean 'fixed'"),
    "fixed_shape.json": (TWO | {"fixed": [1]}, "fixed has shape (1,)"),
    "fixed_index.json": (TWO | {"fixed": [0, 2]}, "fixed "),
    "all_fixed.json": (TWO | {"fixed": [1, 1]}, "no atom may move"),
    "tags.json": (TWO | {"tags": ["slab", "top"]}, "tags"),
    "nothing.json": ("[]", "holds no structure"),
    "null.json": ("null", "JSON object"),
    "deep.json": ("[" * 5000, "recursion"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_structures_that_are_none(refused: Sample, tmp_path: Path, name: str) -> None:
    """Said before the model is loaded: that takes seconds."""
    content, says = BROKEN[name]
    path = tmp_path / name
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused("--run_dir", "out", "--structure_json", path, "--manifest", STARTER / "manifest.json")
    assert line.startswith(f"error: {path}: "), line
    assert says in line


def test_structures_that_cannot_be_opened(refused: Sample, tmp_path: Path) -> None:
    words = ["--run_dir", "out", "--manifest", STARTER / "manifest.json", "--structure_json"]
    assert f"{tmp_path / 'nowhere.xyz'}: no such file" in refused(*words, "nowhere.xyz")
    (tmp_path / "folder.xyz").mkdir()
    assert "folder.xyz: is not a file" in refused(*words, "folder.xyz")
    (tmp_path / "loop.xyz").symlink_to("loop.xyz")
    assert "loop.xyz" in refused(*words, "loop.xyz")
    assert "~nobody_of_that_name/x.xyz" in refused(*words, "~nobody_of_that_name/x.xyz")
    assert "null" in refused(*words, "a\0b.xyz")


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything: be someone else for a while."""
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


@pytest.mark.parametrize("name", ["closed.xyz", "closed.json"])
def test_structures_that_may_not_be_read(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "inner" / name
        path.parent.mkdir()
        path.write_text(START)
        for closed, mode in ((path, 0o600), (path.parent, 0o700)):
            closed.chmod(0)
            with nobody(), pytest.raises(InputError, match="ermission") as error:
                read_structures(path)
            assert error.value.where == str(path)
            closed.chmod(mode)


def test_a_name_with_an_at_sign_is_only_a_name(tmp_path: Path) -> None:
    (tmp_path / "slab@2x2.xyz").write_text(START)
    assert read_structures(tmp_path / "slab@2x2.xyz") == read_structures(STARTER / "data" / "start.xyz")
