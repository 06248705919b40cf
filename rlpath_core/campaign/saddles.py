"""Saddles in a round: searches with the model of the round before, and labels that confirm what they found.

A saddle is labelled first. Only where the reference has a small force there, labels go to the points along the mode,
which show the reference's curvature, and to the ends of the step, which show its barriers.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.files import write_json
from rlpath_core.progress import Progress
from rlpath_core.store import Store, saddles
from rlpath_core.store.records import ModelSaddle
from rlpath_core.structure import Structure

if TYPE_CHECKING:
    from rlpath_core.campaign.layout import Layout

log = logging.getLogger("rlpath.campaign")

TOTALS = ("searches", "minima", "saddles", "force_calls")
"""What a round keeps of the summary of its searches."""
MINIMA = 64
"""Basins of a round's sampling that searches begin from, the lowest ones."""
NEARLY = 0.5
"""eV/Å: a reference force below it at a saddle of an earlier model promises that a better model's saddle stands."""
TURNS = 3
"""Times that a round's saddles and what proves them are given to the reference, one after the other."""


def find_paths(campaign: Layout, round_index: int, progress: Progress | None = None) -> dict[str, Any]:
    """Search saddles from the minima of all rounds and of this round's sampling, and queue what is worth a label.

    A model by which nothing comes to rest, as a first one of direct forces may be, has no saddles to search: the round
    goes on without.
    """
    began = time.monotonic()
    from rlpath_core.paths import find_paths as search
    from rlpath_core.paths.given import NoMinimumError
    from rlpath_core.paths.record import SEARCHES

    config = campaign.config
    assert config.paths is not None
    run_dir = campaign.paths_folder(round_index)
    with campaign.store() as store:
        minima, joined = _sampled(campaign, round_index)
        try:
            summary = search(
                config.paths,
                campaign.load(campaign.manifest(round_index - 1)),
                minima,
                run_dir,
                store,
                seed=1000 * config.seed + round_index,
                run_id=f"paths/round-{round_index}",
                round=round_index,
                resume=(run_dir / SEARCHES).exists(),
                progress=progress,
                joined=joined,
            )
        except NoMinimumError as error:
            log.warning("round %d searches no saddles: %s", round_index, error)
            totals = dict.fromkeys(TOTALS, 0) | {"stop_reason": "no_minimum"}
        else:
            totals = {key: getattr(summary, key) for key in (*TOTALS, "stop_reason")}
    return {**totals, "seconds": {"paths": time.monotonic() - began}}


def _sampled(campaign: Layout, round_index: int) -> tuple[list[Structure], dict[tuple[int, int], int]]:
    """The campaign's first structure and the lowest basins of the round's sampling; which an action joined, how often.

    Searches take place on one surface: that of the first structure.
    """
    from rlpath_core.paths.command import minima_of_runs
    from rlpath_core.paths.identity import same_surface
    from rlpath_core.structure import read_structures

    first = read_structures(campaign.config.structure)[0]
    try:
        found = minima_of_runs(campaign.folder, campaign.sampling_folder(round_index))
    except InputError:  # the round found no basin
        return [first], {}
    same = [k for k, structure in enumerate(found.structures) if same_surface(structure, first, first.fixed)][:MINIMA]
    if len(same) < len(found.structures):
        log.info("saddle searches begin from the %d lowest basins on the first structure's surface", len(same))
    place = {k: n for n, k in enumerate(same, start=1)}
    joined = {(place[i], place[j]): n for (i, j), n in found.joined.items() if i in place and j in place}
    return [first, *(found.structures[k] for k in same)], joined


def label_steps(campaign: Layout, store: Store, round_index: int, calculate: Callable[[], object]) -> int:
    """Label saddles of this round within their share of the budget, and what proves those that stand.

    In turns, so that the next labels go where the last ones say: the points along the mode and the ends of saddles at
    which the reference force is small come first, then further saddles. What is left of the share
    after ``TURNS`` is for other candidates; what is left of the searches' candidates is skipped.

    Parameters
    ----------
    campaign, store, round_index
        The round.
    calculate
        Labels what is selected.

    Returns
    -------
    int
        How many structures of this round's searches were selected.
    """
    from rlpath_core.outbox import select_chosen, skip_rest

    folder = campaign.paths_folder(round_index)
    share = int(campaign.config.saddle_share * campaign.config.labels_per_round)
    config = campaign.config.outbox.model_copy(update={"budget": share})
    chosen: list[str] = []
    for turn in range(TURNS):
        plan = folder / f"labels-{turn}.json"
        if not plan.exists():  # kept, so that a killed round goes on as it would have
            standing = compare(campaign, store, round_index)
            wanted = [one for one in _proofs(store, round_index, standing) if one not in chosen] if turn else []
            if turn < TURNS - 1:
                further = [one for one in _to_label(store, round_index) if one not in chosen]
                wanted += further[: max(0, (share - len(chosen) - len(wanted) + 1) // 2)]
            write_json(plan, wanted)
        wanted = json.loads(plan.read_text(encoding="utf-8"))
        before, chosen = chosen, select_chosen(store, folder, wanted, config, round_index=round_index)
        if len(chosen) > len(before):
            calculate()
    compare(campaign, store, round_index)
    skip_rest(store, folder, round_index=round_index)
    return len(chosen)


def _to_label(store: Store, round_index: int) -> list[str]:
    """Saddles of this round that no reference has confirmed yet, those that a label is most likely to confirm first.

    These are the ones at which the reference force was small when an earlier model's were labelled, the smallest first;
    then new ones, the lowest first. Last come those where it was large, and those lower than the first minimum of the
    catalogue, which is the campaign's own structure relaxed: a young model invents such places.
    """
    confirmed = {saddle.name for saddle in saddles.confirmed_steps(store)}
    earlier: dict[str, float] = {}
    for saddle in saddles.model_saddles(store):  # oldest first: the newest counts
        if saddle.reference is not None:
            earlier[saddle.name] = saddle.reference.fmax
    network = saddles.network(store, round_index)
    minima = [] if network is None else [one for one in network.minima if one.status == "present"]
    floor = minima[0].energy if minima else -np.inf

    def order(saddle: ModelSaddle) -> tuple[int, float]:
        fmax = earlier.get(saddle.name)
        if fmax is not None:
            return (0 if fmax < NEARLY else 2), fmax
        return (1 if saddle.energy > floor else 3), saddle.energy

    found = [saddle for saddle in _present(store, round_index) if saddle.name not in confirmed]
    return [saddle.structure_id for saddle in sorted(found, key=order)]


def _proofs(store: Store, round_index: int, standing: Sequence[ModelSaddle]) -> list[str]:
    """What proves saddles: one side of each, enough for the curvature's sign, then the ends, then the other sides."""
    network = saddles.network(store, round_index)
    minima = {} if network is None else {minimum.name: minimum.structure_id for minimum in network.minima}
    wanted = [saddle.plus_id for saddle in standing]
    wanted += [minima[name] for saddle in standing for name in (saddle.start, saddle.end)]
    return list(dict.fromkeys([*wanted, *(saddle.minus_id for saddle in standing)]))


def compare(campaign: Layout, store: Store, round_index: int) -> list[ModelSaddle]:
    """Write down what the labels say of saddles; returns those of this round at which the reference force is small."""
    from rlpath_core.paths.confirmation import confirm

    assert campaign.config.paths is not None
    compared = confirm(store, round_index, campaign.config.paths.verify.reference_fmax)
    return [one for one in compared if one.reference is not None and one.reference.fmax < one.reference.tolerance]


def write_steps(campaign: Layout, store: Store) -> Path | None:
    """The newest round's network, with what the reference confirmed, as files and pictures in ``network/``.

    Returns the folder; None as long as no round has searched saddles.
    """
    from rlpath_core.kinetics.files import JSON, read_network, write_network
    from rlpath_core.viz.saddle_network import draw_network

    assert campaign.config.paths is not None
    rounds = [k for k in range(1, campaign.config.rounds + 1) if (campaign.paths_folder(k) / JSON).exists()]
    if not rounds:
        return None
    network = read_network(campaign.paths_folder(rounds[-1]) / JSON)
    confirmed = {saddle.name: saddle for saddle in saddles.confirmed_steps(store)}
    steps = []
    for step in network.saddles:
        if (known := confirmed.get(step.name)) is not None and known.reference is not None:
            said = {"round": known.round, **asdict(known.reference)}
            step = replace(step, state="reference_confirmed", evidence=step.evidence | {"reference": said})
        steps.append(step)
    network = replace(network, saddles=tuple(steps))
    folder = campaign.folder / "network"
    write_network(network, folder, campaign.config.paths.kinetics)
    draw_network(network, folder, campaign.config.paths.kinetics)
    return folder


def _present(store: Store, round_index: int) -> list[ModelSaddle]:
    return [saddle for saddle in saddles.model_saddles(store, round_index) if saddle.status == "present"]
