"""Flags are made from config sections; the documented ones of SPEC are there to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from flows.cli import Command, Given
from rlpath_core.config import Section


class Inner(Section):
    depth: int = 1


class Options(Section):
    run_dir: Path
    """The folder."""
    count: int = Field(3, ge=1)
    share: float | None = None
    name: str = "x"
    kind: Literal["none", "fire"] | Inner = "none"
    walkers: int | Literal["auto"] = "auto"
    deep: bool = False
    models: list[Path] = []
    inner: Inner = Inner()
    table: dict[str, int] = {}


def parsed(*words: str) -> Options:
    seen: list[Options] = []
    command = Command("test", "A test.", lambda given: seen.append(given.checked(Options)), params=Options)
    assert command(list(words)) == 0
    return seen[0]


def test_every_kind_of_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = parsed(
        *("--run_dir", "out", "--count", "7", "--share", "1e-3", "--name", "12", "--kind", "fire", "--walkers", "8"),
        *("--deep", "--models", "a", "b", "--params", "inner.depth=4", "table={a: 1}"),
    )
    assert options == Options(
        run_dir=tmp_path / "out",
        count=7,
        share=1e-3,
        name="12",
        kind="fire",
        walkers=8,
        deep=True,
        models=[tmp_path / "a", tmp_path / "b"],
        inner=Inner(depth=4),
        table={"a": 1},
    )
    assert parsed("--run_dir", "out", "--walkers", "auto").walkers == "auto"


def test_flags_lie_on_the_params_and_their_paths_belong_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.yaml").write_text("run_dir: out\ncount: 2\nname: file\n")
    monkeypatch.chdir(tmp_path)
    options = parsed("--params", "deep/file.yaml", "name=word", "--count", "5", "--models", "m")
    assert (options.run_dir, options.count, options.name) == (tmp_path / "deep" / "out", 5, "word")
    assert options.models == [tmp_path / "m"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "2"], "error: --run_dir is required"),
        (["--run_dir", "x", "--count", "many"], "count: Input should be a valid integer"),
        (["--run_dir", "x", "--count", "0"], "count: Input should be greater than or equal to 1, got 0"),
        (["--params", "run_dr=x"], "run_dr: unknown key. Did you mean 'run_dir'?"),
        (["--params", "inner.dept=2", "--run_dir", "x"], "inner.dept: unknown key. Did you mean 'depth'?"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_code_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(given: Given) -> None:
        given.checked(Options)

    assert Command("test", "A test.", act, params=Options)(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def flags_of(command: Command) -> dict[str, tuple[str, ...]]:
    return {word: tuple(action.choices or ()) for action in command.parser()._actions for word in action.option_strings}


def test_the_documented_flags_of_sample() -> None:
    from flows.sample import main

    flags = flags_of(main)
    documented = "--params --run_dir --structure_json --config --steps --target_basins --resume --manifest --weights "
    documented += "--device --head --amp --quench --quench_fmax --quench_steps --seed"
    assert set(documented.split()) <= set(flags)
    assert flags["--quench"] == ("none", "fire", "cg", "bfgs", "lbfgs")


def test_the_documented_flags_of_the_others() -> None:
    from flows import action_quality, al_loop, dft_submit, evaluate, outbox, run, train, visualize

    assert {"--config", "--run", "--params"} <= set(flags_of(run.main)) & set(flags_of(train.main))
    assert {"--run_dir", "--params", "--json"} <= set(flags_of(action_quality.main))
    assert {"--run_dir", "--params", "--round"} <= set(flags_of(outbox.main))
    assert {"--run_dir", "--config", "--wait", "--job"} <= set(flags_of(dft_submit.main))
    assert {"--manifest", "--data", "--batch_size"} <= set(flags_of(evaluate.main))
    assert {"--params", "--config", "--execution", "--services"} <= set(flags_of(al_loop.main))
    assert flags_of(visualize.main)["--renderer"] == ("ovito", "blender")


def test_help_of_the_program_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.main import COMMANDS, main

    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert main([]) == 2
    assert main(["sampel"]) == 2
    assert "Did you mean 'sample'" in capsys.readouterr().err
