"""``soft_modes``: from a minimum along one of its lowest modes, up or down it, or along a random mixture of them.

The modes are those of the adsorbate and the movable atoms around it, by Rayleigh and Ritz in the softest modes of a
model force field: one list of structures, evaluated once for each minimum. A mixture has the share of each mode that
thermal motion would have: it goes far without a high energy, which a random displacement of as many atoms does not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.neighbours import pairs_within
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hessian import model_hessian
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.paths.options import SoftModeOptions
from rlpath_core.paths.proposals.base import PROPOSALS, Landscape, Proposal, crowded, unit
from rlpath_core.paths.proposals.learning import Yields
from rlpath_core.paths.searches.base import Guess
from rlpath_core.structure import Structure

MIXTURE = "mixed"
SOFTEST = 0.2
"""eV/Å²: softer modes, and those with negative curvature, have the share in a mixture that this curvature gives."""
STEP = 0.01
"""Å: displacement (norm over all atoms) for a curvature by finite differences."""


@PROPOSALS.register("soft_modes")
class SoftModes(Proposal):
    """See the module's text."""

    Options = SoftModeOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.ways = Yields()
        self.modes: dict[str, Floats] = {}
        """[n_modes, n_atoms, 3] of each minimum that has been begun from: each over the root of its curvature."""
        self.tried: dict[str, list[str]] = {}
        """Of each minimum, the modes, signs and amplitudes that were taken."""
        self.awaited: set[str] = set()
        """Minima whose modes a search that is under way computes."""

    def applies(self, landscape: Landscape) -> bool:
        movable = landscape.roles.movable.any()
        return bool(movable) and any(self._left(minimum.name) for minimum in landscape.minima)

    def propose(self, landscape: Landscape, rng: np.random.Generator) -> Guess | None:
        minimum = landscape.choose(rng, lambda one: bool(self._left(one.name)))
        if minimum is None:
            return None
        left = self._left(minimum.name)
        way = self.ways.draw(dict.fromkeys(_way(one) for one in left), rng)
        choice = str(rng.choice([one for one in left if _way(one) == way]))
        if not choice.startswith(MIXTURE):
            self.tried.setdefault(minimum.name, []).append(choice)
        mode, sign, size = choice.split()
        guess = Guess(
            minimum.structure,
            start=minimum.name,
            proposal=self.name,
            parameters={"mode": mode, "sign": int(sign), "amplitude": float(size)},
            learnt={"soft": soft_atoms(minimum.structure, landscape.roles, float(self.options.radius))},
        )
        if minimum.name in self.modes:
            return self._along(guess, self.modes[minimum.name], rng)
        self.awaited.add(minimum.name)
        return guess

    def _left(self, minimum: str) -> list[str]:
        """``mode sign amplitude`` of what has not been tried there; nothing while its modes are awaited.

        Mixtures are new each time.
        """
        if minimum in self.awaited:
            return []
        known = minimum in self.modes
        count = min(self.options.modes, len(self.modes[minimum])) if known else self.options.modes
        mixed = [f"{MIXTURE} 1 {size:g}" for size in self.options.mixtures if known and len(self.modes[minimum]) > 1]
        tried = set(self.tried.get(minimum, ()))
        every = (f"{k} {s} {a:g}" for k in range(count) for s in (1, -1) for a in self.options.amplitudes)
        return [one for one in every if one not in tried] + mixed

    def refine(self, guess: Guess, evaluate: Evaluator, rng: np.random.Generator) -> Guess:
        if guess.mode is not None:
            return guess
        curvatures, modes = soft_modes(guess.structure, guess.learnt["soft"], evaluate, self.options.vectors)
        modes = modes / np.sqrt(np.maximum(curvatures, SOFTEST))[:, None, None]
        return replace(self._along(guess, modes, rng), learnt={"modes": modes})

    def _along(self, guess: Guess, modes: Floats, rng: np.random.Generator) -> Guess:
        """The guess displaced along its mode, less far where atoms would be pressed together."""
        parameters = guess.parameters
        if parameters["mode"] == MIXTURE:
            mode = np.tensordot(rng.normal(size=len(modes)), modes, axes=1)
        else:
            mode = parameters["sign"] * modes[int(parameters["mode"]) % len(modes)]
        moved = parameters["amplitude"] * mode / np.linalg.norm(mode, axis=1).max()
        structure = guess.structure.moved(guess.structure.positions + moved)
        while crowded(structure, guess.structure):
            moved = moved / 2
            structure = guess.structure.moved(guess.structure.positions + moved)
        return replace(guess, structure=structure, mode=unit(mode), learnt={})

    def observe(self, guess: Guess, saddle: str | None, value: float, calls: int) -> None:
        parameters = guess.parameters
        self.ways.observe(f"{parameters['mode']} {parameters['amplitude']:g}", value, calls)
        assert guess.start is not None
        if guess.start not in self.modes:
            self.awaited.discard(guess.start)
            if "modes" in guess.learnt:
                self.modes[guess.start] = guess.learnt["modes"]

    def state(self) -> dict[str, Any]:
        tried = {name: list(choices) for name, choices in self.tried.items()}
        return {"ways": self.ways.state(), "modes": dict(self.modes), "tried": tried, "awaited": sorted(self.awaited)}

    def load(self, state: dict[str, Any]) -> None:
        self.ways.load(state["ways"])
        self.modes = {name: np.asarray(modes, np.float64) for name, modes in state["modes"].items()}
        self.tried = {name: list(choices) for name, choices in state["tried"].items()}
        self.awaited = set(state["awaited"])


def _way(choice: str) -> str:
    """Mode and amplitude: both signs are one way."""
    mode, _, amplitude = choice.split()
    return f"{mode} {amplitude}"


def soft_atoms(structure: Structure, roles: Roles, radius: float) -> Mask:
    """The active atoms, and the movable ones within ``radius`` Å of one: shape (n_atoms,)."""
    i, j, *_ = pairs_within(structure, radius)
    near = roles.active.copy()
    near[j[roles.active[i]]] = True
    return near & roles.movable


def soft_modes(structure: Structure, atoms: Mask, evaluate: Evaluator, vectors: int) -> tuple[Floats, Floats]:
    """Lowest modes of some atoms, all others held, by Rayleigh and Ritz in the softest modes of a model force field.

    Parameters
    ----------
    structure : Structure
        A minimum.
    atoms : ndarray of bool, shape (n_atoms,)
    evaluate : Evaluator
    vectors : int
        Dimension of the space in which modes are looked for; ``vectors`` + 1 structures are evaluated, in one list.

    Returns
    -------
    curvatures : ndarray, shape (n_modes,)
        eV/Å², ascending.
    modes : ndarray, shape (n_modes, n_atoms, 3)
        Of norm 1. Exact, up to finite differences, if ``vectors`` is 3 n_atoms or more.
    """
    basis = np.linalg.eigh(model_hessian(structure, atoms))[1][:, :vectors].T
    directions = np.zeros((len(basis), *structure.positions.shape))
    directions[:, atoms] = basis.reshape(len(basis), -1, 3)
    at, *around = evaluate([structure, *(structure.moved(structure.positions + STEP * d) for d in directions)])
    forces = np.array([one.forces[atoms].ravel() for one in around if one.forces is not None])
    assert at.forces is not None
    projected = -(forces - at.forces[atoms].ravel()) @ basis.T / STEP
    curvatures, mixing = np.linalg.eigh((projected + projected.T) / 2)
    return curvatures, np.tensordot(mixing.T, directions, axes=1)
