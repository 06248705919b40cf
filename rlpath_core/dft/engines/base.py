"""What every engine is: it writes inputs, names the command, reads the answer and judges whether it converged.

Engines know chemistry and nothing of machines. A job is a folder:

``request.json``  what was asked: job id, engine, resolved settings, the structure with all digits
``result.json``   the answer, written last and whole; where it is missing the job has not ended
``output.log``    whatever the program printed

Only single points: the label belongs to the structure that was queued.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rlpath_core.config import Section, check
from rlpath_core.dft.identity import to_json
from rlpath_core.errors import InputError
from rlpath_core.files import write_json
from rlpath_core.registry import Registry
from rlpath_core.structure import Structure

REQUEST, RESULT, OUTPUT = "request.json", "result.json", "output.log"
SCHEMA_VERSION = 1
FailureKind = Literal["scf", "memory", "disk", "transient"]


@dataclass(frozen=True)
class Calculation:
    """One single point.

    converged  by the program's own evidence; everything else is a failure, whatever the energy
    reason     why it is no label, for people
    failure    ``scf``: the electronic steps ran out, the engine's ``safer()`` settings may help; ``memory``, ``disk``,
               ``transient``: the machine's fault, the same again may succeed; None: neither
    energy     total energy, eV
    forces     [n_atoms, 3], eV/Å, no constraint applied
    positions  [n_atoms, 3], Å, of the structure that the program says it calculated; so numbers and cell
    evidence   what the program said of its convergence
    versions   of the program
    """

    converged: bool
    reason: str | None = None
    failure: FailureKind | None = None
    energy: float | None = None
    forces: NDArray[np.float64] | None = None
    numbers: NDArray[np.int64] | None = None
    positions: NDArray[np.float64] | None = None
    cell: NDArray[np.float64] | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def to_json(self, job_id: str, engine: str) -> dict[str, Any]:
        out: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "job_id": job_id, "engine": engine}
        for name, value in vars(self).items():
            out[name] = value.tolist() if isinstance(value, np.ndarray) else value
        return out


def write_result(folder: Path, job_id: str, engine: str, calculation: Calculation) -> None:
    """``result.json``, whole or not at all."""
    try:
        write_json(folder / RESULT, calculation.to_json(job_id, engine))
    except ValueError:  # a number that is not finite: no label, and JSON has no word for it
        reason = calculation.reason or "energy or forces are not finite numbers"
        failed = Calculation(False, reason, calculation.failure, versions=calculation.versions)
        write_json(folder / RESULT, failed.to_json(job_id, engine))


def read_result(folder: Path, job_id: str) -> Calculation:
    """``result.json`` of a job. Raises InputError, naming the file, where it is not an answer to this job."""
    path = folder / RESULT
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", path) from error
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"is no result of schema {SCHEMA_VERSION}", path)
    if value.get("job_id") != job_id:
        raise InputError(f"answers job {value.get('job_id')}", path, "job_id")
    arrays: dict[str, Any] = {"forces": np.float64, "positions": np.float64, "cell": np.float64, "numbers": np.int64}
    try:
        return Calculation(
            converged=value["converged"] is True,
            reason=value.get("reason"),
            failure=value.get("failure") if value.get("failure") in get_args(FailureKind) else None,
            energy=None if value.get("energy") is None else float(value["energy"]),
            **{name: _array(value.get(name), kind) for name, kind in arrays.items()},
            evidence=dict(value.get("evidence") or {}),
            versions=dict(value.get("versions") or {}),
            seconds=value.get("seconds"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"is not a result ({type(error).__name__}: {error})", path) from error


def _array(value: Any, kind: Any) -> Any:
    return None if value is None else np.array(value, kind)


ENGINES: Registry[type[Engine]] = Registry("engine", "rlpath.engines")
"""Engines by name; ``rlpath_core.dft.engines`` registers those that come with rlpath."""


class Engine(ABC):
    """One method of calculation with its settings, checked and completed.

    name      as in the config
    Settings  its keys with defaults
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Section]]

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        """Raises InputError for a key or value that the engine does not have."""
        self.settings: Any = check(self.Settings, settings or {}, f"settings of engine {self.name}")

    @property
    def key(self) -> str:
        """What a config calls it: its name, or ``module:Class`` for one that is not registered."""
        known = self.name in ENGINES and ENGINES[self.name] is type(self)
        return self.name if known else f"{type(self).__module__}:{type(self).__qualname__}"

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as JSON."""
        return dict(self.settings.model_dump(mode="json"))

    def identity(self) -> dict[str, Any]:
        """The settings that make two calculations the same; digests in place of files."""
        return self.resolved()

    def safer(self) -> dict[str, Any] | None:
        """Settings for the second try where the electronic steps ran out: slower, surer, the same physics. Or None."""
        return None

    def require(self) -> None:  # noqa: B027 - most have nothing to require
        """Raises InputError, with what to install, where the program is not there."""

    def refuse(self, structure: Structure) -> str | None:
        """Why this structure is beyond the method, or None; asked before anything is launched."""
        return None

    def remark(self, structure: Structure) -> str | None:
        """What to say of a structure that is calculated all the same, or None; said once a call."""
        return None

    def write_inputs(self, folder: Path, job_id: str, structure: Structure) -> None:
        """Everything that the command needs, into ``folder``; safe to repeat."""
        request = {"schema_version": SCHEMA_VERSION, "job_id": job_id, "engine": self.key}
        write_json(folder / REQUEST, request | {"settings": self.resolved(), "structure": to_json(structure)})

    @abstractmethod
    def command(self, folder: Path) -> list[str]:
        """The command that calculates one folder and ends."""

    def worker(self) -> list[str] | None:
        """A command that calculates folder after folder, as ``python_worker.py`` does; None if there is none."""
        return None

    batch: ClassVar[int] = 1
    """How many folders a worker is best given at once."""

    def parse(self, folder: Path, job_id: str) -> Calculation:
        """The answer in ``folder``. Raises InputError where there is none."""
        return read_result(folder, job_id)


class PythonEngine(Engine):
    """An engine that is a Python function, run by ``python_worker.py`` in processes of its own."""

    def command(self, folder: Path) -> list[str]:
        return [*self.worker(), str(folder)]

    def worker(self) -> list[str]:
        return [sys.executable, "-m", "rlpath_core.dft.engines.python_worker"]

    @abstractmethod
    def calculate(self, structures: Sequence[Structure]) -> list[Calculation]:
        """Single points. What goes wrong with one structure is its own ``reason``, never an exception."""
