"""What a basin index looks at first never decides otherwise than comparing with every known minimum would."""

from __future__ import annotations

import numpy as np

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.basins import HistogramBasins
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure


def shaken(system: Structure, width: float, rng: np.random.Generator) -> Structure:
    """Movable atoms displaced, and those of one element in another order: the same structure, other numbers."""
    movable = infer_roles(system).movable
    positions = system.positions + movable[:, None] * rng.normal(0, width, system.positions.shape)
    for z in np.unique(system.numbers[movable]):
        mine = np.flatnonzero(movable & (system.numbers == z))
        positions[mine] = positions[rng.permutation(mine)]
    return system.moved(positions)


def test_find_is_what_comparing_with_all_of_them_finds(system: Structure, rng: np.random.Generator) -> None:
    index = HistogramBasins(BasinOptions(), system, infer_roles(system))
    known = [shaken(system, width, rng) for width in (0.02, 0.1, 0.3) for _ in range(8)]
    energies = rng.normal(0, 0.05, len(known))
    for number, (structure, energy) in enumerate(zip(known, energies, strict=True)):
        index.add(number, structure, energy)
    compared: list[int] = []
    shift = index.shift
    index.shift = lambda a, b: compared.append(1) or shift(a, b)  # type: ignore[func-returns-value]
    answers = []
    for _ in range(40):
        asked, energy = (
            shaken(known[rng.integers(len(known))], rng.choice([0.002, 0.03, 0.2]), rng),
            rng.normal(0, 0.05),
        )
        atoms = index.fingerprint(asked)
        shifts = [shift(atoms, index.fingerprint(one)) for one in known]
        near = [k for k in range(len(known)) if abs(energies[k] - energy) <= 0.1 and shifts[k] <= 0.15]
        answers.append(min(near, key=lambda k: shifts[k], default=None))
        assert index.find(asked, energy) == answers[-1]
        lower = np.array([np.abs(index._ordered(atoms) - one).sum() for one in index.ordered])
        assert (lower <= len(atoms) * np.array(shifts) * (1 + 1e-4)).all()
    assert None in answers
    assert len(set(answers)) > 3
    assert len(compared) < 40 * len(known), "some were told apart at first sight"
