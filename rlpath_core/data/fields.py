"""Which of a file's named values are the energy and the forces, and what is said of the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.data.labelled import Labelled, LabelName
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure

log = logging.getLogger("rlpath.data")

SAME_ENERGY = 1e-5
"""eV: energies of two names that agree to this are one."""
UNUSED = {
    "stress": "stresses",
    "stresses": "stresses per atom",
    "virial": "virials",
    "virials": "virials",
    "REF_stress": "stresses",
    "REF_virials": "virials",
}
"""Labels that nothing here is trained on or compared with."""
WEIGHTS = ("config_weight", "config_energy_weight", "config_forces_weight")
"""Weights of single structures in mace's own training."""
CHARGES = ("charge", "total_charge", "REF_total_charge")
SPINS = ("spin", "total_spin", "multiplicity", "REF_total_spin")


@dataclass(frozen=True)
class LabelKeys:
    """The names under which a file has its labels; None: the usual ones of its format."""

    energy: str | None = None
    forces: str | None = None


USUAL_KEYS = LabelKeys()


class Remarks:
    """What is said of a file: each thing once, with the number of entries, or the first one where entries are read as
    they are asked for."""

    def __init__(self, path: Path, at_once: bool = False) -> None:
        self.path, self.at_once = path, at_once
        self._counts: Counter[str] = Counter()

    def add(self, entry: int, what: str) -> None:
        """``what`` goes on after "entry 3" or "3 of 5 entries"."""
        self._counts[what] += 1
        if self.at_once and self._counts[what] == 1:
            log.info("%s: entry %d: %s", self.path, entry, what)

    def say(self, n: int) -> None:
        """What was gathered from ``n`` entries."""
        for what, count in self._counts.items():
            log.info("%s: %s%s", self.path, f"{'all' if count == n else count} of {n} entries: " * (n > 1), what)


def labelled_of(
    structure: Structure,
    values: Mapping[str, Any],
    sid: str,
    keys: LabelKeys,
    usual: Mapping[LabelName, tuple[str, ...]],
    remark: Callable[[str], None],
) -> Labelled:
    """A structure with the labels that are among the ``values`` of its entry.

    Parameters
    ----------
    structure
        The structure of the entry.
    values
        Everything that the entry has under a name.
    sid
        Where it came from.
    keys
        The names that the user gave.
    usual
        The names of the format, the best first.
    remark
        Takes what is to be said of the entry.

    Returns
    -------
    Labelled
        Labels that are not there, or not finite, are None, and ``missing`` says why.
    """
    names = {
        "energy": _chosen("energy", values, keys.energy, usual["energy"], remark),
        "forces": _chosen("forces", values, keys.forces, usual["forces"], remark),
    }
    missing: dict[LabelName, str] = {}
    _check_pair(names, values, keys, missing)
    energy = _energy(values, names["energy"], missing)
    forces = None if names["forces"] is None else np.asarray(values[names["forces"]], dtype=float)
    if forces is not None and not np.isfinite(forces).all():
        forces, missing["forces"] = None, "forces hold a value that is not a finite number"
    if energy is None and "energy" not in missing:
        missing["energy"] = _lacks("energy", values, keys.energy, usual["energy"], len(structure))
    if forces is None and "forces" not in missing:
        missing["forces"] = _lacks("forces", values, keys.forces, usual["forces"], len(structure))
    _say_of_the_rest(values, remark, (names["energy"], names["forces"]))
    return Labelled(structure, energy, forces, sid, missing)


def _chosen(
    name: LabelName,
    values: Mapping[str, Any],
    key: str | None,
    usual: tuple[str, ...],
    remark: Callable[[str], None],
) -> str | None:
    if key is not None:
        return key if values.get(key) is not None else None
    there = [one for one in usual if values.get(one) is not None]
    if not there:
        return None
    first = there[0]
    for other in there[1:]:
        if {first, other} == {"energy", "free_energy"} and _same(values[first], values[other]):
            continue
        remark(f"{other} is there beside {first}, which is taken (data.{name}_key takes another)")
    if len(there) == 1 and (first.startswith("REF_") or first in usual[2:]):
        remark(f"{'energy is' if name == 'energy' else 'forces are'} read from {first}: there is no other")
    return first


def _same(a: Any, b: Any) -> bool:
    try:
        return abs(float(a) - float(b)) < SAME_ENERGY
    except (TypeError, ValueError):
        return False


def _check_pair(
    names: dict[str, str | None], values: Mapping[str, Any], keys: LabelKeys, missing: dict[LabelName, str]
) -> None:
    """Energy and forces of two methods are no pair: where one is there twice and the other once, the one that is there
    once may belong to either."""
    for name, other in (("energy", "forces"), ("forces", "energy")):
        chosen, partner = names[name], names[other]
        if keys.energy or keys.forces or chosen is None or partner is None:
            continue
        twice = chosen == f"REF_{name}" and values.get(name) is not None
        if twice and not partner.startswith("REF_"):
            names[other] = None
            missing[other] = (  # type: ignore[index]
                f"has REF_{name} beside {name}, and {partner} alone, which may belong to either: name the two that "
                "belong together with data.energy_key and data.forces_key"
            )


def _energy(values: Mapping[str, Any], name: str | None, missing: dict[LabelName, str]) -> float | None:
    if name is None:
        return None
    try:
        energy = float(np.asarray(values[name], dtype=float).reshape(()))
    except (TypeError, ValueError) as error:
        raise InputError(f"its {name} is not one number ({error})") from error
    if not np.isfinite(energy):
        missing["energy"] = f"the energy is not a finite number, got {energy}"
        return None
    return energy


def _lacks(name: LabelName, values: Mapping[str, Any], key: str | None, usual: tuple[str, ...], n_atoms: int) -> str:
    """That the label is not there, and what may be meant for it."""

    def fits(value: Any) -> bool:
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            return False
        return array.size == 1 if name == "energy" else array.shape == (n_atoms, 3)

    word = "energ" if name == "energy" else "forc"
    candidates = [one for one, value in values.items() if (word in one.lower() or one.startswith("y_")) and fits(value)]
    what = f"has no {key or ' or '.join(usual)}"
    if not candidates:
        return what
    return f"{what}, but {', '.join(candidates[:5])} (name one with data.{name}_key)"


def _say_of_the_rest(
    values: Mapping[str, Any], remark: Callable[[str], None], taken: tuple[str | None, str | None]
) -> None:
    unused = sorted({UNUSED[name] for name in values if name in UNUSED and name not in taken})
    if unused:
        remark(f"{' and '.join(unused)} are not used")
    weights = [name for name in WEIGHTS if name in values and not _same(values[name], 1)]
    if weights:
        remark(f"{' and '.join(weights)} are not used: all structures weigh the same")
    if str(values.get("config_type", "")) == "IsolatedAtom":
        remark(
            "config_type is IsolatedAtom, which mace_run_train takes for the energy of a free atom and leaves out; "
            "here it is a structure like others (free atoms: e0_values of model.json)"
        )


def say_charged(values: Mapping[str, Any], remark: Callable[[str], None]) -> None:
    """Charge and spin, in files that nobody else looks at for them."""
    if any(name in values and not _same(values[name], 0) for name in CHARGES):
        remark("a charge other than 0, of which the models know nothing")
    if any(name in values and not (_same(values[name], 0) or _same(values[name], 1)) for name in SPINS):
        remark("a spin other than that of a closed shell, of which the models know nothing")


def text_of(value: Any) -> str:
    """An id that is a string, a number, or a tensor or array of one number."""
    array = np.asarray(value) if hasattr(value, "reshape") else None
    return str(value if array is None or array.size != 1 else array.reshape(()).item())
