"""Draws scenes with Blender's Cycles; a plain file for ``process/worker.py``, which imports nothing of rlpath."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import bpy
from mathutils import Matrix, Vector

Colour = tuple[float, ...]
GPUS = ("OPTIX", "CUDA", "HIP", "ONEAPI", "METAL")


def linear(colour: list[float]) -> Colour:
    """sRGB as Blender's linear light."""
    return (*((c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in colour), 1.0)


def use_gpu() -> str:
    """Switches Cycles to the first kind of GPU there is; returns what renders."""
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPUS:
        try:
            preferences.compute_device_type = kind
        except TypeError:  # this build or system does not know it
            continue
        preferences.get_devices()
        found = [device for device in preferences.devices if device.type == kind]
        if found:
            for device in preferences.devices:
                device.use = device.type == kind
            bpy.context.scene.cycles.device = "GPU"
            return f"GPU {found[0].name}"
    with contextlib.suppress(TypeError):
        preferences.compute_device_type = "NONE"
    bpy.context.scene.cycles.device = "CPU"
    return "CPU"


class Stage:
    """Meshes, materials, camera and light, made once; the objects of a scene come and go."""

    def __init__(self) -> None:
        for found in list(bpy.data.objects):
            bpy.data.objects.remove(found)
        self.scene = bpy.context.scene
        self.scene.render.engine = "CYCLES"
        self.device = use_gpu()
        self.scene.view_settings.view_transform = "Standard"
        self.scene.render.image_settings.file_format = "PNG"
        self.scene.render.image_settings.color_mode = "RGB"
        self.scene.render.resolution_percentage = 100
        self.scene.render.use_persistent_data = True
        self.scene.cycles.use_denoising = False
        with contextlib.suppress(TypeError):  # builds without Open Image Denoise have no such value
            self.scene.cycles.denoiser = "OPENIMAGEDENOISE"
            self.scene.cycles.use_denoising = True
        bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24, radius=1)
        self.sphere = self._keep()
        bpy.ops.mesh.primitive_cylinder_add(vertices=20, radius=1, depth=1)
        self.cylinder = self._keep()
        self.materials: dict[Colour, Any] = {}
        camera = bpy.data.cameras.new("camera")
        camera.type = "ORTHO"
        camera.sensor_fit = "VERTICAL"
        camera.clip_end = 1e4
        self.camera = bpy.data.objects.new("camera", camera)
        light = bpy.data.lights.new("sun", "SUN")
        light.energy = 2.2
        light.angle = 0.5
        self.sun = bpy.data.objects.new("sun", light)
        for one in (self.camera, self.sun):
            self.scene.collection.objects.link(one)
        self.scene.camera = self.camera
        self.world = bpy.data.worlds.new("world")
        self.world.use_nodes = True
        self.scene.world = self.world
        self._background()
        self.shown: list[Any] = []

    @staticmethod
    def _keep() -> Any:
        made = bpy.context.object
        mesh = made.data
        mesh.use_fake_user = True
        for polygon in mesh.polygons:
            polygon.use_smooth = True
        mesh.materials.append(None)
        bpy.data.objects.remove(made)
        return mesh

    def _background(self) -> None:
        """What the camera sees is the plain colour; what lights the atoms is even white."""
        nodes, links = self.world.node_tree.nodes, self.world.node_tree.links
        nodes.clear()
        self.seen, lit = nodes.new("ShaderNodeBackground"), nodes.new("ShaderNodeBackground")
        lit.inputs["Strength"].default_value = 0.55
        lit.inputs["Color"].default_value = (1, 1, 1, 1)
        path, mix = nodes.new("ShaderNodeLightPath"), nodes.new("ShaderNodeMixShader")
        out = nodes.new("ShaderNodeOutputWorld")
        links.new(path.outputs["Is Camera Ray"], mix.inputs[0])
        links.new(lit.outputs[0], mix.inputs[1])
        links.new(self.seen.outputs[0], mix.inputs[2])
        links.new(mix.outputs[0], out.inputs["Surface"])

    def material(self, colour: list[float], glossy: bool = True) -> Any:
        key = (*colour, float(glossy))
        if key not in self.materials:
            made = bpy.data.materials.new("atom")
            made.use_nodes = True
            node = made.node_tree.nodes["Principled BSDF"]
            node.inputs["Base Color"].default_value = linear(colour)
            node.inputs["Roughness"].default_value = 0.45 if glossy else 1.0
            for name in ("Specular", "Specular IOR Level"):  # its name until 3.6, and since 4.0
                if name in node.inputs:
                    node.inputs[name].default_value = 0.35 if glossy else 0.0
            self.materials[key] = made
        return self.materials[key]

    def add(self, mesh: Any, matrix: Matrix, colour: list[float], glossy: bool = True) -> None:
        made = bpy.data.objects.new("part", mesh)
        made.matrix_world = matrix
        made.material_slots[0].link = "OBJECT"
        made.material_slots[0].material = self.material(colour, glossy)
        self.scene.collection.objects.link(made)
        self.shown.append(made)

    def stick(self, ends: list[float], colour: list[float], radius: float, glossy: bool = True) -> None:
        start, end = Vector(ends[:3]), Vector(ends[3:])
        along = end - start
        turn = Vector((0, 0, 1)).rotation_difference(along).to_matrix().to_4x4()
        size = Matrix.Diagonal((radius, radius, along.length, 1))
        self.add(self.cylinder, Matrix.Translation((start + end) / 2) @ turn @ size, colour, glossy)

    def draw(self, scene: dict[str, Any], out: str) -> None:
        for found in self.shown:
            bpy.data.objects.remove(found)
        self.shown = []
        for position, radius, colour in zip(scene["positions"], scene["radii"], scene["colours"], strict=True):
            place = Matrix.Translation(position) @ Matrix.Diagonal((radius, radius, radius, 1))
            self.add(self.sphere, place, colour)
        for ends, colour in zip(scene["sticks"], scene["stick_colours"], strict=True):
            self.stick(ends, colour, scene["stick_radius"])
        for ends in scene["lines"]:
            self.stick(ends, scene["line_colour"], scene["line_radius"], glossy=False)
        right, up, towards = (Vector(scene[key]) for key in ("right", "up", "towards"))
        frame = Matrix((right, up, towards)).transposed().to_4x4()
        self.camera.matrix_world = Matrix.Translation(Vector(scene["centre"]) + 100 * towards) @ frame
        self.camera.data.ortho_scale = 2 * scene["half_height"]
        shine = (towards + 0.9 * up - 0.5 * right).normalized()
        self.sun.matrix_world = Vector((0, 0, 1)).rotation_difference(shine).to_matrix().to_4x4()
        self.seen.inputs["Color"].default_value = linear(scene["background"])
        self.scene.render.resolution_x, self.scene.render.resolution_y = scene["width"], scene["height"]
        self.scene.cycles.samples = scene["samples"]
        self.scene.render.filepath = out
        bpy.ops.render.render(write_still=True)


@functools.cache
def stage() -> Stage:
    return Stage()


def about(call: Any) -> dict[str, str]:
    """What draws; an error if Blender cannot set up its stage."""
    return {"about": f"Blender {bpy.app.version_string} Cycles {stage().device}"}


def draw(call: Any) -> None:
    """Draw ``scene`` into the file ``out``."""
    stage().draw(call.header["scene"], call.header["out"])


HANDLERS = {"about": about, "draw": draw}
