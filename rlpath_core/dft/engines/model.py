"""Engine ``model``: any bundle as the teacher."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rlpath_core.config import Section
from rlpath_core.dft.engines.base import Calculation, PythonEngine
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.structure import Structure


class ModelSettings(Section):
    manifest: Path
    """The manifest.json of the model that makes the labels."""
    device: str = "cpu"
    """cuda, cuda:N, cpu, or auto, which takes a GPU if there is one."""
    dtype: str | None = None
    """float32 or float64; null takes the bundle's own."""
    head: str | None = None
    """The head of a model with several; null takes the manifest's."""


class ModelEngine(PythonEngine):
    """One forward pass for many structures; loaded once per worker."""

    name: ClassVar[str] = "model"
    Settings: ClassVar[type[Section]] = ModelSettings
    batch: ClassVar[int] = 32

    def require(self) -> None:
        if not self.settings.manifest.is_file():
            raise InputError("no such file", self.settings.manifest)

    def resolved(self) -> dict[str, Any]:
        return super().resolved() | {"manifest": str(self.settings.manifest.resolve())}

    def identity(self) -> dict[str, Any]:
        """The manifest's digest in place of its path; the device does not count."""
        out = super().identity()
        del out["device"]
        return out | {"manifest": sha256_of(self.settings.manifest)}

    @cached_property
    def _model(self) -> Any:
        from rlpath_core.backends import load_model

        s = self.settings
        return load_model(s.manifest, device=s.device, head=s.head, dtype=s.dtype)

    def remark(self, structure: Structure) -> str | None:
        return "has magnetic moments, which models do not see" if structure.magmoms.any() else None

    def calculate(self, structures: Sequence[Structure]) -> list[Calculation]:
        out: list[Calculation | None] = [self._unknown(structure) for structure in structures]
        known = [k for k, refused in enumerate(out) if refused is None]
        began = time.monotonic()
        predictions = self._model.predict([structures[k] for k in known]) if known else []
        seconds = (time.monotonic() - began) / max(1, len(known))
        for k, prediction in zip(known, predictions, strict=True):
            structure = structures[k]
            out[k] = Calculation(
                converged=True,
                energy=prediction.energy,
                forces=prediction.forces,
                numbers=structure.numbers,
                positions=structure.positions,
                cell=structure.cell,
                evidence={"model": self._model.digest},
                versions={"backend": self._model.backend},
                seconds=seconds,
            )
        return [done for done in out if done is not None]

    def _unknown(self, structure: Structure) -> Calculation | None:
        try:
            self._model.check_elements(structure)
        except InputError as error:
            return Calculation(False, error.what)
        return None
