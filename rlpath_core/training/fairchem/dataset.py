"""The data of a run.yaml as FairChem reads them: any of our formats, index controls, replay; no pickle is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common.registry import registry
from fairchem.core.datasets.base_dataset import BaseDataset
from numpy.typing import NDArray
from torch_geometric.data import Data

from rlpath_core.config import check
from rlpath_core.data.labelled import BOTH, Labelled, check_labels
from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import closed_cell
from rlpath_core.training.dataset import choose_indices, open_split
from rlpath_core.training.options import DataSpec

MARGIN = 1.0
"""Å: FairChem's neighbour search knows periodic axes only, so others are made longer than its cutoff by this."""


def to_data(labelled: Labelled, n: int, radius: float) -> Data:
    """What FairChem's networks and trainers take. The energy is float64: totals of thousands of eV keep their digits
    until the element references are taken off."""
    structure = labelled.structure
    assert labelled.forces is not None
    return Data(
        pos=torch.tensor(structure.positions, dtype=torch.float32),
        cell=torch.tensor(closed_cell(structure, radius + MARGIN), dtype=torch.float32).reshape(1, 3, 3),
        atomic_numbers=torch.tensor(structure.numbers, dtype=torch.int64),
        natoms=len(structure),
        tags=torch.tensor(structure.tags, dtype=torch.int64),
        fixed=torch.tensor(structure.fixed, dtype=torch.float32),
        energy=torch.tensor([labelled.energy], dtype=torch.float64),
        forces=torch.tensor(labelled.forces, dtype=torch.float32),
        sid=n,
        fid=0,
    )


class _Sizes(Mapping[str, Any]):
    """``natoms`` of entries, read where a sampler that balances processes asks for them."""

    def __init__(self, dataset: RlpathDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, name: str) -> NDArray[np.int64]:
        if name != "natoms":
            raise KeyError(name)
        return self.dataset.sizes(np.arange(len(self.dataset)))

    def __iter__(self) -> Iterator[str]:
        return iter(["natoms"])

    def __len__(self) -> int:
        return 1


@registry.register_dataset("rlpath")
class RlpathDataset(BaseDataset):
    """A split of a run.yaml. After the new data come as many replayed structures as ``replay_ratio`` asks for, drawn
    anew in every epoch from the seed and the epoch.

    Entries of LMDBs are read when they are asked for, in data loaders' workers too.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        data = check(DataSpec, config["data"], "data")
        train = config["split"] == "train"
        self.split, self.path = config["split"], Path(config["src"])
        self.new = open_split(self.path, data)
        sampling = data.train_indices if train else data.val_indices
        self.chosen = np.array(choose_indices(len(self.new), data, sampling, train), dtype=np.int64)
        if not len(self.chosen):
            raise InputError("holds no structure", self.path)
        if isinstance(self.new, list):  # all are in memory: all that lack a label are counted
            check_labels([self.new[n] for n in self.chosen], BOTH, self.path, self.chosen.tolist())
        self.replay = data.replay
        self.older = open_split(data.replay, data) if train and data.replay is not None else []
        self.n_replayed = round(data.replay_ratio * len(self.chosen)) if len(self.older) else 0
        self.num_samples = len(self.chosen) + self.n_replayed
        self.seed, self.radius, self.n_elements = config["seed"], config["radius"], config["n_elements"]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        generator = np.random.default_rng([self.seed, epoch])
        rounds = -(-self.n_replayed // max(1, len(self.older)))
        drawn = [generator.permutation(len(self.older)) for _ in range(rounds)]
        self.replayed = np.concatenate([*drawn, np.zeros(0, np.int64)])[: self.n_replayed].astype(np.int64)

    def entry(self, idx: int) -> Labelled:
        n = int(idx)
        if n < len(self.chosen):
            path, data, place = self.path, self.new, int(self.chosen[n])
        else:
            assert self.replay is not None
            path, data, place = self.replay, self.older, int(self.replayed[n - len(self.chosen)])
        found = data[place]
        check_labels([found], BOTH, path, [place])
        return found

    def name(self, n: int) -> str:
        """An entry for messages: its place in the file it was read from."""
        if n < len(self.chosen):
            return f"data.{self.split}, entry {self.chosen[n]} ({self.path.name})"
        return f"data.replay, entry {self.replayed[n - len(self.chosen)]}"

    def __getitem__(self, idx: int) -> Data:
        labelled = self.entry(idx)
        if labelled.structure.numbers.max() >= self.n_elements:
            raise InputError(
                f"has atomic number {labelled.structure.numbers.max()}, and the network knows those below "
                f"{self.n_elements} (model.max_num_elements or num_elements)",
                self.path,
                f"entry {labelled.sid or idx}",
            )
        return to_data(labelled, int(idx), self.radius)

    def sizes(self, indices: Any) -> NDArray[np.int64]:
        return np.array([len(self.entry(i).structure) for i in np.asarray(indices).reshape(-1)], dtype=np.int64)

    @property
    def _metadata(self) -> Mapping[str, Any]:
        return _Sizes(self)

    def get_metadata(self, attr: str, idx: Any) -> Any:
        return self.sizes(idx) if attr == "natoms" else None
