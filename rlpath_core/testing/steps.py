"""Minima and saddles that nobody searched for: for tests of what happens to steps after they are found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from ase.constraints import FixAtoms

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.paths.catalogue import Catalogue
from rlpath_core.paths.catalogue_rows import save_catalogue
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure


def water_on_copper() -> Structure:
    """Cu(100) 3x3, two layers, the upper one rumpled, the lower one fixed: water without any symmetry of its own."""
    atoms = fcc100("Cu", (3, 3, 2), vacuum=8)
    water = molecule("H2O")
    water.rotate(25, "x")
    water.rotate(17, "z")
    add_adsorbate(atoms, water, 2.2, (0.4, 0.9))
    atoms.pbc = True
    atoms.set_constraint(FixAtoms([k for k, tag in enumerate(atoms.get_tags()) if tag == 2]))
    atoms.positions[9:18] += np.random.default_rng(5).normal(0, 0.05, (9, 3))
    return Structure.from_ase(atoms)


def lifted(structure: Structure, height: float) -> Structure:
    """The hydrogen atoms moved up, by ``height`` Å: another structure on the same surface."""
    return structure.moved(structure.positions + [0.0, 0.0, height] * (structure.numbers == 1)[:, None])


def verdict_of(structure: Structure, energy: float, barriers: tuple[float, float] = (0.3, 0.2)) -> Verdict:
    """A connected saddle at ``structure``: the mode moves the last atom up, the ends lie 0.4 Å to both sides."""
    mode = np.zeros((len(structure), 3))
    mode[-1, 2] = 1.0
    below, minus, plus, above = (structure.moved(structure.positions + d * mode) for d in (-0.4, -0.05, 0.05, 0.4))
    ends = (
        Quenched(below, energy - barriers[0], 0.004, True, 5),
        Quenched(above, energy - barriers[1], 0.004, True, 5),
    )
    return Verdict(
        State.CONNECTED,
        structure,
        energy,
        0.005,
        curvatures=(-1.0, 0.5),
        mode=mode,
        sides=(minus, plus),
        ends=ends,
    )


def catalogue_of(structure: Structure, **options: float) -> Catalogue:
    """An empty catalogue of the surface below ``structure``; ``options`` are those of basins."""
    return Catalogue(BasinOptions(**options), infer_roles(structure), structure)  # type: ignore[arg-type]


def begin_run(store: Store, run_id: str, round_index: int | None = None, model: str | None = None) -> None:
    """The row of a paths run, a minute later than the last run before it; ``model`` is a digest."""
    with store.session() as session:
        if model is not None and session.get(orm.ModelRow, model) is None:
            store.register_model(session, "m.json", model, "mace", "d" * 64)
        began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=session.query(orm.RunRow).count())
        row = {"kind": "paths", "folder": run_id, "round": round_index, "model_sha256": model, "started_at": began}
        session.add(orm.RunRow(id=run_id, **row))


def save(store: Store, run_id: str, catalogue: Catalogue) -> dict[str, int]:
    """``save_catalogue`` in a transaction of its own."""
    with store.session() as session:
        return save_catalogue(session, store, run_id, catalogue)


def gold_on_aluminium(hop: int = 0, movable: int = 1) -> Structure:
    """ASE's example of a hop: Au in a hollow of Al(100) 2x2x3, ``hop`` hollows further along x; not relaxed.

    Parameters
    ----------
    hop : int
        1 is the next hollow, 2 an image of the first one.
    movable : int
        1: the gold atom alone moves; 5: the upper layer too.
    """
    atoms = fcc100("Al", size=(2, 2, 3))
    add_adsorbate(atoms, "Au", 1.7, "hollow")
    atoms.center(axis=2, vacuum=4.0)
    atoms.set_constraint(FixAtoms(mask=np.arange(len(atoms)) < len(atoms) - movable))
    atoms.positions[-1, 0] += hop * atoms.cell[0, 0] / 2
    return Structure.from_ase(atoms)


def copper_adatom(site: str) -> Structure:
    """Cu on Cu(111) 2x2x3, in the fcc or the hcp hollow beside it: the adatom and the upper layer move."""
    atoms = fcc111("Cu", size=(2, 2, 3))
    add_adsorbate(atoms, "Cu", 1.9, site)
    atoms.center(axis=2, vacuum=5.0)
    atoms.set_constraint(FixAtoms(range(8)))
    return Structure.from_ase(atoms)
