"""Metrics of subsets against plain loops, and predictions read back from disk."""

import numpy as np
import pytest
from ase.io import read

from rlpath_core.data import Labelled, read_labelled
from rlpath_core.errors import InputError
from rlpath_core.evaluation import evaluate, metrics_of, predict
from rlpath_core.evaluation.breakdown import breakdown, quantile_bins, top_k_error
from rlpath_core.evaluation.output import write_extxyz_predictions, write_lmdb_predictions, write_parity
from rlpath_core.evaluation.predicted import Predicted
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel


@pytest.fixture(scope="module")
def predicted():
    generator = np.random.default_rng(0)
    structures = []
    for size in (1, 4, 9, 12):
        tags = np.arange(size) % 3
        structures.append(Structure(generator.choice([8, 29], size), generator.normal(0, 4, (size, 3)), tags=tags))
    n = sum(map(len, structures))
    reference = generator.normal(0, 1, (n, 3))
    forces = reference + generator.normal(0, 0.2, (n, 3))
    energies = generator.normal(0, 3, 4)
    return Predicted(structures, list("abcd"), energies + 0.1, forces, energies, reference)


def test_subsets_by_hand(predicted):
    """Each subset's mean absolute error from a loop over atoms."""
    found = breakdown(predicted)
    errors = np.abs(predicted.forces - predicted.reference_forces)
    norms = np.linalg.norm(predicted.reference_forces, axis=1)
    for tag in (0, 1, 2):
        chosen = [i for i, t in enumerate(predicted.tags) if t == tag]
        assert found["by_tag"][str(tag)]["force_mae"] == pytest.approx(np.mean([errors[i] for i in chosen]))
        assert found["by_tag"][str(tag)]["n_atoms"] == len(chosen)
    for symbol, z in (("O", 8), ("Cu", 29)):
        chosen = [i for i, number in enumerate(predicted.numbers) if number == z]
        assert found["by_element"][symbol]["force_mae"] == pytest.approx(np.mean([errors[i] for i in chosen]))
    adsorbate = sorted((i for i, t in enumerate(predicted.tags) if t == 2), key=lambda i: norms[i])
    top = adsorbate[int(np.ceil(0.8 * len(adsorbate))) :]
    assert found["headline"]["of"] == "tag 2, 80-100 %"
    assert found["headline"]["n_atoms"] == len(top)
    assert found["headline"]["force_mae"] == pytest.approx(np.mean([errors[i] for i in top]))
    assert sum(part["n_atoms"] for part in found["by_quantile"].values()) == len(norms)
    cosines = [
        f @ r / np.linalg.norm(f) / np.linalg.norm(r)
        for f, r in zip(predicted.forces, predicted.reference_forces, strict=True)
    ]
    overall = np.average(
        [part["force_cosine"] for part in found["by_tag"].values()],
        weights=[part["n_atoms"] for part in found["by_tag"].values()],
    )
    assert overall == pytest.approx(np.mean(cosines))


def test_top_k_by_hand(predicted):
    means, first = [], 0
    for structure in predicted.structures:
        part = slice(first, first + len(structure))
        first += len(structure)
        norms = np.linalg.norm(predicted.reference_forces[part], axis=1)
        largest = sorted(range(len(structure)), key=lambda i: -norms[i])[:5]
        errors = np.linalg.norm(predicted.forces[part] - predicted.reference_forces[part], axis=1)
        means.append(np.mean([errors[i] for i in largest]))
    assert top_k_error(predicted) == pytest.approx(np.mean(means))


def test_bins_are_equally_large():
    bins = quantile_bins(np.random.default_rng(1).random(100))
    assert np.bincount(bins).tolist() == [20] * 5
    assert breakdown(_alone())["headline"]["n_atoms"] == 1


def _alone():
    structure = Structure(np.array([29, 8]), np.array([[0, 0, 0], [0, 0, 1.9]]), tags=np.array([0, 2]))
    return Predicted([structure], ["x"], np.zeros(1), np.zeros((2, 3)), np.zeros(1), np.ones((2, 3)))


def test_evaluate_is_metrics_of_predict(tmp_path):
    model = EMTModel()
    structure = Structure(np.array([29, 8]), np.array([[0, 0, 0], [0, 0, 1.9]]))
    answer = model.predict([structure])[0]
    data = [Labelled(structure, answer.energy + 0.5, answer.forces + 0.25, "one")] * 3
    found = evaluate(model, data, batch_size=2)
    assert found == metrics_of(predict(model, data))
    assert found["energy_mae"] == pytest.approx(0.5)
    assert found["force_rmse"] == pytest.approx(0.25)
    assert "force_mae" not in evaluate(model, data, energy_only=True)
    bare = predict(model, [structure])
    assert bare.reference_energies is None
    assert breakdown(bare) == {}
    with pytest.raises(InputError, match="empty"):
        predict(model, [])


def test_predictions_on_disk(predicted, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    from rlpath_core.evaluation.output import write_parquet_predictions

    write_parquet_predictions(tmp_path / "p.parquet", predicted)
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.schema.metadata[b"energy_unit"] == b"eV"
    rows = table.to_pylist()
    assert [row["sid"] for row in rows] == ["a", "b", "c", "d"]
    assert rows[2]["energy"] == predicted.energies[2]
    np.testing.assert_array_equal(rows[2]["forces"], predicted.forces_of(2))
    assert np.concatenate([row["reference_forces"] for row in rows]).shape == predicted.reference_forces.shape

    write_extxyz_predictions(tmp_path / "p.extxyz", predicted)
    frames = read(tmp_path / "p.extxyz", ":")
    assert frames[1].get_potential_energy() == pytest.approx(predicted.energies[1])
    np.testing.assert_allclose(frames[3].get_forces(), predicted.forces_of(3), atol=1e-7)

    write_lmdb_predictions(tmp_path / "p.lmdb", predicted)
    again = read_labelled(tmp_path / "p.lmdb")
    assert [one.sid for one in again] == ["a", "b", "c", "d"]
    np.testing.assert_allclose(again[3].forces, predicted.forces_of(3), atol=1e-6)
    assert not list(tmp_path.glob(".*"))

    write_parity(tmp_path / "parity.png", predicted)
    assert (tmp_path / "parity.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
