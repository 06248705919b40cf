"""The findings about one file: facts in order, and what looks wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """What was found in one file.

    Attributes
    ----------
    name : str
        The file, as it was given.
    kind : str
        ``structure``, ``structures``, ``data set``, ``model``, or ``unreadable``.
    facts : dict of str to str
        In the order of the output.
    warnings : list of str
        What looks wrong, a sentence each.
    notes : list of str
        What the readers said on the way: what they counted, took, or left out.
    ids : list of str
        Content ids of labelled structures, by which copies in other files are found.
    error : str
        Why the file is refused; empty if it is not.
    """

    name: str
    kind: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    error: str = ""

    def lines(self) -> list[str]:
        """The report as text, one fact a line."""
        if self.error:
            return [f"{self.name}: refused", f"  error       {self.error}"]
        out = [f"{self.name}: {self.kind}"]
        out += [f"  {name:<11} {value}" for name, value in self.facts.items()]
        out += [f"  {'note':<11} {text}" for text in self.notes]
        out += [f"  {'warning':<11} {text}" for text in self.warnings]
        return out if self.warnings else [*out, "  nothing looks wrong"]

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.name,
            "kind": self.kind,
            "facts": self.facts,
            "notes": self.notes,
            "warnings": self.warnings,
            "error": self.error or None,
        }


def counted(n: int, noun: str) -> str:
    """``1 structure``, ``2 structures``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(values: list[Any], most: int = 6) -> str:
    """The first few of ``values``, and how many more there are."""
    shown = ", ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
