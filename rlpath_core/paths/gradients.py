"""What a run says of a model whose forces are no gradient of its energy: what that means, and how large it is."""

from __future__ import annotations

from rlpath_core.paths.progress import Counters
from rlpath_core.paths.verdict import State, Verdict


def take_in(counters: Counters, verdict: Verdict | None) -> None:
    """Note how far the forces at a first-order saddle are from a gradient."""
    if verdict is None or verdict.state in (State.GUESS, State.CONVERGED):
        return
    for key, of in (("asymmetry", float), ("prefactor", _factor), ("disagreement", float)):
        value, known = getattr(verdict, key), getattr(counters, key)
        if value is not None:
            setattr(counters, key, max(of(value), known or 0.0))


def _factor(ratio: float) -> float:
    return max(ratio, 1 / ratio) if ratio > 0 else float("inf")


def beforehand(method: str) -> str:
    """What is done about it, in one line: ``method`` relaxes the ends."""
    return (
        "the model's forces are no gradient of its energy: a saddle is where the forces vanish, curvatures are those "
        "of the symmetric part of their derivatives, barriers are differences of energies there, and ends are relaxed "
        f"by {method}"
    )


def afterwards(counters: Counters) -> str:
    """How far the forces at this run's saddles were from a gradient, and what that means, in one line."""
    if counters.asymmetry is None:
        return "no first-order saddle was found: how far the model's forces are from a gradient was not measured"
    said = (
        "forces that are no gradient, at first-order saddles: the antisymmetric part of their derivatives is up to "
        f"{100 * counters.asymmetry:.3g} % of the symmetric part"
    )
    if counters.prefactor is not None:
        said += f", so that prefactors are uncertain by a factor of {counters.prefactor:.3g}"
    if counters.disagreement is None:
        return f"{said}; none came down to both sides, so that nothing is known of barriers"
    return (
        f"{said}; on the way down, the work of the forces and the fall of the energy differ by up to "
        f"{counters.disagreement:.3g} eV, by which barriers are uncertain"
    )
