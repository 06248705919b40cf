"""What every DFT engine must do. A plug-in's tests subclass ``EngineConformance`` and override the fixtures.

class TestMine(EngineConformance):
    @pytest.fixture
    def engine(self): return MyEngine({"cutoff": 400})
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlpath_core.dft.engines.base import RESULT, Calculation, Engine
from rlpath_core.dft.identity import job_id
from rlpath_core.dft.verdict import why_rejected
from rlpath_core.errors import InputError
from rlpath_core.process.child import Child
from rlpath_core.structure import Structure


class EngineConformance:
    """Tests over the fixtures ``engine``, ``structure``, ``other``, ``force_tolerance`` and ``energy_tolerance``."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError("override the fixture `engine`")

    @pytest.fixture
    def structure(self) -> Structure:
        """A small structure that the engine calculates in seconds, not a minimum."""
        from ase.build import molecule

        atoms = molecule("H2O", vacuum=4.0, pbc=True)
        atoms.rattle(0.05, seed=1)
        return Structure.from_ase(atoms)

    @pytest.fixture
    def force_tolerance(self) -> float:
        """eV/Å, between forces and finite differences of energies."""
        return 0.02

    @pytest.fixture
    def energy_tolerance(self) -> float:
        """eV, between two calculations of the same structure."""
        return 1e-6

    @pytest.fixture
    def job(self, tmp_path: Path, engine: Engine, structure: Structure) -> tuple[str, Calculation]:
        return self.calculated(tmp_path / "job", engine, structure)

    def calculated(self, folder: Path, engine: Engine, structure: Structure) -> tuple[str, Calculation]:
        """A job of its own, by the engine's own command in a process."""
        folder.mkdir(parents=True, exist_ok=True)
        key = job_id(structure.id, engine.key, engine.identity())
        engine.write_inputs(folder, key, structure)
        done = subprocess.run(engine.command(folder), cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return key, engine.parse(folder, key)

    def test_is_a_label_for_what_was_asked_and_for_nothing_else(
        self, tmp_path: Path, engine: Engine, structure: Structure, job: tuple[str, Calculation]
    ) -> None:
        engine.require()
        assert engine.refuse(structure) is None
        assert why_rejected(job[1], structure, 100.0) is None
        assert job[1].versions
        assert job[1].evidence
        positions = structure.positions.copy()
        positions[0, 0] += 1e-4
        assert "positions" in (why_rejected(job[1], structure.moved(positions), 100.0) or "")
        if engine.worker() is not None:  # a program's own output names no job
            with pytest.raises(InputError, match="answers job"):
                engine.parse(tmp_path / "job", "0" * 64)

    def test_forces_are_those_of_the_energy(
        self,
        tmp_path: Path,
        engine: Engine,
        structure: Structure,
        job: tuple[str, Calculation],
        force_tolerance: float,
    ) -> None:
        """Central difference along one random direction that moves all atoms."""
        step = np.random.default_rng(0).normal(size=structure.positions.shape)
        step *= 0.005 / np.linalg.norm(step)
        energies = [
            self.calculated(tmp_path / str(sign), engine, structure.moved(structure.positions + sign * step))[1].energy
            for sign in (-1, 1)
        ]
        assert energies[0] is not None
        assert energies[1] is not None
        slope = (energies[1] - energies[0]) / (2 * np.linalg.norm(step))
        forces = job[1].forces
        assert forces is not None
        assert -slope == pytest.approx((forces * step).sum() / np.linalg.norm(step), abs=force_tolerance)

    def test_does_not_depend_on_what_came_before(
        self,
        tmp_path: Path,
        engine: Engine,
        structure: Structure,
        job: tuple[str, Calculation],
        energy_tolerance: float,
    ) -> None:
        """A worker that has just calculated something else says the same as a fresh process.

        And what has a result is not calculated again.
        """
        worker = engine.worker()
        if worker is None:
            pytest.skip("this engine has no worker")
        before = (tmp_path / "job" / RESULT).stat().st_mtime_ns
        folders = [tmp_path / "first", tmp_path / "second"]
        moved = structure.moved(structure.positions * 1.01)
        keys = []
        for folder, one in zip(folders, [moved, structure], strict=True):
            folder.mkdir()
            keys.append(job_id(one.id, engine.key, engine.identity()))
            engine.write_inputs(folder, keys[-1], one)
        with Child(worker, "the worker") as child:
            for folder in [*folders, tmp_path / "job"]:
                started: list[dict[str, Any]] = []
                assert child.ask("calculate", {"folders": [str(folder)]}, report=started.append) == ({}, {})
                assert started == [{}]
        assert (tmp_path / "job" / RESULT).stat().st_mtime_ns == before
        energy = engine.parse(folders[1], keys[1]).energy
        assert energy == pytest.approx(job[1].energy, abs=energy_tolerance)

    def test_inputs_may_be_written_again(self, tmp_path: Path, engine: Engine, structure: Structure) -> None:
        """By whoever goes on after a kill: the same bytes."""
        contents = []
        for _ in range(2):
            engine.write_inputs(tmp_path / "job", "0" * 64, structure)
            contents.append({path.name: path.read_bytes() for path in (tmp_path / "job").iterdir()})
        assert contents[0] == contents[1]

    def test_safer_settings_are_settings(self, engine: Engine) -> None:
        safer = engine.safer()
        if safer is not None:
            assert safer != engine.resolved()
            assert type(engine)(safer).resolved() == safer

    def test_identity_is_of_the_settings(self, engine: Engine) -> None:
        again = type(engine)(engine.resolved())
        assert again.identity() == engine.identity()
        json.dumps(engine.identity(), allow_nan=False)

    def test_unknown_settings_are_named(self, engine: Engine) -> None:
        settings: dict[str, Any] = {**engine.resolved(), "no_such_key": 1}
        with pytest.raises(InputError, match="no_such_key"):
            type(engine)(settings)
