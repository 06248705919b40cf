"""One file, whatever it is: told apart by what lies there, looked at, and reported on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlpath_core.backends import Model, load_model
from rlpath_core.checking.labels import compare, describe_labels
from rlpath_core.checking.model import describe_architecture, describe_model, is_architecture, is_model
from rlpath_core.checking.options import CheckSpec
from rlpath_core.checking.report import Report, counted
from rlpath_core.checking.structures import describe_many, describe_structure, unknown_elements
from rlpath_core.config import is_path
from rlpath_core.data import Labelled, open_labelled
from rlpath_core.data.io import LMDB_SUFFIXES
from rlpath_core.errors import InputError
from rlpath_core.structure import read_structures
from rlpath_core.training.reference_energies import sample


def check_files(spec: CheckSpec) -> Iterator[Report]:
    """A report on each file of ``spec``, in turn, and on structures that two data sets share.

    Raises
    ------
    InputError
        The model to compare with cannot be loaded.
    """
    model = None if spec.manifest is None else load_model(spec.manifest, device=spec.device, head=spec.head)
    seen: dict[str, str] = {}
    for name in spec.files:
        report = check_file(name, spec, model)
        shared = Counter(seen[key] for key in report.ids if key in seen)
        for other, n in shared.items():
            report.warnings.append(f"{counted(n, 'structure')} of {other} too: no set to train on and to judge by")
        seen |= {key: shown(name) for key in report.ids if key not in seen}
        yield report


def check_file(name: str, spec: CheckSpec, model: Model | None = None) -> Report:
    """What rlpath sees in a structure, a data set or a model.

    Parameters
    ----------
    name : str
        A path, or ``ase:...``.
    spec : CheckSpec
    model : Model, optional
        To compare with.

    Returns
    -------
    Report
        With `error` set if the file cannot be used at all; nothing is raised for bad input.
    """
    report = Report(shown(name))
    with _collected(report, name):
        try:
            if is_model(name):
                describe_model(report, load_model(name, device=spec.device))
            elif is_architecture(name):
                describe_architecture(report, Path(name))
            else:
                _check_structures(report, Path(name), spec, model)
        except InputError as error:
            report.error = str(error).removeprefix(f"{name}: ")
    return report


@contextmanager
def _collected(report: Report, name: str) -> Iterator[None]:
    """What readers and loaders say becomes notes of the report, in place of lines of the log."""
    log = logging.getLogger("rlpath")
    handler, before = _Notes(report, name), (log.propagate, log.level)
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before[0]
        log.setLevel(before[1])


class _Notes(logging.Handler):
    def __init__(self, report: Report, name: str) -> None:
        super().__init__(logging.INFO)
        self.report, self.name = report, name

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().removeprefix(f"{self.name}: ")
        if text not in self.report.notes and not text.endswith(f"from {self.name}"):  # the count is the report's kind
            self.report.notes.append(text)


def _check_structures(report: Report, path: Path, spec: CheckSpec, model: Model | None) -> None:
    found = _read(path, spec)
    n = len(found)
    chosen = sample(n, spec.max_structures).tolist()
    labelled = [found[i] for i in chosen]
    structures = [one.structure for one in labelled]
    n_energies = sum(one.energy is not None for one in labelled)
    n_forces = sum(one.forces is not None for one in labelled)
    has_labels = bool(n_energies or n_forces)
    report.kind = f"data set of {counted(n, 'structure')}" if has_labels else counted(n, "structure")
    if n == 1:
        describe_structure(report, structures[0], spec.adsorbate, spec.normal)
    else:
        describe_many(report, structures, chosen, n)
    if has_labels:
        report.ids = [structure.id for structure in structures]
    if n == 1 or not has_labels:
        _as_start(report, path)
    if has_labels:
        describe_labels(report, labelled, chosen)
    if model is not None:
        _compare(report, labelled, model, spec)


def _read(path: Path, spec: CheckSpec) -> Sequence[Labelled]:
    """Every structure of ``path`` with the labels that it has."""
    return open_labelled(path, energy_key=spec.energy_key, forces_key=spec.forces_key)


def _as_start(report: Report, path: Path) -> None:
    """Whether sampling would take the file, and what it would say."""
    if path.is_file() and path.suffix not in LMDB_SUFFIXES:
        report.notes.clear()
        try:
            read_structures(path)
        except InputError as error:
            report.warnings.append(f"sampling would refuse it: {error.what}")


def shown(name: str) -> str:
    """A path below the working directory as it is seen from there; anything else as it is."""
    here = Path.cwd()
    return str(Path(name).relative_to(here)) if is_path(name) and Path(name).is_relative_to(here) else name


def _compare(report: Report, labelled: list[Labelled], model: Model, spec: CheckSpec) -> None:
    unknown = unknown_elements([one.structure for one in labelled], model.elements)
    if unknown is not None:
        report.warnings.append(unknown)
        return
    compare(report, [labelled[i] for i in sample(len(labelled), spec.max_predictions)], model)
