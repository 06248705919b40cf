"""A bundle as the teacher: one worker, one batch, the model's own numbers as labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from ase.build import molecule

from rlpath_core.backends import load_model
from rlpath_core.backends.mace.architecture import Architecture, Interaction, Product, ScaleShift
from rlpath_core.backends.mace.build import build, state_of
from rlpath_core.backends.mace.bundle import write_bundle
from rlpath_core.data import S2EFReader
from rlpath_core.dft import label
from rlpath_core.dft.engines import ENGINES
from rlpath_core.dft.options import DftConfig
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    architecture = Architecture(
        z_table=[1, 8],
        e0_values=[-10.0, -120.0],
        cutoff=4.0,
        hidden_irreps="4x0e",
        max_ell=1,
        avg_num_neighbors=2.0,
        scale_shift=ScaleShift(scale=1.0, shift=0.0),
        interactions=[Interaction(type="RealAgnosticInteractionBlock", radial_mlp=[8]), Interaction(radial_mlp=[8])],
        products=[Product(correlation=1)] * 2,
    )
    state = state_of(build(architecture, torch.float64, seed=1), architecture)
    return write_bundle(tmp_path / "teacher", architecture, state, head="Default", dtype="float64")[0]


@pytest.mark.slow
def test_labels_are_the_models(tmp_path: Path, manifest: Path) -> None:
    water, rng = Structure.from_ase(molecule("H2O")), np.random.default_rng(0)
    structures = [water.moved(water.positions + rng.normal(0, 0.05, (3, 3))) for _ in range(5)]
    methane = Structure.from_ase(molecule("CH4"))
    config = DftConfig(engine="model", settings={"manifest": str(manifest)}, workers=1)
    with Store(tmp_path / "store") as store:
        with store.session() as session:
            session.add(orm.RunRow(id="r", kind="sample", folder="r"))
            session.flush()
            row = {"run_id": "r", "attempt": 0, "stage": "sample", "trigger": "t", "score": 1.0, "state": "selected"}
            for key in store.put([*structures, methane], session):
                session.add(orm.QueueRow(structure_id=key, round=1, **row))
        summary = label(store, config, round_index=1, lmdb=tmp_path / "l.lmdb")
        assert (summary.labelled, summary.failed) == (5, 1)
        assert "does not know C" in next(iter(summary.reasons))
        with store.reading() as session:
            failed = session.scalars(sa.select(orm.JobRow.structure_id).where(orm.JobRow.state == "failed")).all()
        assert failed == [methane.id]
    expected = load_model(manifest).predict(structures)
    for entry, prediction in zip(S2EFReader(tmp_path / "l.lmdb"), expected, strict=True):
        assert entry.energy == pytest.approx(prediction.energy, abs=1e-8)
        np.testing.assert_allclose(entry.forces, prediction.forces, atol=1e-5)


def test_identity_follows_the_weights_not_the_path(tmp_path: Path, manifest: Path) -> None:
    before = ENGINES["model"]({"manifest": str(manifest)}).identity()
    moved = manifest.parent.rename(tmp_path / "elsewhere") / manifest.name
    assert ENGINES["model"]({"manifest": str(moved), "device": "auto"}).identity() == before
    moved.write_text(moved.read_text() + "\n")
    assert ENGINES["model"]({"manifest": str(moved)}).identity() != before
