"""Engines: the methods that labels come from."""

from rlpath_core.dft.engines.ase_calculator import AseEngine
from rlpath_core.dft.engines.base import ENGINES, Calculation, Engine, PythonEngine, read_result
from rlpath_core.dft.engines.espresso import EspressoEngine
from rlpath_core.dft.engines.gpaw import GpawEngine
from rlpath_core.dft.engines.model import ModelEngine
from rlpath_core.dft.engines.tblite import TbliteEngine
from rlpath_core.dft.engines.vasp import VaspEngine

for _engine in (TbliteEngine, AseEngine, ModelEngine, GpawEngine, EspressoEngine, VaspEngine):
    ENGINES.register(_engine.name)(_engine)

__all__ = ["ENGINES", "Calculation", "Engine", "PythonEngine", "read_result"]
