"""ASE's nudged elastic bands in lockstep: several bands, one batch per step, and the same bands as ASE's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import FIRE

from rlpath_core.lockstep.ase import attach, evaluate_together
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel

STEPS = 4
IMAGES = 5
ADATOMS = ("Au", "Ag", "Pt")


class LockstepNEB(NEB):
    def get_forces(self):
        evaluate_together(self.images)
        return super().get_forces()


def band(adatom: str) -> list[Structure]:
    """A hop of an adatom on Al(100) from one hollow site to the next, interpolated."""
    first = fcc100("Al", (2, 2, 3), vacuum=6.0)
    add_adsorbate(first, adatom, 1.7, "hollow")
    first.set_constraint(FixAtoms(mask=first.get_tags() > 1))
    last = first.copy()
    last.positions[-1, 0] += first.cell[0, 0] / 2
    images = [first, *(first.copy() for _ in range(IMAGES)), last]
    NEB(images, method="improvedtangent").interpolate()
    return [Structure.from_ase(image) for image in images]


def relax(kind: type[NEB], images: list[Atoms], method: str, climb: bool) -> np.ndarray:
    """Positions of the band's images after ``STEPS`` steps."""
    neb = kind(images, k=0.5, climb=climb, method=method)
    FIRE(neb, logfile=None).run(fmax=0.0, steps=STEPS)
    return np.array([image.positions for image in images])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "climb"), [("improvedtangent", True), ("aseneb", False), ("eb", False)])
def test_bands_in_lockstep_are_those_of_ase_alone(method: str, climb: bool):
    bands, found, model = [band(adatom) for adatom in ADATOMS], {}, EMTModel()

    def script(k: int) -> Callable[[Evaluator], None]:
        def walk(evaluate: Evaluator) -> None:
            images = [attach(image, ~image.fixed, evaluate) for image in bands[k]]
            found[k] = relax(LockstepNEB, images, method, climb)

        return walk

    Hub(model).run([script(k) for k in range(len(bands))])
    # all images at first, later all but the ends, of all bands at once
    assert model.batches == [len(bands) * (IMAGES + 2)] + [len(bands) * IMAGES] * STEPS

    for k, start in enumerate(bands):
        alone = EMTModel()
        evaluate = Evaluator(lambda request, alone=alone: alone.predict(request.structures))
        one_by_one = relax(NEB, [attach(image, ~image.fixed, evaluate) for image in start], method, climb)
        assert set(alone.batches) == {1}
        np.testing.assert_array_equal(found[k], one_by_one)

        images = [image.to_ase() for image in start]
        for image in images:
            image.calc = EMT()
        np.testing.assert_allclose(found[k], relax(NEB, images, method, climb), atol=1e-6)
        moved = np.linalg.norm(found[k] - [image.positions for image in start], axis=-1)
        assert moved[1:-1].max() > 0.02
        assert moved[[0, -1]].max() == 0
