"""Any ASE calculator as a ``Model``: EMT, tblite, or somebody else's potential, by import path and keywords."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import CalculationFailed

from rlpath_core.backends.base import Model, Prediction
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of
from rlpath_core.registry import import_name
from rlpath_core.structure import Structure

HOW = "write ase:package.module.Class or ase:package.module.Class(key=literal, ...)"
log = logging.getLogger("rlpath.backends")


@dataclass(frozen=True)
class CalculatorReference:
    """``ase:package.module.Class(key=literal, ...)``, taken apart."""

    module: str
    name: str
    keywords: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, reference: str) -> CalculatorReference:
        """Raises InputError for anything but an import path with literal keywords."""
        text = reference.removeprefix("ase:").strip()
        try:
            node = ast.parse(text, mode="eval").body
            keywords: dict[str, Any] = {}
            if isinstance(node, ast.Call):
                if node.args or any(keyword.arg is None for keyword in node.keywords):
                    raise InputError(f"takes keywords alone: {HOW}", reference)
                keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
                node = node.func
        except (SyntaxError, ValueError) as error:
            raise InputError(f"not a calculator with literal keywords: {HOW}", reference) from error
        module, _, name = ast.unparse(node).rpartition(".")
        if not module or not all(part.isidentifier() for part in (*module.split("."), name)):
            raise InputError(f"not an import path: {HOW}", reference)
        return cls(module, name, keywords)

    def __str__(self) -> str:
        keywords = ", ".join(f"{key}={value!r}" for key, value in sorted(self.keywords.items()))
        return f"ase:{self.module}.{self.name}" + (f"({keywords})" if keywords else "")

    @property
    def digest(self) -> str:
        """sha256 over everything that decides the answers and can be seen from outside.

        That is the import path and the keywords, the version of the distribution (of a module that belongs to none,
        its source), and the contents of files that keywords name.
        """
        top = self.module.partition(".")[0]
        distributions = sorted({"ase", *metadata.packages_distributions().get(top, ())})
        known: dict[str, Any] = {"reference": str(self), "versions": {d: metadata.version(d) for d in distributions}}
        source = importlib.import_module(self.module).__file__
        if top not in metadata.packages_distributions() and source is not None:
            known["source"] = sha256_of(source)
        known["files"] = {key: sha256_of(value) for key, value in sorted(self.keywords.items()) if _is_file(value)}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 4096 and "\0" not in value and Path(value).is_file()


class AseModel(Model):
    """One calculator, asked for one structure after the other: that is how ASE's calculators work.

    Whoever names a calculator trusts its code, as with a plug-in. A manifest.json can never name one. The calculator
    is reset before each structure, so that no answer depends on what was asked before.

    Every element is allowed: ASE's calculators do not say which they know. What the calculator raises becomes an
    InputError that names the structure. A calculation that did not converge (`ase.calculators.calculator.
    CalculationFailed`) has no energy: it is logged and its numbers are NaN, which costs a walker its attempt and no
    more.
    """

    backend = "ase"
    has_embeddings = False

    def __init__(self, calculator: Any, reference: CalculatorReference, digest: str, device: str = "cpu") -> None:
        self.calculator = calculator
        self.reference = str(reference)
        self.digest = digest
        self.device = "cpu" if device == "auto" else device
        self.elements = frozenset(range(1, 119))
        self.implementation = f"{reference.module}.{reference.name}, one structure at a time"

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
    ) -> AseModel:
        """The calculator that ``reference`` names; ``device`` only decides how many walkers are worth having.

        Raises
        ------
        InputError
            The calculator cannot be imported or made, has no forces, or is given what only bundles have.
        """
        for key, value in (("weights", weights), ("head", head), ("amp", amp), ("dtype", dtype)):
            if value:
                raise InputError("an ASE calculator has none: give it as the calculator's own keyword", reference, key)
        parsed = CalculatorReference.parse(reference)
        try:
            make: Any = import_name(f"{parsed.module}:{parsed.name}", "ASE calculator")
        except InputError as error:
            raise InputError(error.what, reference) from error
        try:
            calculator = make(**parsed.keywords)
        except Exception as error:  # a calculator raises what it will
            raise InputError(f"{type(error).__name__}: {error}", reference) from error
        if not hasattr(calculator, "get_property"):
            raise InputError(f"makes a {type(calculator).__name__}, which is no ASE calculator", reference)
        missing = {"energy", "forces"} - set(getattr(calculator, "implemented_properties", ("energy", "forces")))
        if missing:
            raise InputError(f"the calculator implements no {' and no '.join(sorted(missing))}", reference)
        return cls(calculator, parsed, parsed.digest, device)

    def predict(
        self, structures: Sequence[Structure], *, forces: bool = True, embeddings: bool = False
    ) -> list[Prediction]:
        if embeddings:
            raise InputError("an ASE calculator has no embeddings", self.reference)
        return [self._single_point(k, structure, forces) for k, structure in enumerate(structures)]

    def _single_point(self, index: int, structure: Structure, forces: bool) -> Prediction:
        atoms = structure.to_ase()
        atoms.set_constraint()
        atoms.calc = self.calculator
        which = f"structure {index}, {structure.formula} ({structure.id[:12]})"
        try:
            if hasattr(self.calculator, "reset"):
                self.calculator.reset()
            found = np.array(atoms.get_forces(), dtype=float) if forces else None
            return Prediction(float(atoms.get_potential_energy()), found)
        except CalculationFailed as error:
            log.warning("%s: %s did not converge: %s", self.reference, which, error)
            return Prediction(float("nan"), np.full((len(structure), 3), np.nan) if forces else None)
        except Exception as error:  # a calculator raises what it will
            raise InputError(f"{which}: {type(error).__name__}: {error}", self.reference) from error
