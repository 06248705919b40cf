"""What every basin index must do. Subclass, override ``kind``, ``system`` and ``other``, and run it under pytest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.basins import BasinIndex
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure


class BasinSuite:
    """Contract of ``BasinIndex``: tolerant, periodic, blind to the numbering of atoms, and not blind to chemistry."""

    @pytest.fixture
    def kind(self) -> type[BasinIndex]:
        raise NotImplementedError("override the fixture `kind`")

    @pytest.fixture
    def system(self) -> Structure:
        raise NotImplementedError("override the fixture `system`")

    @pytest.fixture
    def other(self) -> Structure:
        """A different minimum of the same atoms."""
        raise NotImplementedError("override the fixture `other`")

    @pytest.fixture
    def index(self, kind: type[BasinIndex], system: Structure) -> BasinIndex:
        index = kind(BasinOptions(), system, infer_roles(system))
        index.add(0, system, -1.0)
        return index

    def test_an_empty_index_finds_nothing(self, kind: type[BasinIndex], system: Structure) -> None:
        assert kind(BasinOptions(), system, infer_roles(system)).find(system, 0.0) is None

    def test_the_same_minimum_is_found(self, index: BasinIndex, system: Structure) -> None:
        assert index.find(system, -1.0) == 0

    def test_loosely_relaxed_copies_are_one_basin(self, index: BasinIndex, system: Structure) -> None:
        """Displacements as loose relaxations leave them, 0.03 Å an atom: always the same basin, bin edges or not."""
        rng = np.random.default_rng(0)
        movable = infer_roles(system).movable[:, None]
        for _ in range(50):
            positions = system.positions + movable * rng.normal(0, 0.03 / np.sqrt(3), system.positions.shape)
            assert index.find(system.moved(positions), -1.0 + rng.uniform(-0.03, 0.03)) == 0

    def test_a_rigid_creep_through_every_bin_edge_is_one_basin(self, index: BasinIndex, system: Structure) -> None:
        """Stretched by 0 to 1 %: distances cross bin edges one after the other, and no step makes a new basin."""
        for stretch in np.linspace(1.0, 1.01, 21):
            grown = replace(system, positions=system.positions * stretch, cell=system.cell * stretch)
            assert index.find(grown, -1.0) == 0

    def test_numbering_and_periodic_images_make_no_difference(self, index: BasinIndex, system: Structure) -> None:
        rng = np.random.default_rng(1)
        movable = infer_roles(system).movable
        for _ in range(5):
            order = np.arange(len(system))
            for z in np.unique(system.numbers):
                same = np.flatnonzero((system.numbers == z) & movable)
                order[same] = rng.permutation(same)
            images = rng.integers(-1, 2, (len(system), 3)) * system.pbc
            assert index.find(system.moved(system.positions[order] + images @ system.cell), -1.0) == 0

    def test_another_energy_is_another_basin(self, index: BasinIndex, system: Structure) -> None:
        assert index.find(system, -1.0 + 2 * BasinOptions().energy_window) is None

    def test_another_minimum_is_another_basin(self, index: BasinIndex, other: Structure) -> None:
        assert index.find(other, -1.0) is None

    def test_each_is_found_among_many(self, index: BasinIndex, system: Structure, other: Structure) -> None:
        for number in range(1, 40):  # same structure, far apart in energy: the index has to grow
            index.add(number, system, float(number))
        index.add(40, other, -1.0)
        assert index.find(other, -1.0) == 40
        assert index.find(system, 17.01) == 17
        assert index.find(system, -1.0) == 0
