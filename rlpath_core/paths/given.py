"""The structures that a run begins with: what is refused, and their relaxation with the run's model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlpath_core.backends.base import Model
from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.matching import matched
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hub import Evaluator, Hub, NotFiniteError, Script
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.lockstep.relax import Quenched, Relaxation
from rlpath_core.paths.identity import same_structure
from rlpath_core.sampling.attempt import round_positions
from rlpath_core.sampling.preflight import check_starts, roles_of
from rlpath_core.structure import Structure

log = logging.getLogger("rlpath.paths")
MOVED = 1e-3
"""Å: held atoms of two given structures that lie further apart are another substrate."""


class NoMinimumError(InputError):
    """None of the structures that a run begins with relaxes to a minimum."""


@dataclass(frozen=True)
class Given:
    """A structure that a run begins with.

    Attributes
    ----------
    structure
        As it was given, with the atoms and the cell of the run's first structure.
    fmax
        Its largest force on a movable atom, eV/Å.
    relaxed
        Where it relaxed to; None if the model failed on the way.
    calls
        Structures that were evaluated.
    """

    structure: Structure
    fmax: float
    relaxed: Quenched | None
    calls: int


def check_given(
    structures: Sequence[Structure], where: Sequence[str | Path] | str | Path = "structure"
) -> list[Structure]:
    """The structures as places on one surface: same atoms in the same order, same cell, same held atoms.

    Parameters
    ----------
    structures
        At least one.
    where
        The file of each, or of all, for error messages.

    Returns
    -------
    list of Structure
        With tags, moments and fixed atoms of the first.

    Raises
    ------
    InputError
        They are no places on one surface, or nothing may move.
    """
    files = [where] * len(structures) if isinstance(where, str | Path) else list(where)
    first, name = structures[0], files[0]
    out = []
    for structure, file in zip(structures, files, strict=True):
        check_starts([structure], file)
        if len(structure) != len(first) or not np.array_equal(np.sort(structure.numbers), np.sort(first.numbers)):
            raise InputError(f"has other atoms ({structure.formula}) than {name} ({first.formula})", file)
        if not np.array_equal(structure.pbc, first.pbc) or not np.allclose(structure.cell, first.cell, atol=1e-3):
            raise InputError(f"has another cell than {name}: both must be in the same one", file)
        if differ := np.flatnonzero(structure.numbers != first.numbers).tolist():
            what = f"atom {differ[0]} is another element than in {name}: sort the atoms of both in the same way"
            raise InputError(what, file)
        if differ := np.flatnonzero(structure.fixed != first.fixed).tolist():
            raise InputError(f"atom {differ[0]} is fixed in only one of this and {name}: fix the same atoms", file)
        off = np.linalg.norm(displacements(structure, first), axis=1) * first.fixed
        if off.max() > MOVED:
            what = f"fixed atom {off.argmax()} is {off.max():.3g} Å away from its place in {name}: put it there"
            raise InputError(what, file)
        positions = np.where(first.fixed[:, None], first.positions, structure.positions)
        out.append(first.moved(positions) if structure is not first else first)
    return out


def relaxation_for(model: Model, options: QuenchOptions) -> QuenchOptions:
    """How structures are relaxed: by FIRE where forces are no gradient, which BFGS's curvatures would need."""
    if model.conservative or options.method != "bfgs":
        return options
    return options.model_copy(update={"method": "fire"})


def relax_given(structures: Sequence[Structure], model: Model, roles: Roles, options: QuenchOptions) -> list[Given]:
    """Relax structures side by side, in the order in which they are given.

    Parameters
    ----------
    structures
        As ``check_given`` returns them.
    model
        The run's.
    roles
        Roles of the atoms.
    options
        How to relax.
    """
    found: dict[int, Given] = {}
    options = relaxation_for(model, options)

    def script(k: int) -> Script:
        def relax(evaluate: Evaluator) -> None:
            structure = structures[k]
            try:
                prediction = evaluate(structure)
            except NotFiniteError:
                found[k] = Given(structure, np.inf, None, evaluate.calls)
                return
            relaxation = Relaxation(structure, roles.movable, prediction, evaluate, options)
            fmax = relaxation.fmax
            end = relaxation.run(options.fmax)
            end = Quenched(round_positions(end.structure), end.energy, end.fmax, end.converged, end.steps)
            found[k] = Given(structure, fmax, end, evaluate.calls)

        return relax

    Hub(model).run([script(k) for k in range(len(structures))])
    return [found[k] for k in range(len(structures))]


def prepared_ends(
    initial: Structure,
    final: Structure,
    model: Model,
    options: QuenchOptions,
    max_force: float | None,
    files: tuple[str | Path, str | Path] = ("initial", "final"),
) -> list[Given]:
    """Two structures as the ends of a path: checked, and relaxed with the model.

    Parameters
    ----------
    initial, final
        As they were read.
    model
        The run's.
    options
        How the ends are relaxed.
    max_force
        An end with a larger force on a movable atom is refused, eV/Å; None relaxes it from wherever it is.
    files
        Their names, for error messages.

    Raises
    ------
    InputError
        What makes them no ends of a path, in one line.
    """
    first, second = check_given([initial, final], files)
    for structure, file in zip((first, second), files, strict=True):
        model.check_elements(structure, str(file))
    roles = roles_of([first], where=files[0])[0]
    if same_structure(first, second, roles.movable, within=1e-3):
        raise InputError(f"is the same structure as {files[0]}: give another end", files[1])
    given = relax_given([first, second], model, roles, options)
    for end, file in zip(given, files, strict=True):
        if end.relaxed is None:
            raise InputError("the model has no finite energy and forces there", file)
        if max_force is not None and end.fmax > max_force:
            what = f"is no minimum: the largest force is {end.fmax:.3g} eV/Å (limit {max_force:g})"
            raise InputError(f"{what}; relax it first, or give max_end_force=null to have it relaxed here", file)
        if not end.relaxed.converged:
            what = f"does not relax to {options.fmax:g} eV/Å in {options.steps} steps ({end.relaxed.fmax:.3g} are left)"
            raise InputError(f"{what}: raise paths.verify.quench.steps", file)
        if end.fmax > options.fmax:
            moved = np.linalg.norm(displacements(end.relaxed.structure, end.structure), axis=1).max()
            log.info("%s: relaxed from %.3g eV/Å; its atoms moved by up to %.2f Å", file, end.fmax, moved)
    ends = [end.relaxed.structure for end in given if end.relaxed is not None]
    if same_structure(ends[0], ends[1], roles.movable):
        raise InputError(f"relaxes into the same minimum as {files[0]}: there is no step between them", files[1])
    return given


def straight(initial: Structure, final: Structure, movable: np.ndarray) -> tuple[Structure, Structure]:
    """The two ends of the shortest motion from ``initial`` to ``final``.

    Like atoms change places where that makes it shorter; not if the two are then the same, as where a molecule turns by
    half: the exchange itself is the step.
    """
    paired = matched(initial, final, movable)
    if same_structure(initial, paired, movable):
        paired = matched(initial, final, movable, exchange=False)
    return initial, paired
