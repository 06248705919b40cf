"""A small campaign whose every table has rows: two rounds of EMT on copper, labels by EMT, some of them failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlpath_core.config import check
from rlpath_core.dft import label
from rlpath_core.dft.options import DftConfig
from rlpath_core.outbox import process_outbox
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.sampling import sample
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.store import Store, orm
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.systems import triclinic

SAMPLING = {
    "steps": 40,
    "walkers": 4,
    "quench": {"steps": 60},
    "pipeline": {"trigger": {"max_force": 0.4, "top_k_mean": 0.3}},
}
DFT = DftConfig(engine="ase", settings={"calculator": "ase.calculators.emt:EMT"}, workers=2, max_force=2.0, retries=0)
MODELS = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    with Store(folder) as store:
        for number, digest in enumerate(MODELS):
            with store.session() as session:
                parent = MODELS[number - 1] if number else None
                store.register_model(session, folder / "m.json", digest, "mace", "d" * 64, parent)
                session.add(orm.RoundRow(round=number, model_sha256=digest, metrics={"force_mae": 0.3 / (1 + number)}))
        for number in (1, 2):
            run_dir = folder / "sampling" / f"round-{number}"
            config = check(SamplingConfig, SAMPLING, "test")
            run_id = f"sample/round-{number}"
            sample(config, EMTModel(), triclinic(), run_dir, store, seed=number, run_id=run_id, round=number)
            process_outbox(store, run_dir, OutboxConfig(budget=6), round_index=number)
            label(store, DFT, round_index=number, lmdb=folder / "labels" / f"round-{number}.lmdb")
            with store.session() as session:
                used = session.query(orm.LabelRow.job_id).where(orm.LabelRow.round <= number)
                rows = [orm.TrainingLabelRow(model_sha256=MODELS[number], job_id=row.job_id) for row in used]
                session.add_all(rows)
    return folder
