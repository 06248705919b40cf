"""Launchers: the machines that calculations run on."""

from rlpath_core.dft.launchers.base import Event, Launcher, Submission
from rlpath_core.dft.launchers.local import LocalLauncher
from rlpath_core.dft.launchers.slurm import SlurmLauncher
from rlpath_core.registry import Registry

LAUNCHERS: Registry[type[Launcher]] = Registry("launcher", "rlpath.launchers")
LAUNCHERS.register("local")(LocalLauncher)
LAUNCHERS.register("slurm")(SlurmLauncher)

__all__ = ["LAUNCHERS", "Event", "Launcher", "Submission"]
