"""model.json: what rebuilds a MACE network without a pickle. Loads neither torch nor mace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from rlpath_core.config import Section, check, read_mapping
from rlpath_core.errors import InputError, nearest
from rlpath_core.files import write_json

DEFAULT_HEAD = "omat_pbe"
"""The head of a model that has it and names none of its own."""

InteractionName = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
]


class Interaction(Section):
    """One message-passing layer; MACE knows a first layer and one kind of all others."""

    type: InteractionName = "RealAgnosticResidualInteractionBlock"
    radial_mlp: list[int] = [64, 64, 64]


class Product(Section):
    """The product basis of one layer: messages of body order ``correlation`` + 1."""

    correlation: int = Field(3, ge=1)


class Readout(Section):
    type: Literal["LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"] = "LinearReadoutBlock"
    mlp_irreps: str | None = None
    gate: Literal["silu", "tanh", "abs", "None"] | None = None


class ScaleShift(Section):
    """Interaction energies are scale * (network) + shift, eV per atom; one value, or one per head."""

    scale: float | list[float]
    shift: float | list[float]


class Architecture(Section):
    """A MACE (doi:10.48550/arXiv.2206.07697). Null e0_values, avg_num_neighbors and scale_shift come from the data.

    z_table        atomic numbers, ascending
    e0_values      energies of free atoms, eV: one per element, or one such list per head
    cutoff         Å
    """

    schema_version: Literal[1] = 1
    model_type: Literal["MACE", "ScaleShiftMACE"] = "ScaleShiftMACE"
    z_table: list[int]
    e0_values: list[float] | list[list[float]] | None = None
    cutoff: float = Field(5.0, gt=0)
    num_interactions: int = Field(2, ge=1)
    num_radial_basis: int = Field(8, ge=1)
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    num_polynomial_cutoff: int = Field(5, ge=1)
    interactions: list[Interaction] = []
    products: list[Product] = []
    readouts: list[Readout] = []
    avg_num_neighbors: float | None = Field(None, gt=0)
    scale_shift: ScaleShift | None = None
    hidden_irreps: str = "32x0e"
    max_ell: int = Field(3, ge=0)
    heads: list[str] = ["Default"]
    pair_repulsion: bool = False
    apply_cutoff: bool = True
    edge_irreps: str | None = None
    use_edge_irreps_first: bool = False
    use_reduced_cg: bool = True
    use_so3: bool = False
    use_agnostic_product: bool = False
    use_last_readout_only: bool = False
    keep_last_layer_irreps: bool = False

    @field_validator("z_table")
    @classmethod
    def _elements(cls, value: list[int]) -> list[int]:
        if not value or value != sorted(set(value)) or value[0] < 1 or value[-1] > 118:
            raise ValueError("expected different atomic numbers from 1 to 118 in ascending order")
        return value

    @model_validator(mode="after")
    def _layers(self) -> Self:
        n = self.num_interactions
        fill: dict[str, list[Any]] = {
            "interactions": [Interaction(type="RealAgnosticInteractionBlock"), *[Interaction()] * (n - 1)],
            "products": [Product()] * n,
            "readouts": [Readout()] * (n - 1)
            + [Readout(type="NonLinearReadoutBlock", mlp_irreps="16x0e", gate="silu")],
        }
        if self.use_last_readout_only:
            fill["readouts"] = fill["readouts"][-1:]
        if n == 1:
            fill["readouts"] = [Readout()]
        for name, default in fill.items():
            if not getattr(self, name):
                object.__setattr__(self, name, default)
            elif len(getattr(self, name)) != len(default):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries, expected {len(default)}")
        if len({layer.type for layer in self.interactions[1:]}) > 1:
            raise ValueError("interactions after the first must be of one type")
        if len({tuple(layer.radial_mlp) for layer in self.interactions}) > 1:
            raise ValueError("radial_mlp must be the same in all interactions")
        if any(r.type != "LinearReadoutBlock" for r in self.readouts[:-1]):
            raise ValueError("readouts before the last must be LinearReadoutBlock")
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ValueError("heads need at least one name, each once")
        if self.e0_values is not None:
            self.e0_table  # noqa: B018 - its shape is checked
        return self

    @property
    def e0_table(self) -> NDArray[np.float64]:
        """[n_heads, n_elements], eV."""
        if self.e0_values is None:
            raise ValueError("e0_values are not known yet")
        table = np.atleast_2d(np.array(self.e0_values, dtype=float))
        if table.shape == (1, len(self.z_table)):
            return np.repeat(table, len(self.heads), axis=0)
        if table.shape != (len(self.heads), len(self.z_table)):
            raise ValueError(
                f"e0_values have shape {table.shape}: expected one value per element of z_table (and head)"
            )
        return table

    def head_index(self, head: str) -> int:
        """Where ``head`` is. Raises InputError naming the heads there are."""
        if head in self.heads:
            return self.heads.index(head)
        raise InputError(f"the model has no head {head!r}.{nearest(head, self.heads)} It has: {', '.join(self.heads)}")


@dataclass(frozen=True)
class ChosenHead:
    """A head, and why it is the one."""

    name: str
    why: str


def choose_head(architecture: Architecture, given: str | None, own: str | None, key: str = "head") -> ChosenHead:
    """The head that answers or is trained: the one that was asked for, else the model's own, else a default.

    A model with one head takes `DEFAULT_HEAD` for its name too: files of run.yaml hold that default written out.

    Parameters
    ----------
    architecture
        Names the heads there are.
    given
        What the user asked for.
    own
        What the manifest or the checkpoint names.
    key
        The setting that chooses a head, for errors.

    Raises
    ------
    InputError
        The model lacks ``given`` or ``own``, or has several heads none of which is named or a default.
    """
    heads = architecture.heads
    for named, why in ((given, "as asked for"), (own, "the model's own")):
        if named is None or (len(heads) == 1 and named == DEFAULT_HEAD):
            continue
        try:
            return ChosenHead(heads[architecture.head_index(named)], why)
        except InputError as error:
            raise InputError(error.what, key=key) from error
    if len(heads) == 1:
        return ChosenHead(heads[0], "the only one")
    for default in (DEFAULT_HEAD, *(head for head in heads if head.lower() == "default")):
        if default in heads:
            return ChosenHead(default, "the default: the model names none of its own")
    raise InputError(f"the model names no head of its own: choose one of {', '.join(heads)}", key=key)


def read_architecture(path: str | Path) -> Architecture:
    """model.json, checked; InputError names the file and the key."""
    return check(Architecture, read_mapping(path), path)


def write_architecture(path: str | Path, architecture: Architecture) -> None:
    write_json(path, architecture.model_dump(mode="json"))
