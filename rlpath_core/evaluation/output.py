"""Predictions on disk, extended XYZ, Parquet or S2EF LMDB, and parity plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.evaluation.metrics import metrics_of
from rlpath_core.evaluation.predicted import Predicted
from rlpath_core.files import atomic_write
from rlpath_core.geometry.adsorbate import numbers_layers
from rlpath_core.structure.xyz import info_text

PARQUET_VERSION = 1


def write_extxyz_predictions(path: Path, predicted: Predicted) -> None:
    """Frames with predicted energy and forces as ASE names them."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    images = []
    for n, structure in enumerate(predicted.structures):
        atoms = structure.to_ase()
        results = {"energy": predicted.energies[n], "forces": predicted.forces_of(n)}
        atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
        atoms.info["sid"] = info_text(predicted.sids[n])
        images.append(atoms)
    with atomic_write(path) as stream:
        write(stream, images, format="extxyz")


def write_parquet_predictions(path: Path, predicted: Predicted) -> None:
    """A row per structure: sid, structure_id, formula, n_atoms, energy, forces (a list of [3] per atom), and the
    reference_energy and reference_forces where they are known. Units eV and eV/Å are in the schema's metadata."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise InputError(
            "parquet needs pyarrow, which is not installed: pip install 'rlpath[parquet]'", key="eval.formats"
        ) from error
    vectors = arrow.list_(arrow.list_(arrow.float64(), 3))

    def per_atom(values: Any) -> Any:
        ends = np.concatenate(([0], np.cumsum(predicted.n_atoms))).astype(np.int32)
        rows = arrow.FixedSizeListArray.from_arrays(np.ascontiguousarray(values).reshape(-1), 3)
        return arrow.ListArray.from_arrays(arrow.array(ends), rows).cast(vectors)

    columns: dict[str, Any] = {
        "sid": list(predicted.sids),
        "structure_id": [s.id for s in predicted.structures],
        "formula": [s.formula for s in predicted.structures],
        "n_atoms": predicted.n_atoms,
        "energy": predicted.energies,
    }
    if predicted.forces is not None:
        columns["forces"] = per_atom(predicted.forces)
    if predicted.reference_energies is not None:
        columns["reference_energy"] = predicted.reference_energies
    if predicted.reference_forces is not None:
        columns["reference_forces"] = per_atom(predicted.reference_forces)
    table = arrow.table(columns).replace_schema_metadata(
        {"schema_version": str(PARQUET_VERSION), "energy_unit": "eV", "force_unit": "eV/Angstrom"}
    )
    with atomic_write(path, "wb") as stream:
        parquet.write_table(table, stream)


def write_lmdb_predictions(path: Path, predicted: Predicted) -> None:
    """An S2EF LMDB with the predictions as labels."""
    from rlpath_core.data.labelled import Labelled
    from rlpath_core.data.lmdb import write_lmdb

    if predicted.forces is None:
        raise InputError(
            "an LMDB needs forces: leave out eval.energy_only, or choose extxyz or parquet", key="eval.formats"
        )
    write_lmdb(
        path,
        [
            Labelled(structure, predicted.energies[n], forces, predicted.sids[n])
            for n, structure in enumerate(predicted.structures)
            if (forces := predicted.forces_of(n)) is not None
        ],
    )


FORMATS: dict[str, tuple[str, Callable[[Path, Predicted], None]]] = {
    "extxyz": ("predictions.extxyz", write_extxyz_predictions),
    "parquet": ("predictions.parquet", write_parquet_predictions),
    "lmdb": ("predictions.lmdb", write_lmdb_predictions),
}


def write_parity(path: Path, predicted: Predicted) -> None:
    """Predicted against reference, where it is known: energies per atom about their mean, force components coloured by
    tag."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with_forces = predicted.forces is not None and predicted.reference_forces is not None
    panels = (predicted.reference_energies is not None) + with_forces
    figure = Figure(figsize=(4.2 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, panels, squeeze=False)[0]
    found = metrics_of(predicted)
    if predicted.reference_energies is not None:
        middle = float(np.mean(predicted.reference_energies / predicted.n_atoms))
        x, y = (e / predicted.n_atoms - middle for e in (predicted.reference_energies, predicted.energies))
        axes[0].plot(x, y, "o", ms=3, alpha=0.6)
        axes[0].set(xlabel="reference energy, eV/atom (mean 0)", ylabel="predicted energy, eV/atom")
        axes[0].set_title(f"MAE {1e3 * found['energy_mae_per_atom']:.1f} meV/atom", fontsize=10)
    if predicted.forces is not None and predicted.reference_forces is not None:
        layers = any(numbers_layers(structure) for structure in predicted.structures)
        names = {} if layers else {0: "slab", 1: "surface", 2: "adsorbate"}
        for tag in np.unique(predicted.tags).tolist():
            chosen = predicted.tags == tag
            reference, forces = predicted.reference_forces[chosen], predicted.forces[chosen]
            axes[-1].plot(reference.ravel(), forces.ravel(), ".", ms=3, alpha=0.5, label=names.get(tag, f"tag {tag}"))
        axes[-1].legend(fontsize=8)
        axes[-1].set(xlabel="reference force component, eV/Å", ylabel="predicted force component, eV/Å")
        axes[-1].set_title(f"MAE {1e3 * found['force_mae']:.1f} meV/Å", fontsize=10)
    for one in axes:
        low, high = min(*one.get_xlim(), *one.get_ylim()), max(*one.get_xlim(), *one.get_ylim())
        one.plot([low, high], [low, high], "k-", lw=0.7, zorder=0)
        one.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=120)
