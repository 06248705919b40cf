"""Where everything of a campaign is: its folders, and which model each round starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlpath_core.backends.registry import backend_of
from rlpath_core.campaign.options import CampaignConfig
from rlpath_core.config import ModelReference
from rlpath_core.store import Store
from rlpath_core.training.options import MaceTraining

if TYPE_CHECKING:
    from rlpath_core.backends import Model

BEFORE_LEARNING = ("explore", "find_paths")
"""Stages that run with the model of the round before."""


class Layout:
    """A campaign's folder and config. Holds no open file: cheap to make in every process."""

    def __init__(self, folder: Path, config: CampaignConfig) -> None:
        self.folder = folder
        self.config = config

    def store(self) -> Store:
        return Store(self.folder)

    def models_folder(self, round_index: int) -> Path:
        """The folder of a round's training run (``run_dir``)."""
        return self.config.models_dir / self.config.campaign / f"round-{round_index}"

    def manifest(self, round_index: int) -> ModelReference:
        """The model after a round; round 0 is the starting model of the first round's backend."""
        if round_index == 0 or not self.trains(round_index):
            return self.config.backends[self.config.backend_of(round_index)].model
        return str(self.models_folder(round_index) / "artifacts" / "manifest.json")

    def trains(self, round_index: int) -> bool:
        """Whether the model of a round can be fine-tuned; rounds with an ASE calculator explore and label only."""
        return backend_of(self.config.backend_of(round_index)).trainer is not None

    def newest(self, backend: str, before: int) -> ModelReference:
        """The last model of ``backend`` before a round: that of an earlier round, else the starting one."""
        for round in range(before - 1, 0, -1):
            if self.config.backend_of(round) == backend:
                return self.manifest(round)
        return self.config.backends[backend].model

    def parent(self, round_index: int) -> ModelReference:
        """The model that a round fine-tunes: the newest of its own backend."""
        return self.newest(self.config.backend_of(round_index), round_index)

    def head(self, manifest: ModelReference) -> str | None:
        """The head that a model is asked for: the one that ``train.head_key`` gives, of a starting model that is
        trained by mace; None for the model's own, as all models that the rounds have trained name one."""
        given = [s.train for s in self.config.backends.values() if s.model == manifest]
        return given[0].given_head if given and isinstance(given[0], MaceTraining) else None

    def load(self, manifest: ModelReference) -> Model:
        """A model of the campaign. A starting model answers with the head that ``train.head_key`` gives, if it does."""
        from rlpath_core.backends import load_model

        return load_model(manifest, device=self.config.device, head=self.head(manifest))

    def stage_backend(self, stage: str, round_index: int) -> str | None:
        """The backend whose environment a stage runs best in; None for a stage that needs no model."""
        if stage == "label":
            return None
        return self.config.backend_of(round_index - 1 if stage in BEFORE_LEARNING else round_index)

    def sampling_folder(self, round_index: int) -> Path:
        return self.folder / "sampling" / f"round-{round_index}"

    def paths_folder(self, round_index: int) -> Path:
        return self.folder / "paths" / f"round-{round_index}"

    @property
    def labels_folder(self) -> Path:
        return self.folder / "labels"

    def lmdb(self, round_index: int) -> Path:
        """The labels of one round."""
        return self.labels_folder / f"round-{round_index}.lmdb"
