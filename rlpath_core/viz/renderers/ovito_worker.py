"""Draws scenes with OVITO: one line of JSON in, one PNG out. Run as a program of its own; imports nothing of rlpath.

python -P ovito_worker.py        reads {"scene": ..., "out": "x.png"} lines until there are no more
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    import numpy as np
    import ovito
    import ovito.vis
    from ovito.data import DataCollection, Lines, Particles
    from ovito.pipeline import Pipeline, StaticSource

    vis: Any = ovito.vis  # its stubs know neither all renderers nor arrays
    on_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

    def tubes(segments: Any, colours: Any, radius: float, name: str) -> Lines:
        lines = Lines(identifier=name)
        lines.create_property("Position", data=np.asarray(segments).reshape(-1, 3))
        lines.create_property("Section", data=np.repeat(np.arange(len(segments)), 2))
        lines.create_property("Color", data=np.repeat(np.asarray(colours), 2, axis=0))
        lines.vis.width = 2 * radius
        lines.vis.rounded_caps = True
        return lines

    def draw(scene: dict[str, Any], out: str) -> None:
        data = DataCollection()
        particles = Particles()
        particles.create_property("Position", data=np.asarray(scene["positions"]))
        particles.create_property("Radius", data=np.asarray(scene["radii"]))
        particles.create_property("Color", data=np.asarray(scene["colours"]))
        particles.vis.shape = vis.ParticlesVis.Shape.Sphere
        data.objects.append(particles)
        if scene["sticks"]:
            data.objects.append(tubes(scene["sticks"], scene["stick_colours"], scene["stick_radius"], "sticks"))
        if scene["lines"]:
            colours = [scene["line_colour"]] * len(scene["lines"])
            data.objects.append(tubes(scene["lines"], colours, scene["line_radius"], "cell"))
        pipeline = Pipeline(source=StaticSource(data=data))
        pipeline.add_to_scene()
        view = vis.Viewport(type=vis.Viewport.Type.Ortho)
        towards = np.asarray(scene["towards"])
        view.camera_pos = np.asarray(scene["centre"]) + 100.0 * towards
        view.camera_dir = -towards
        view.camera_up = scene["up"]
        view.fov = scene["half_height"]
        if on_display:
            renderer = vis.OpenGLRenderer(antialiasing_level=min(max(scene["samples"] // 4, 1), 6))
        else:
            renderer = vis.TachyonRenderer(
                antialiasing_samples=scene["samples"], ambient_occlusion_samples=4, shadows=False, direct_light=True
            )
        size = (scene["width"], scene["height"])
        view.render_image(filename=out, size=size, background=tuple(scene["background"]), renderer=renderer, crop=False)
        pipeline.remove_from_scene()

    kind = "OpenGL" if on_display else "Tachyon"
    print(f"RLPATH ready OVITO {ovito.version_string} {kind}", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            draw(job["scene"], job["out"])
        except Exception as error:
            print(f"RLPATH error {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        else:
            print("RLPATH done", flush=True)


if __name__ == "__main__":
    main()
