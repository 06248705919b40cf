"""Facts about a model: what it was made for, and whether its files agree."""

from __future__ import annotations

from pathlib import Path

from ase.data import chemical_symbols

from rlpath_core.backends import Model
from rlpath_core.backends.manifest import manifest_path, read_manifest
from rlpath_core.checking.report import Report
from rlpath_core.config import is_path

MODEL_SUFFIXES = (".model", ".pt", ".pth")


def is_model(reference: str) -> bool:
    """Whether ``reference`` names a model rather than structures, judged by its name and what lies there."""
    if not is_path(reference):
        return True
    path = Path(reference)
    if path.is_dir():
        return any((path / name).is_file() for name in ("manifest.json", "artifacts/manifest.json"))
    return path.name == "manifest.json" or path.suffix in MODEL_SUFFIXES


def is_architecture(name: str) -> bool:
    """Whether a file is the model.json of a MACE, known by its key ``z_table``."""
    path = Path(name)
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as stream:
        return '"z_table"' in stream.read(100_000)


def describe_architecture(report: Report, path: Path) -> None:
    """Add the facts about the architecture of a MACE to ``report``."""
    from rlpath_core.backends.mace.architecture import read_architecture

    found = read_architecture(path)
    report.kind = "architecture of a MACE, without weights"
    report.facts["elements"] = ", ".join(chemical_symbols[z] for z in found.z_table)
    report.facts["cutoff"] = f"{found.cutoff:g} Å"
    report.facts["heads"] = ", ".join(found.heads)
    given = "given" if found.e0_values is not None else "none: they are fitted to the data"
    report.facts["E0s"] = f"energies of free atoms {given}"


def describe_model(report: Report, model: Model) -> None:
    """Add the facts about a loaded model to ``report``. Loading has checked its digests."""
    facts = report.facts
    report.kind = "model"
    report.notes = [note for note in report.notes if not note.startswith(f"{model.reference}: {model.backend} on")]
    facts["backend"] = model.backend
    elements = sorted(model.elements)
    symbols = ", ".join(chemical_symbols[z] for z in elements)
    facts["elements"] = symbols if len(elements) <= 20 else f"{len(elements)}, {symbols[:60]}..."
    facts["forces"] = "minus the gradient of the energy" if model.conservative else "predicted directly, not a gradient"
    facts["runs as"] = f"{model.implementation or model.backend} on {model.device}"
    facts["digest"] = model.digest[:12]
    if is_path(model.reference):
        manifest = read_manifest(manifest_path(model.reference))
        facts["precision"] = manifest.weights.dtype
        if manifest.head is not None:
            facts["head"] = manifest.head
        for key in ("cutoff", "r_max"):
            if key in manifest.config:
                facts["cutoff"] = f"{manifest.config[key]} Å"
