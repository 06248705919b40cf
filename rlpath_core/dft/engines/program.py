"""Engines that are programs of their own: inputs in a folder, a command, outputs read by those who know the format.

``command`` is ``program_worker.py``, which starts the program, waits, has the engine judge the outputs and writes
``result.json``: on this machine or on a node, and also when whoever submitted it is long dead.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from rlpath_core.config import Section, check, merge, read_mapping
from rlpath_core.dft.engines.base import Calculation, Engine
from rlpath_core.dft.engines.periodic import boxed, kpoint_grid, little_vacuum, unboxed
from rlpath_core.errors import InputError, nearest
from rlpath_core.structure import Structure

PRESETS = Path(__file__).resolve().parents[1] / "presets"


class Preset(Section):
    """A YAML file of settings: ``presets/<engine>/<name>.yaml``, or a user's own file."""

    source: str
    """Where the values are from: the DOI of a paper, or the documentation of a project."""
    settings: dict[str, Any]
    """Settings that those of the config take precedence over."""
    safer: dict[str, Any] = {}
    """Settings that take precedence over all others in the second try after an SCF that ran out of steps."""


def load_preset(engine: str, name: str) -> Preset:
    """By name, or by path where it ends in .yaml. Raises InputError that names what there is."""
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else PRESETS / engine / f"{name}.yaml"
    if path.parent.parent == PRESETS and not path.is_file():
        known = sorted(p.stem for p in (PRESETS / engine).glob("*.yaml"))
        raise InputError(
            f"engine {engine} has no preset {name!r}.{nearest(name, known)} Known: {', '.join(known)}", None, "preset"
        )
    return check(Preset, read_mapping(path), path)


class ProgramSettings(Section):
    """What every program has; none of these three changes a label."""

    preset: str = "pbe"
    """The name of a preset, or a YAML file of your own; keys given here take precedence over it."""
    command: list[str]
    """How the program is started; a string is split as a shell would split it."""
    check_installed: bool = True
    """Refuse to begin if the program is not found; false if it is on the compute nodes only."""

    @field_validator("command", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return shlex.split(value) if isinstance(value, str) else value


class PeriodicSettings(ProgramSettings):
    """What programs have that repeat everything in three directions."""

    vacuum: float = Field(15.0, ge=5)
    """The least vacuum between the atoms and their images along a direction that is not periodic, in Å."""
    kpoint_length: float = Field(30.0, gt=0)
    """k-points along a reciprocal vector b are ceil(kpoint_length x |b|), 1 / |b| being the distance between opposite
    faces of the cell, in Å; one along vacuum."""
    kpoints: tuple[int, int, int] | None = None
    """A grid for the cell as it is given, in place of kpoint_length."""


def home(path: Path | None) -> Path | None:
    """For validators of path settings: ``~`` is the user's folder."""
    return None if path is None else path.expanduser()


@dataclass(frozen=True)
class Ended:
    """How the program ended: its exit code (negative: a signal), and what it printed."""

    code: int
    log: Path


class ProgramEngine(Engine):
    """One folder, one run of a program."""

    Settings: ClassVar[type[ProgramSettings]]  # type: ignore[assignment]
    machine: ClassVar[frozenset[str]] = frozenset({"preset", "command", "check_installed"})
    """Settings that say where things are and not what is calculated: no part of a job's identity."""
    outputs: ClassVar[tuple[str, ...]] = ()
    """Globs of what the program writes: removed before it starts, or an earlier run's could be taken for this one's."""
    scratch: ClassVar[tuple[str, ...]] = ()
    """Globs of large files that nobody reads afterwards."""
    log: ClassVar[str] = "program.log"
    """What the program prints."""
    install: ClassVar[str] = ""
    """How one comes by the program."""

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        given = dict(settings or {})
        name = given.get("preset", self.Settings.model_fields["preset"].default)
        if not isinstance(name, str):
            raise InputError(f"expected a preset's name, got {name!r}", f"settings of engine {self.name}", "preset")
        self.preset = load_preset(self.name, name)
        super().__init__(merge(self.preset.settings, given))

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in self.resolved().items() if key not in self.machine}

    def safer(self) -> dict[str, Any] | None:
        resolved = self.resolved()
        safer = merge(resolved, self.preset.safer)
        return None if safer == resolved else safer

    def require(self) -> None:
        program = self.settings.command[0] if self.settings.command else ""
        if self.settings.check_installed and shutil.which(program) is None:
            raise InputError(self.missing(program))

    def missing(self, program: str) -> str:
        hint = f" {self.install}," if self.install else ""
        return (
            f"engine {self.name} is not installed: no program {program!r} here;{hint} or set `command`, and "
            "`check_installed: false` where only the compute nodes have it"
        )

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, "-m", "rlpath_core.dft.engines.program_worker", str(folder)]

    def write_inputs(self, folder: Path, job_id: str, structure: Structure) -> None:
        super().write_inputs(folder, job_id, structure)
        self.inputs(folder, self.boxed(structure))

    def boxed(self, structure: Structure) -> Structure:
        """The structure in the cell that the program calculates: as it is, if the program takes any."""
        return structure

    def answer(self, folder: Path, structure: Structure, ended: Ended) -> Calculation:
        """``outcome`` in the cell of the structure that was asked for."""
        box = self.boxed(structure)
        return unboxed(self.outcome(folder, box, ended), structure, box)

    @abstractmethod
    def inputs(self, folder: Path, structure: Structure) -> None:
        """Write the program's own input files; safe to repeat. Raises InputError for a file that it lacks."""

    def program(self, folder: Path) -> list[str]:
        """The command that calculates ``folder``, run in it."""
        return list(self.settings.command)

    @abstractmethod
    def outcome(self, folder: Path, structure: Structure, ended: Ended) -> Calculation:
        """Judge the outputs in ``folder``: energy, forces and positions in the order and images of ``structure``.

        Whatever it raises becomes the reason of a failed calculation.
        """


STEP = 5.0
"""Å: boxes around what is not periodic are whole multiples of it long."""


class PeriodicEngine(ProgramEngine):
    """A program that repeats everything in three directions.

    Directions that are not periodic get a vacuum, and skewed cells their shortest lattice vectors, so that the label
    depends neither on what a file says of an open direction nor on which cell describes the lattice.
    """

    Settings: ClassVar[type[PeriodicSettings]]  # type: ignore[assignment]

    def identity(self) -> dict[str, Any]:
        """With the rule of the k-points, which was ceil(length / |a|) before 0.3."""
        return super().identity() | ({} if self.settings.kpoints else {"kpoint_rule": "reciprocal"})

    def boxed(self, structure: Structure) -> Structure:
        return boxed(structure, self.settings.vacuum, STEP, reduce=self.settings.kpoints is None)

    def kpoints(self, box: Structure) -> tuple[int, int, int]:
        """The grid of k-points. Raises InputError where the given one has several along an open direction."""
        given: tuple[int, int, int] | None = self.settings.kpoints
        if given is None:
            return kpoint_grid(box, self.settings.kpoint_length)
        for axis in np.flatnonzero(~box.pbc):
            if given[axis] > 1:
                raise InputError(
                    f"{given[axis]} points along {'abc'[axis]}, which is not periodic: give 1", None, "kpoints"
                )
        return given

    def remark(self, structure: Structure) -> str | None:
        return little_vacuum(structure)


def tail(path: Path, size: int = 1 << 16) -> str:
    """The end of a text file, or nothing where there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def last_words(*paths: Path) -> str:
    """The last printed line of the first of these files that has one: what a program said before it died."""
    for path in paths:
        lines = [" ".join(line.split()) for line in tail(path).splitlines()]
        lines = [line for line in lines if any(c.isalpha() for c in line)]
        if lines:
            return f": {lines[-1][:300]}"
    return ""
