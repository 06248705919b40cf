"""Action quality against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlpath_core.errors import InputError
from rlpath_core.sampling.quality import action_quality, quality_table


def line(n: int, action: str, reason: str | None, force: float | None, calls: int, new: bool = False) -> str:
    return json.dumps(
        {
            "n": n,
            "action": action,
            "accepted": reason is None,
            "reason": reason,
            "magnitude": 0.1 * n,
            "max_force": force,
            "quench": {"converged": True} if reason is None else None,
            "new_basin": new,
            "candidates": ["x"] if new else [],
            "force_calls": calls,
        }
    )


def test_statistics_are_counted_right(tmp_path: Path):
    lines = [
        line(0, "start", None, 9.0, 20, new=True),
        line(1, "jitter", None, 1.0, 10, new=True),
        line(2, "jitter", "min_dist:too_near", None, 0),
        line(3, "jitter", "quality:max_force", 6.0, 1),
        line(4, "md", None, 2.0, 39),
    ]
    (tmp_path / "steps.jsonl").write_text("\n".join(lines) + "\n")
    found = action_quality(tmp_path)
    assert list(found) == ["all", "jitter", "md"]
    jitter = found["jitter"]
    assert (jitter["attempts"], jitter["accepted"], jitter["force_calls"]) == (3, 1, 11)
    assert jitter["reasons"] == {"min_dist:too_near": 1, "quality:max_force": 1}
    assert jitter["max_force"]["50"] == pytest.approx(3.5)
    assert jitter["magnitude"]["50"] == pytest.approx(0.2)
    assert found["all"]["new_basins_per_1000_calls"] == pytest.approx(1000 / 50)
    assert found["md"]["new_basins"] == 0
    assert "min_dist:too_near" in quality_table(found)


def test_a_corrupt_line_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "steps.jsonl").write_text(line(1, "jitter", None, 1.0, 1) + "\n{broken\n")
    with pytest.raises(InputError, match="line 2"):
        action_quality(tmp_path)


@pytest.mark.slow
def test_a_real_run_adds_up(run, tmp_path: Path, copper):
    summary = run(copper, steps=12, walkers=4, quench={"steps": 25})
    found = action_quality(tmp_path / "a" / "run")
    assert (
        found["all"]["attempts"] == summary.attempts_total == sum(v["attempts"] for k, v in found.items() if k != "all")
    )
    assert found["all"]["attempts"] - found["all"]["accepted"] == summary.attempts_rejected
    assert found["all"]["candidates"] == summary.candidates


def test_the_command_prints_and_writes_text_json_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.action_quality import main

    lines = [
        line(1, "jitter", None, 1.0, 10, new=True),
        line(2, "jitter", "min_dist:too_near", None, 0),
        line(3, "md", "quality:max_force", 6.0, 12),
    ]
    (tmp_path / "steps.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["--run_dir", str(tmp_path)]) == 0
    assert (tmp_path / "action_quality.txt").read_text() == capsys.readouterr().out
    assert json.loads((tmp_path / "action_quality.json").read_text()) == action_quality(tmp_path)
    assert (tmp_path / "action_quality.png").read_bytes().startswith(b"\x89PNG")
    assert main(["--params", f"run_dir={tmp_path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == action_quality(tmp_path)
    (tmp_path / "steps.jsonl").write_text('{"n": 1, "action": "jitter"}\n')
    for words, says in (
        (["--run_dir", str(tmp_path / "none")], "no such file or folder"),
        (["--params", "run_dr=x"], "run_dir"),
        ([], "--run_dir is required"),
        (["--run_dir", str(tmp_path)], "not the steps of a sampling run"),
    ):
        assert main(words) == 2
        assert says in capsys.readouterr().err
