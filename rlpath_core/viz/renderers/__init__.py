"""OVITO and Blender as programs of their own: neither is imported here, either can be killed."""

from rlpath_core.viz.renderers.process import RENDERERS, Renderer, RenderProcess

__all__ = ["RENDERERS", "Renderer", "RenderProcess"]
