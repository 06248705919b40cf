"""Sampling from the command line or a deployment: ``python -m flows.sample --params configs/sample.yaml``."""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow

from flows.cli import Command, Given, execute, show
from rlpath_core.sampling.command import SampleSpec, resolve_sample
from tasks.policy import call
from tasks.sampling import sample as sample_task


@flow(name="sample")
def sample(params: dict[str, Any]) -> dict[str, Any]:
    """Explore from a structure with a model; ``params`` as configs/sample.yaml has them."""
    return call(sample_task, resolve_sample(params))


def act(given: Given) -> None:
    spec = resolve_sample(given.of(SampleSpec), given.source)
    show(execute(sample, lambda: call(sample_task, spec), params=spec.model_dump(mode="json")))


main = Command("sample", "Explore a potential energy surface from a structure.", act, params=SampleSpec)


if __name__ == "__main__":
    sys.exit(main())
