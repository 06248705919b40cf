"""``rlpath init`` says which atoms move, and passes the keys that name them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import fcc111, molecule
from ase.io import write

from rlpath_core.campaign.new import InitSpec, write_campaign
from rlpath_core.config import check
from rlpath_core.errors import InputError
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.structure import read_structures

EMT = "ase:ase.calculators.emt.EMT"


@pytest.fixture
def slab(tmp_path: Path) -> Path:
    """CO below Cu(111), without tags."""
    atoms = fcc111("Cu", (2, 2, 3), vacuum=9, periodic=True)
    co = molecule("CO")
    co.positions += [0, 0, atoms.positions[:, 2].min() - 1.9 - co.positions[:, 2].max()]
    atoms += co
    atoms.set_tags(0)
    atoms.info.clear()
    write(tmp_path / "slab.xyz", atoms)
    return tmp_path / "slab.xyz"


def written(slab: Path, **keys: object) -> tuple[str, SamplingConfig]:
    spec = check(InitSpec, {"name": "mine", "structure": slab, "model": EMT, "engine": EMT} | keys, "flags")
    text = write_campaign(spec, slab.parent)[0].read_text()
    return text, check(SamplingConfig, yaml.safe_load(text)["sampling"], "mine.yaml")


def test_what_was_guessed_stands_in_the_file(slab: Path) -> None:
    text, sampling = written(slab)
    assert sampling.adsorbate is None
    assert sampling.normal is None
    said = infer_roles(read_structures(slab)[0]).describe()
    assert "the adsorbate is CO (atoms 12 13), guessed" in said
    assert "along -c" in said
    assert said in " ".join(line.strip().removeprefix("# ") for line in text.splitlines())


@pytest.mark.parametrize("adsorbate", ["CO", ["CO"], ["12", "13"], [12, 13]])
def test_the_keys_are_passed_on(slab: Path, adsorbate: object) -> None:
    _, sampling = written(slab, adsorbate=adsorbate, normal="-z")
    assert sampling.adsorbate == ("CO" if "CO" in adsorbate else [12, 13])  # type: ignore[operator]
    roles = infer_roles(read_structures(slab)[0], sampling.adsorbate, sampling.normal)
    assert np.flatnonzero(roles.adsorbate).tolist() == [12, 13]


def test_what_does_not_fit_is_refused_before_anything_is_written(slab: Path) -> None:
    with pytest.raises(InputError, match=r"slab\.xyz: adsorbate: no atoms that move are bonded into NH3"):
        written(slab, adsorbate="NH3")
    with pytest.raises(InputError, match=r"slab\.xyz: normal: CO .* is on the other side"):
        written(slab, normal="z")
    assert not (slab.parent / "mine.yaml").exists()
