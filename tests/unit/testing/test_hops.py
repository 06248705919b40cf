"""The hops on EMT metals are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.mep import NEB
from ase.optimize import BFGS

from rlpath_core.testing.hops import Ends, copper_on_copper, gold_on_aluminium


@pytest.mark.parametrize(
    ("ends", "n_free", "forward", "back"),
    [(gold_on_aluminium(), 5, 0.3745, 0.3745), (copper_on_copper(), 33, 0.04955, 0.05060)],
    ids=["gold", "copper"],
)
def test_barriers_of_ase(ends: Ends, n_free: int, forward: float, back: float) -> None:
    images = [ends[0].to_ase() for _ in range(4)] + [ends[1].to_ase()]
    for image in images:
        image.calc = EMT()
    band = NEB(images, climb=True, method="improvedtangent")
    band.interpolate(mic=True)
    assert BFGS(band, logfile=None).run(fmax=0.01, steps=100)
    energies = np.array([image.get_potential_energy() for image in images])
    for end, image in zip(ends, (images[0], images[-1]), strict=True):
        assert (~end.fixed).sum() == n_free
        assert (end.tags == 2).sum() == 1
        assert np.linalg.norm(image.get_forces(), axis=1).max() < 0.001
    assert energies.max() - energies[0] == pytest.approx(forward, abs=1e-3)
    assert energies.max() - energies[-1] == pytest.approx(back, abs=1e-3)
