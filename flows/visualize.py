"""Pictures and films: ``python -m flows.visualize --run_dir campaigns/default`` or ``--campaign campaigns/default``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.cli import execute, params_of, parser, run_command, show
from rlpath_core.config import check, located, parse_params
from rlpath_core.viz.options import VisualizeSpec
from tasks.policy import call
from tasks.visualize import basin_graph, contact_sheet, film


@flow(name="visualize")
def visualize(params: dict[str, Any]) -> dict[str, Any]:
    """A film of a run's trajectories; contact sheet and graph of a campaign's basins. ``params`` as the flags."""
    spec = check(VisualizeSpec, params, "params")
    plain = spec.model_dump(mode="json")
    result: dict[str, Any] = {}
    if spec.campaign is not None:
        result["basin_graph"] = call(basin_graph, plain)
        result["contact_sheet"] = call(contact_sheet, plain)
    if spec.run_dir is not None:
        result["film"] = call(film, plain)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("visualize", "Trajectories to frames and a movie; basins to a contact sheet and a graph.")
    arguments.add_argument("--run_dir", help="film of a sampling run, or of all rounds of a campaign")
    arguments.add_argument("--campaign", help="contact sheet and basin graph from the rlpath.db in this folder")
    arguments.add_argument("--round", type=int, help="of the campaign only this round's basins")
    arguments.add_argument("--renderer", choices=["ovito", "blender"], help="default: ovito")
    arguments.add_argument("--out", help="folder for the results; default: viz/ in run_dir or campaign")
    arguments.add_argument("--stride", type=int, help="every so many frames")
    arguments.add_argument("--fps", type=float, help="frames a second; default 8")
    arguments.add_argument("--max_frames", type=int, help="at most so many frames, or basins on the sheet")
    arguments.add_argument("--width", type=int, help="pixels, even; default 800")
    arguments.add_argument("--height", type=int, help="pixels, even; default 600")
    arguments.add_argument("--samples", type=int, help="rays a pixel; default 16")
    arguments.add_argument("--radius", type=float, help="scale of the spheres, 1: about covalent radii; default 0.6")
    arguments.add_argument("--colour", choices=["element", "tag", "force"])
    arguments.add_argument("--gif", action="store_true", default=None, help="also an animated GIF")
    given = arguments.parse_args(argv)

    def command() -> None:
        params, source = parse_params(params_of(given), VisualizeSpec)
        flags = {key: value for key, value in vars(given).items() if key != "params" and value is not None}
        spec = check(VisualizeSpec, params | located(flags, VisualizeSpec), source or "--params")
        from rlpath_core.viz import ready  # slow to import: after what may be wrong with the flags

        ready(spec)  # before a server hears of it
        for part, result in execute(visualize, params=spec.model_dump(mode="json")).items():
            show({part: result} if isinstance(result, str) else {f"{part}.{k}": v for k, v in result.items()})

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
