"""What all tasks share: when to try again, when a cached result still counts, how to run without Prefect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.states import State
from prefect.tasks import exponential_backoff

from rlpath_core.errors import TransientError
from rlpath_core.files import sha256_of

R = TypeVar("R")

VERSION = "1"
"""Part of every cache key: raised when a change of code changes results."""


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Only a TransientError may come out otherwise the next time."""
    result = state.result(raise_on_failure=False)
    return isinstance(result, TransientError)


RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
"""Declared here once and nowhere nested: a retry inside a retry multiplies."""


def in_prefect() -> bool:
    return FlowRunContext.get() is not None


def call(task: Task[..., R], *args: Any, **kwargs: Any) -> R:
    """The task inside a flow run, its plain function outside: the same code works without any server."""
    return task(*args, **kwargs) if in_prefect() else task.fn(*args, **kwargs)


def call_cached(task: Task[..., R], still_there: Callable[[R], bool], *args: Any, **kwargs: Any) -> R:
    """As ``call``, but a cached result whose files are gone or changed is computed again."""
    result = call(task, *args, **kwargs)
    if in_prefect() and not still_there(result):
        result = call(task.with_options(refresh_cache=True), *args, **kwargs)
    return result


def key_of(name: str, *parts: Any) -> str:
    """A cache key of JSON-able parts; a Path counts by its content, so that a changed file is a new key."""
    plain = [_content(part) if isinstance(part, Path) else part for part in parts]
    text = json.dumps([VERSION, name, *plain], sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _content(path: Path) -> list[Any]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [[p.name, sha256_of(p)] for p in files]
