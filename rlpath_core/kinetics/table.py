"""The steps of a network as a table in plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rlpath_core.kinetics.balance import Balance
from rlpath_core.kinetics.rates import Step


def step_table(steps: Sequence[Step], balance: Balance | None = None, temperature: float = 300.0) -> str:
    """One line for each step: ends, barriers there and back (eV), prefactors, rates (1/s), copies, state.

    Below it stand the reasons why a step has no rate, what makes a rate doubtful, and how well detailed balance holds.

    Parameters
    ----------
    steps
    balance
        Of these steps; None says nothing of it.
    temperature
        K. Steps that were not computed at it show the rates of their nearest temperature, which the heading names.
    """
    if not steps:
        return "no step\n"
    known = steps[0].temperatures
    shown = min(range(len(known)), key=lambda k: (abs(known[k] - temperature), k))
    rate = f"k({known[shown]:g} K) 1/s"
    rows = [["step", "from", "to", "barrier eV", "back", "nu 1/s", "back", rate, "back", "copies", "state"]]
    for step in steps:
        rates = ("-", "-") if step.rates is None else [f"{k:.2e}" for k in step.rates[shown]]
        factors = ("-", "-") if step.prefactor is None else [f"{nu:.2e}" for nu in step.prefactor]
        there, back = step.degeneracy
        rows.append(
            [step.name, step.start, step.end, *(f"{b:.3f}" for b in step.barrier), *factors, *rates]
            + [f"{there}" if there == back else f"{there}/{back}", step.state.replace("_", " ")]
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    left = {0, 1, 2, len(widths) - 1}
    lines = [
        "  ".join(
            cell.ljust(w) if k in left else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines += [f"{step.name} has no rate: {step.missing}" for step in steps if step.missing]
    doubts = list(dict.fromkeys(note for step in steps for note in step.notes))
    if balance is not None and balance.violation:
        name, by = balance.worst
        doubts.append(f"detailed balance: ln(k / k_back) is off by {by:.1e} at most ({name})")
    return "\n".join(line.rstrip() for line in [*lines, *doubts]) + "\n"
