"""ASE calculators with one fault each, for test_ase_backend.py."""

from ase.calculators.calculator import CalculationFailed, Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones


class EnergyAlone(Calculator):
    implemented_properties = ["energy"]


class Raising(EMT):
    def calculate(self, *args, **kwargs):
        1 / 0


class NoForcesAfterAll(EMT):
    def get_forces(self, atoms=None):
        raise PropertyNotImplementedError("no forces today")


class Unconverged(EMT):
    def calculate(self, atoms=None, *args, **kwargs):
        if atoms.get_distance(0, 1) > 5:
            raise CalculationFailed("after 250 iterations")
        super().calculate(atoms, *args, **kwargs)


class Remembering(LennardJones):
    """Its energies carry a trace of the calculation before, until it is reset."""

    offset = 0.0

    def reset(self):
        super().reset()
        self.offset = 0.0

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["energy"] += self.offset
        self.offset += 1e-3
