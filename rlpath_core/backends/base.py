"""What every backend is: a model that takes a list of structures and answers in one forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

if TYPE_CHECKING:
    from rlpath_core.backends.manifest import Manifest


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one structure. What was not requested, or the model does not have, is None.

    Attributes
    ----------
    energy
        Total energy, eV.
    forces
        [n_atoms, 3], eV/Å.
    node_embedding
        [n_atoms, n_features], invariant features of each atom.
    graph_embedding
        [n_features], the pooled features.
    force_spread
        [n_atoms], eV/Å, standard deviation of the forces over a committee.
    """

    energy: float
    forces: NDArray[np.float64] | None = None
    node_embedding: NDArray[np.float64] | None = None
    graph_embedding: NDArray[np.float64] | None = None
    force_spread: NDArray[np.float64] | None = None

    def largest_force(self, atoms: NDArray[np.bool_]) -> float:
        """The largest force on one of ``atoms`` ([n_atoms] bool), eV/Å; 0 if there is none."""
        assert self.forces is not None
        return float(np.linalg.norm(self.forces[atoms], axis=1).max(initial=0.0))


class Model(ABC):
    """A loaded potential. Energies are total eV, forces eV/Å; the input is never changed.

    ``predict`` takes a list and is one forward pass (split only where memory asks for it).

    Attributes
    ----------
    backend
        Name of the backend, as in manifests.
    digest
        sha256 that names the model everywhere in the database: of its manifest, if it has one.
    elements
        Atomic numbers that the model knows.
    device
        cpu, cuda or cuda:N.
    reference
        What it was loaded from: the absolute path of a manifest, or ``ase:...``. Empty for a model made in memory.
    weights_sha256
        Digest of the weights' file; empty if there is none.
    committee
        Digests of the further members of a committee.
    conservative
        Whether forces are minus the gradient of the energy; False for a network that predicts them directly.
    has_embeddings
        Whether ``predict`` can return embeddings.
    head
        Which head of a model with several answers, and why it is that one. Empty for a model that has one.
    implementation
        Which of several implementations of the network runs: "e3nn", "compiled for CPUs".
    """

    backend: str
    digest: str
    elements: frozenset[int]
    device: str
    reference: str = ""
    weights_sha256: str = ""
    committee: tuple[str, ...] = ()
    conservative: bool = True
    has_embeddings: bool = True
    head: str = ""
    implementation: str = ""

    @classmethod
    def load(
        cls,
        path: Path,
        manifest: Manifest,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        head: str | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> Model:
        """The model of the checked ``manifest`` at ``path``; see `rlpath_core.backends.load_model`."""
        raise InputError(f"a {cls.__name__} is not loaded from files", path)

    @classmethod
    def from_reference(
        cls,
        reference: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        head: str | None = None,
        amp: bool = False,
        dtype: str | None = None,
    ) -> Model:
        """The model that ``NAME:...`` names, of a backend whose models are not files."""
        raise InputError(f"a {cls.__name__} is loaded from files", reference)

    @abstractmethod
    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        """Predict many structures in one forward pass.

        Parameters
        ----------
        structures
            Molecules, slabs and bulk cells in any mixture; they are not changed.
        forces
            Whether to return forces.
        embeddings
            Whether to return embeddings.

        Returns
        -------
        list of Prediction
            In the order of ``structures``.

        Raises
        ------
        InputError
            A structure contains an element that the model does not know, or ``embeddings`` are requested of a model
            without ``has_embeddings``.
        """

    def check_elements(self, structure: Structure, where: str | None = None) -> None:
        """Raises InputError naming the elements that the model was not made for."""
        from ase.data import chemical_symbols

        unknown = sorted(set(structure.numbers.tolist()) - self.elements)
        if unknown:
            names = ", ".join(chemical_symbols[z] for z in unknown)
            known = ", ".join(chemical_symbols[z] for z in sorted(self.elements))
            raise InputError(f"the model does not know {names}; it knows {known}", where)
