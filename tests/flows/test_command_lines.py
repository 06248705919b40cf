"""The command lines in processes of their own: no server, one line and exit code 2 for bad input."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.flows

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


def command(cwd: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Without any Prefect setting of this process: the harness's server must not be found."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "HOME": str(cwd),
        "PREFECT_HOME": str(cwd / "prefect"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, cwd=cwd, env=env, timeout=120
    )


@pytest.mark.parametrize(
    ("module", "words", "says"),
    [
        ("flows.sample", ["--params", "run_dr=x"], ["run_dr", "run_dir"]),
        ("flows.sample", ["--params", "no/such/file.yaml"], ["no/such/file.yaml", "no such file"]),
        ("flows.sample", ["--params", "{not json"], ["not JSON"]),
        ("flows.paths", ["--params", "run_dir=out", "initial=a.xyz"], ["initial", "needs `final`"]),
        ("flows.al_loop", ["--params", "roundss=2"], ["roundss", "Did you mean 'rounds'"]),
        ("flows.al_loop", ["--params", "sampling.pipelin.trigger=1"], ["sampling.pipelin", "pipeline"]),
        ("flows.al_loop", ["--params", "structure=missing.xyz"], ["missing.xyz", "structure"]),
        ("flows.run", ["--config", "run.yaml"], ["run.yaml", "no such file"]),
        ("flows.train", ["--config", "run.yaml"], ["run.yaml", "no such file"]),
        ("flows.evaluate", ["--params", "manifes=x"], ["manifes", "Did you mean 'manifest'"]),
        ("flows.evaluate", ["--manifest", "m.json", "--data", "d.xyz"], ["m.json", "no such file"]),
        ("flows.outbox", ["--run_dir", "nowhere"], ["nowhere", "no such folder"]),
        ("flows.outbox", ["--run_dir", "."], ["rlpath.db"]),
        ("flows.dft_submit", ["--run_dir", ".", "--params", "dft.engin=tblite"], ["engin", "Did you mean 'engine'"]),
        ("flows.al_loop", ["--services", "--params", "campaign=../up"], ["campaign"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    tmp_path: Path, module: str, words: list[str], says: list[str]
) -> None:
    result = command(tmp_path, module, *words)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in says:
        assert word in lines[0]
    assert result.stdout == ""
    left = {path.name for path in tmp_path.iterdir()} - {"prefect"}
    assert not left, f"something was written: {left}"


@pytest.mark.parametrize(
    "module", ["sample", "paths", "outbox", "dft_submit", "train", "evaluate", "run", "al_loop", "visualize"]
)
def test_help_starts_at_once(tmp_path: Path, module: str) -> None:
    """In seconds of processor time, so that it does not matter what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = command(tmp_path, f"flows.{module}", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    assert "--params" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15


def test_relative_paths_belong_to_their_file_or_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlpath_core.campaign.options import CampaignConfig
    from rlpath_core.config import parse_params

    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "params.yaml"
    file.write_text("model: in-file.json\nseed: 3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    params, source = parse_params([str(file), "structure=here.xyz"], CampaignConfig)
    assert params == {
        "model": str(tmp_path / "deep" / "in-file.json"),
        "seed": 3,
        "structure": str(tmp_path / "here.xyz"),
    }
    assert source == file
