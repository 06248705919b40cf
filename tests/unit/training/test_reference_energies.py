"""Residuals of labels against a model, split into a shift per element."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.training.reference_energies import SAMPLE, compositions_of, reference_shift, sample

ELEMENTS = [1, 6, 8, 29]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(-2000, 2000), min_size=4, max_size=4))
def test_shifts_of_another_code_are_found_exactly(seed: int, shifts: list[float]) -> None:
    compositions = np.random.default_rng(seed).integers(0, 9, size=(12, 4)).astype(float)
    compositions[:, 3] += 1
    found = reference_shift(compositions, compositions @ shifts, ELEMENTS)
    assert found.remaining < 1e-8
    assert compositions @ found.shifts == pytest.approx(compositions @ shifts, abs=1e-6)
    if found.determined and found.present.all():
        assert found.shifts == pytest.approx(shifts, abs=1e-5)
    assert found.verdict == ("other" if found.rmse > 0.1 else "same")


def test_absent_elements_keep_theirs_and_those_that_come_together_share() -> None:
    water = np.outer([1, 2, 3], [2, 0, 1, 0]).astype(float)  # H2O alone: no C, no Cu
    water[:, 3] = [0, 0, 0]
    found = reference_shift(water, 5.0 * np.array([1, 2, 3]), ELEMENTS)
    assert found.shifts == pytest.approx([2.0, 0.0, 1.0, 0.0])  # the least norm of all with 2 h + o = 5
    assert not found.determined
    assert found.present.tolist() == [True, False, True, False]
    assert "C " not in found.describe()
    assert "come together" in found.describe()


def test_errors_of_a_model_are_no_other_references() -> None:
    rng = np.random.default_rng(1)
    compositions = rng.integers(1, 20, size=(50, 4)).astype(float)
    residuals = rng.normal(0, 0.03, 50) * compositions.sum(axis=1)
    assert reference_shift(compositions, residuals, ELEMENTS).verdict == "same"
    residuals = rng.normal(0, 1.0, 50) * compositions.sum(axis=1)
    assert reference_shift(compositions, residuals, ELEMENTS).verdict == "scattered"


def test_labels_of_two_codes_in_one_set_are_not_explained() -> None:
    compositions = np.random.default_rng(2).integers(1, 20, size=(40, 4)).astype(float)
    residuals = np.where(np.arange(40) % 2, compositions @ [-13.0, -100.0, -400.0, -1500.0], 0.0)
    found = reference_shift(compositions, residuals, ELEMENTS)
    assert found.verdict == "scattered"
    assert "several methods" in found.describe()


def test_the_mean_residual_is_zero_afterwards_and_what_is_not_finite_is_left_out() -> None:
    rng = np.random.default_rng(3)
    compositions = rng.integers(1, 9, size=(9, 4)).astype(float)
    residuals = rng.normal(size=9)
    found = reference_shift(np.vstack([compositions, compositions[:1]]), np.append(residuals, np.nan), ELEMENTS)
    assert found.n_structures == 9
    left = (residuals - compositions @ found.shifts) / compositions.sum(axis=1)
    assert left.mean() == pytest.approx(0, abs=1e-10)
    assert reference_shift(compositions[:0], residuals[:0], ELEMENTS).describe().startswith("no label")


def test_compositions_and_the_sample() -> None:
    assert compositions_of([np.array([8, 1, 1]), np.array([29, 6, 8])], ELEMENTS).tolist() == [
        [2, 0, 1, 0],
        [0, 1, 1, 1],
    ]
    assert sample(5).tolist() == [0, 1, 2, 3, 4]
    assert len(sample(10**6)) == SAMPLE
    assert sample(10**6)[-1] == 10**6 - 1
