"""A campaign of your own: ``rlpath init NAME --structure FILE --model MODEL [--engine ENGINE]`` writes its file."""

from __future__ import annotations

import sys
from pathlib import Path

from flows.cli import Command, Given
from rlpath_core.campaign.new import InitSpec, write_campaign


def act(given: Given) -> None:
    spec = given.checked(InitSpec)
    for path in write_campaign(spec, Path.cwd()):
        print(f"wrote {path.name}")
    print(f"next: rlpath loop --config {spec.name}.yaml")


main = Command(
    "init",
    "Write a commented campaign file for a structure and a model of yours.",
    act,
    own=InitSpec,
    positional="name",
)


if __name__ == "__main__":
    sys.exit(main())
