"""The neighbour search behind the duplicate check, against all distances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from rlpath_core.outbox import nearby
from rlpath_core.outbox.nearby import Nearby


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3, 3.0])
def test_finds_what_comparing_all_with_all_finds(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added in pieces, so that there are one and two trees; from all in one place to none near another."""
    monkeypatch.setattr(nearby, "LEAF", 16)
    rng = np.random.default_rng(0)
    scale = np.concatenate((np.ones(4), np.full(20, 0.1)))
    rows, asked = rng.normal(0, spread, (700, 24)) * scale, rng.normal(0, spread, (50, 24)) * scale
    search = Nearby(0.4)
    assert [len(found) for found, _ in search.within(asked)] == [0] * 50
    done = 0
    for size in (1, 5, 70, 30, 200, 10, 384):
        search.add(rows[done : done + size])
        done += size
        assert len(search) == done
        expected = cdist(asked, rows[:done])
        for row, (found, distance) in zip(expected, search.within(asked), strict=True):
            assert set(found.tolist()) == set(np.flatnonzero(row <= 0.4).tolist())
            np.testing.assert_allclose(np.sqrt(distance), row[found], atol=1e-6)
            assert (np.diff(distance) >= 0).all()


def test_equal_distances_come_in_the_order_in_which_they_were_added() -> None:
    search = Nearby(1.0)
    search.add(np.zeros((3, 2)))
    search.add(np.zeros((2, 2)))
    ((found, distance),) = search.within(np.zeros((1, 2)))
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert distance.tolist() == [0.0] * 5
