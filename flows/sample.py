"""Sampling from the command line or a deployment: ``python -m flows.sample --params configs/sample.yaml``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.cli import execute, params_of, parser, run_command, show
from rlpath_core.config import located, parse_params
from rlpath_core.sampling.command import SampleSpec, resolve_sample
from tasks.policy import call
from tasks.sampling import sample as sample_task


@flow(name="sample")
def sample(params: dict[str, Any]) -> dict[str, Any]:
    """Explore from a structure with a model; ``params`` as configs/sample.yaml has them."""
    return call(sample_task, resolve_sample(params).model_dump(mode="json"))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("sample", "Explore a potential energy surface from a structure.")
    arguments.add_argument("--run_dir", help="output folder; an existing output needs --resume")
    arguments.add_argument("--structure_json", help="numbers/positions/cell/fixed/tags JSON, or what ASE reads")
    arguments.add_argument("--config", help="sampling YAML (configs/sampling.yaml)")
    arguments.add_argument("--steps", type=int, help="attempts in all")
    arguments.add_argument("--target_basins", type=int, help="stop after so many basins")
    arguments.add_argument("--resume", action="store_true", default=None, help="go on where the run in run_dir stopped")
    arguments.add_argument("--manifest", help="manifest.json of the model")
    arguments.add_argument("--weights", help="a state_dict in place of the manifest's weights")
    arguments.add_argument("--committee", nargs="+", help="manifests of further models, for pipeline.trigger.spread")
    arguments.add_argument("--device", choices=["cuda", "cpu", "auto"])
    arguments.add_argument("--head", help="head of a model with several")
    arguments.add_argument("--amp", action="store_true", default=None, help="bfloat16 inference on a GPU")
    arguments.add_argument("--quench", choices=["none", "fire", "cg", "bfgs", "lbfgs"])
    arguments.add_argument("--quench_fmax", type=float, metavar="EV_PER_ANGSTROM")
    arguments.add_argument("--quench_steps", type=int)
    arguments.add_argument("--seed", type=int)
    arguments.add_argument("--walkers", type=int, help="walkers in lockstep; default: by device and size")
    given = arguments.parse_args(argv)

    def command() -> None:
        params, source = parse_params(params_of(given), SampleSpec)
        flags = {key: value for key, value in vars(given).items() if key != "params" and value is not None}
        flags = located(flags, SampleSpec)
        spec = resolve_sample(params | flags, source)
        show(execute(sample, params=spec.model_dump(mode="json")))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
