"""Draws scenes with OVITO; a plain file for ``process/worker.py``, which imports nothing of rlpath."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any


@functools.cache
def renderer() -> tuple[Callable[[dict[str, Any], str], None], str]:
    """What draws a scene into a file, and what it draws with."""
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
    return draw, f"OVITO {ovito.version_string} {kind}"


def about(call: Any) -> dict[str, str]:
    """What draws; an error if OVITO cannot be loaded."""
    return {"about": renderer()[1]}


def draw(call: Any) -> None:
    """Draw ``scene`` into the file ``out``."""
    renderer()[0](call.header["scene"], call.header["out"])


HANDLERS = {"about": about, "draw": draw}
