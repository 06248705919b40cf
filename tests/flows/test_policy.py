"""Retries, caches and the way without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.context import TaskRunContext

from rlpath_core.config import check
from rlpath_core.errors import InputError, TransientError
from rlpath_core.training.options import RunSpec
from tasks.models import _train_key
from tasks.policy import RETRIES, call, call_cached, in_prefect, key_of

pytestmark = pytest.mark.flows

QUICK: dict[str, Any] = RETRIES | {"retry_delay_seconds": 0.01}


@pytest.mark.parametrize(("error", "tries"), [(TransientError, 4), (InputError, 1), (ValueError, 1)])
def test_only_transient_errors_are_retried(error: type[Exception], tries: int) -> None:
    calls = []

    @task(**QUICK)
    def work() -> None:
        calls.append(1)
        raise error("no")

    @flow
    def one() -> None:
        call(work)

    with pytest.raises(error):
        one()
    assert len(calls) == tries


def test_a_transient_error_that_passes_is_no_failure() -> None:
    calls = []

    @task(**QUICK)
    def work() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise TransientError("busy")
        return 7

    @flow
    def one() -> int:
        return call(work)

    assert one() == 7
    assert len(calls) == 3


def test_outside_a_flow_run_the_plain_function_is_called() -> None:
    seen = []

    @task(**QUICK)
    def work() -> str:
        seen.append((in_prefect(), TaskRunContext.get()))
        return "plain"

    assert call(work) == "plain"
    assert seen == [(False, None)]


def test_a_cached_result_is_used_until_its_input_or_its_output_changes(tmp_path: Path) -> None:
    data, out = tmp_path / "data.txt", tmp_path / "out.txt"
    data.write_text("1", encoding="utf-8")
    calls = []

    @task(cache_key_fn=lambda context, given: key_of("work", Path(given["path"])), result_serializer="json")
    def work(path: str) -> dict[str, str]:
        calls.append(1)
        out.write_text(Path(path).read_text(encoding="utf-8"), encoding="utf-8")
        return {"out": str(out)}

    @flow
    def one() -> None:
        call_cached(work, lambda result: Path(result["out"]).exists(), str(data))

    one()
    one()
    assert len(calls) == 1
    out.unlink()
    one()
    assert len(calls) == 2
    assert out.exists()
    data.write_text("2", encoding="utf-8")
    one()
    assert len(calls) == 3


def test_keys_depend_on_content_not_on_names(tmp_path: Path) -> None:
    for folder, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text(text, encoding="utf-8")
    keys = [key_of("k", tmp_path / folder, {"lr": 0.1}) for folder in "abc"]
    assert keys[0] == keys[1] != keys[2]
    assert key_of("k", tmp_path / "a", {"lr": 0.2}) != keys[0]


def test_a_training_is_known_by_all_that_its_fairchem_configuration_includes(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text("optim: {lr_initial: 0.1}\n")
    (tmp_path / "my.yml").write_text("includes: [base.yml]\n")
    for name in ("manifest.json", "train.xyz"):
        (tmp_path / name).write_text("{}")
    spec = {
        "backend": "gemnet_oc",
        "task": "finetune",
        "run_dir": str(tmp_path / "run"),
        "model": {"manifest": str(tmp_path / "manifest.json")},
        "data": {"train": str(tmp_path / "train.xyz")},
        "train": {"config_yml": str(tmp_path / "my.yml")},
    }
    given = {"spec": check(RunSpec, spec, "run.yaml")}
    first = _train_key(None, given)  # type: ignore[arg-type]
    assert _train_key(None, given) == first  # type: ignore[arg-type]
    (tmp_path / "base.yml").write_text("optim: {lr_initial: 0.2}\n")
    assert _train_key(None, given) != first  # type: ignore[arg-type]
