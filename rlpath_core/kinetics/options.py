"""Options of rates. Temperatures are K."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlpath_core.config import Section


class KineticsOptions(Section):
    """Rates by harmonic transition state theory."""

    temperatures: list[Annotated[float, Field(gt=0)]] = Field([300.0, 500.0, 700.0], min_length=1)
    """Temperatures of k(T), in K."""
    partition_functions: Literal["classical", "quantum"] = "classical"
    """How vibrations are counted: classical gives Vineyard's prefactor, quantum has zero-point energies and the
    harmonic oscillator's partition function."""
