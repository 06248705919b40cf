"""The files that a run was made from, by their content: ``inputs.json`` beside ``run.yaml``.

A run is done already, or goes on, only where its inputs are the same. Each file is read once and its digest kept with
its size, time and inode; while those stay, it is not read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpath_core.config import is_path
from rlpath_core.data.lmdb import open_for_reading
from rlpath_core.errors import InputError
from rlpath_core.files import sha256_of, write_json
from rlpath_core.training.fairchem.config import read_config
from rlpath_core.training.fairchem.options import FairChemTraining
from rlpath_core.training.options import RunSpec

log = logging.getLogger("rlpath.training")
INPUTS = "inputs.json"
SCHEMA_VERSION = 1
WHOLE = 16 << 30
"""Bytes; a larger file is known by its size, its time and 256 blocks: a set of terabytes would take hours."""
BLOCK, BLOCKS = 1 << 20, 256
TRAINED_ON = ("data.train", "data.replay", "data.indices_path", "data.train_indices.indices_path")
JUDGED_ON = ("data.val", "data.val_indices.indices_path")
LABELS = ("energy_key", "forces_key")

Files = list[dict[str, Any]]


def digest_of(path: Path) -> str:
    """sha256 of a file's bytes, or of an LMDB's keys and values: opening one for writing changes its bytes. Of a very
    large file see ``WHOLE``."""
    stat = path.stat()
    if stat.st_size <= WHOLE:
        return _digest_of_entries(path) or sha256_of(path)
    found = hashlib.sha256(json.dumps([stat.st_size, stat.st_mtime_ns]).encode())
    with open(path, "rb") as stream:
        for n in range(BLOCKS):
            stream.seek(n * (stat.st_size - BLOCK) // (BLOCKS - 1))
            found.update(stream.read(BLOCK))
    return found.hexdigest()


def _digest_of_entries(path: Path) -> str | None:
    """None for what is no LMDB."""
    if path.suffix not in (".lmdb", ".aselmdb", ".mdb"):
        return None
    try:
        env = open_for_reading(path)
    except InputError:
        return None  # said by whoever reads it
    found = hashlib.sha256()
    with env.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            found.update(len(key).to_bytes(8, "little") + len(value).to_bytes(8, "little"))
            found.update(key)
            found.update(value)
    return found.hexdigest()


def _parts(path: Path) -> list[Path]:
    """The files that a path stands for: itself, or what a folder holds, without LMDB's locks."""
    if path.is_file():
        return [path]
    files = path.iterdir() if path.is_dir() else []
    return sorted(p for p in files if p.is_file() and not p.name.endswith(("lock", "lock.mdb")))


def _described(paths: Iterable[Path], known: Files) -> Files:
    before = {tuple(one[key] for key in ("name", "size", "mtime_ns", "inode")): one["sha256"] for one in known}
    found = []
    for path in paths:
        stat = path.stat()
        seen = (path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        digest = before.get(seen) or digest_of(path)
        found.append(dict(zip(("name", "size", "mtime_ns", "inode"), seen, strict=True)) | {"sha256": digest})
    return found


def _model_files(spec: RunSpec) -> list[Path]:
    """A manifest holds the digests of its weights; anything else counts itself."""
    from rlpath_core.backends.manifest import manifest_path

    if spec.task == "train" or not is_path(spec.starting_model):
        return []
    given = Path(spec.starting_model)
    try:
        found = [given if given.is_file() and given.suffix != ".json" else manifest_path(given)]
    except InputError:
        found = []  # said by whoever reads it
    return [*found, *([spec.model.weights] if spec.model.weights else [])]


@dataclass(frozen=True)
class Inputs:
    """What a run reads: per key of its run.yaml, the files with their digests."""

    files: Mapping[str, Files]
    data: Mapping[str, Any]
    """The section ``data`` without its paths: which entries of the files are used."""

    @classmethod
    def of(cls, spec: RunSpec) -> Inputs:
        """Those of a run as its files are now. What ``spec.run_dir`` remembers of unchanged files is not read again."""
        known = cls.read(spec.run_dir) or {}
        keys: dict[str, Iterable[Path]] = {
            "model_in": _model_files(spec),
            "data.train": _parts(spec.data.train) if spec.data.train else [],
            "data.val": _parts(spec.data.val) if spec.data.val else [],
            "data.replay": _parts(spec.data.replay) if spec.data.replay else [],
        }
        for key, path in (
            ("data.indices_path", spec.data.indices_path),
            ("data.train_indices.indices_path", spec.data.train_indices.indices_path),
            ("data.val_indices.indices_path", spec.data.val_indices.indices_path),
        ):
            keys[key] = [path] if path is not None and path.is_file() else []
        train = spec.train
        for name in type(train).model_fields:
            value = getattr(train, name)
            if isinstance(value, Path) and name != "config_yml":
                keys[f"train.{name}"] = [value] if value.is_file() else []
        found = {key: _described(paths, known.get(key, [])) for key, paths in keys.items() if paths}
        if isinstance(train, FairChemTraining) and train.config_yml is not None and train.config_yml.is_file():
            config = read_config(train.config_yml)  # what its includes say, and no comment, counts
            text = json.dumps(config, sort_keys=True, default=str)
            written = {"name": train.config_yml.name, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            beside = _described(_named_files(config, train.config_yml.parent), [])
            found["train.config_yml"] = [written, *beside]
        data = spec.data.model_dump(
            mode="json",
            include=dict.fromkeys(
                ("indices", "train_indices", "val_indices", "replay_ratio", "energy_key", "forces_key"), True
            ),
            exclude={"train_indices": {"indices_path"}, "val_indices": {"indices_path"}},
        )
        return cls(found, data)

    @classmethod
    def named(cls, paths: Mapping[str, Path | None], folder: Path) -> Inputs:
        """Those that are given by their keys; ``folder`` remembers them."""
        known = cls.read(folder) or {}
        there = {key: _parts(path) for key, path in paths.items() if path is not None}
        return cls({key: _described(files, known.get(key, [])) for key, files in there.items() if files}, {})

    @staticmethod
    def read(run_dir: Path) -> dict[str, Files] | None:
        """What a run_dir remembers of its inputs; None for a run of rlpath 0.2 or older."""
        path = run_dir / INPUTS
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            assert value["schema_version"] == SCHEMA_VERSION
            files: dict[str, Files] = value["files"]
            return files
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise InputError("is damaged or of another version: delete it, or choose another run_dir", path) from error

    def write(self, run_dir: Path) -> None:
        write_json(run_dir / INPUTS, {"schema_version": SCHEMA_VERSION, "files": self.files})

    def changed(self, run_dir: Path) -> str | None:
        """The key of the first input whose content is not that which the run in ``run_dir`` began with.

        Files that are gone are no change: a finished run needs them no more, and another one says so when it reads.
        """
        known = self.read(run_dir)
        if known is None:
            log.info("%s has no %s: whether its data are the same now cannot be told", run_dir, INPUTS)
            return None
        for key, files in self.files.items():
            if _contents(files) != _contents(known.get(key, [])):
                return key
        return None

    def _digest(self, keys: Iterable[str], *selection: Any) -> str:
        parts = [[key, _contents(self.files.get(key, []))] for key in keys]
        return hashlib.sha256(json.dumps([parts, selection], sort_keys=True).encode()).hexdigest()

    @property
    def trained_on(self) -> str:
        """Digest of the training data, in order, and of the choice of entries."""
        chosen = [self.data[key] for key in ("indices", "train_indices", *LABELS)]
        return self._digest(TRAINED_ON, chosen, self.data["replay_ratio"] if self.files.get("data.replay") else None)

    @property
    def judged_on(self) -> str:
        """Digest of the validation data and of the choice of entries."""
        return self._digest(JUDGED_ON, [self.data[key] for key in ("val_indices", *LABELS)])


def _named_files(config: Any, folder: Path) -> list[Path]:
    """The files of numbers that a FairChem configuration names."""
    if isinstance(config, dict):
        return [path for key in sorted(config, key=str) for path in _named_files(config[key], folder)]
    named = isinstance(config, str) and config.endswith((".json", ".npz")) and (folder / config).is_file()
    return [folder / config] if named else []


def _contents(files: Files) -> list[str]:
    """Digests in the order of the names; the name itself counts only in that."""
    return [one["sha256"] for one in files]
