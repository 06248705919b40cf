"""A walker that is run again from its journal arrives where it was, whatever else has changed since."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep import checkpoint
from rlpath_core.lockstep.checkpoint import Codec
from rlpath_core.lockstep.hub import Evaluator, Hub, NotFiniteError
from rlpath_core.lockstep.replay import Journal
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.models import DyingModel, Interrupted
from rlpath_core.testing.systems import triclinic


def walk(journal: Journal, evaluate: Evaluator, known: set[str], events: list) -> None:
    """Steps downhill; asks twice what is known, and branches on the answer; a list of structures in between."""
    evaluate, ask = journal.replaying(evaluate), journal.remembering()
    structure, step = triclinic(), 0.02
    for k in range(6):
        prediction = evaluate(structure)
        if k == 2 and ask(lambda: sorted(known)):
            step = 0.01
        if k == 4:
            both = evaluate([structure, structure.moved(structure.positions + 0.01)])
            step *= 1 + abs(both[0].energy - both[1].energy) + len(ask(lambda: ("a", 1.1)))
        structure = structure.moved(structure.positions + step * np.asarray(prediction.forces))
        events.append((k, step, structure.positions.tobytes(), evaluate.calls))


def kept(journal: Journal, tmp_path) -> Journal:
    saved = json.loads(json.dumps(checkpoint.save(tmp_path, 1, {"journal": journal.state()}, {})))
    return Journal.from_state(checkpoint.load(tmp_path, saved, {})["journal"])


@pytest.mark.parametrize("after", range(1, 6))
def test_it_arrives_at_the_same_point_without_calls(tmp_path, after: int):
    known: set[str] = set()
    whole: list = []
    Hub(EMTModel()).run([lambda evaluate: walk(Journal(), evaluate, known, whole)])
    journal, events = Journal(), []
    with pytest.raises(Interrupted):
        Hub(DyingModel(after)).run([lambda evaluate: walk(journal, evaluate, known, events)])
    known |= {"found by another walker"} if after > 3 else set()
    model, again = EMTModel(), []
    resumed = kept(journal, tmp_path)
    Hub(model).run([lambda evaluate: walk(resumed, evaluate, known, again)])
    assert again == whole
    assert len(model.batches) == 6 + 1 - after
    assert kept(resumed, tmp_path).answers == resumed.answers


def test_answers_are_the_same_live_and_repeated():
    journal, given = Journal(), {"pair": ("B001", 0.1 + 0.2)}
    live = journal.remembering()(lambda: given)
    live["pair"].append("changed by the walker")
    assert journal.remembering()(lambda: None) == {"pair": ["B001", 0.1 + 0.2]}


def test_not_finite_is_repeated():
    bad = Prediction(float("nan"), np.zeros((2, 3)))
    journal, asked = Journal(), []

    def model(request):
        asked.append(request)
        return [bad]

    structure = Structure([29, 29], np.eye(3)[:2] * 3)
    for _ in range(2):
        with pytest.raises(NotFiniteError):
            journal.replaying(Evaluator(model))(structure)
    assert len(asked) == 1


def test_objects_of_named_kinds_survive_a_checkpoint(tmp_path):
    start = triclinic()
    codecs = {"structure": Codec(Structure, lambda one: one.positions, start.moved)}
    moved = start.moved(start.positions + 1 / 3)
    state = {"images": (start, [moved]), "n": np.int64(3), "names": {"B001": None}}
    saved = json.loads(json.dumps(checkpoint.save(tmp_path, 7, state, codecs)))
    checkpoint.save(tmp_path, 8, {}, codecs)
    checkpoint.tidy(tmp_path, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-7.npz"]
    again = checkpoint.load(tmp_path, saved, codecs)
    assert again["n"] == 3
    assert again["names"] == {"B001": None}
    assert np.array_equal(again["images"][1][0].positions, moved.positions)
    assert again["images"][0] == start
