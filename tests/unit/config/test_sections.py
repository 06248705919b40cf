"""Sections: errors that keep their place, renamed keys, paths by annotation, comparison of configs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlpath_core.config import ModelReference, Section, check, first_change, located, read_layer
from rlpath_core.config import merge as laid_over
from rlpath_core.config.base import _report_renamed
from rlpath_core.errors import InputError


class Small(Section):
    hints = {"lr": "belongs to another trainer"}

    file: Path | None = None
    n: int = 0


class Large(Small):
    more: list[Path] = []
    by_name: dict[str, Small] = {}


class Short(Section):
    quick: Path | None = None


class Top(Section):
    renamed = {"old": "new"}
    shorthand = Short

    new: int = 1
    model: ModelReference | None = None
    models: list[ModelReference] = []
    text: str = ""
    kind: str = "small"
    part: Small = Small()

    @classmethod
    def chosen(cls, value: Mapping[str, Any]) -> dict[str, type[Section]]:
        return {"part": Large if value.get("kind") == "large" else Small}


def test_paths_belong_to_the_file_they_stand_in(tmp_path: Path) -> None:
    for name, text in {
        "a/base.yaml": "part: {file: x, n: 3}\nmodel: m\ntext: plain\nquick: q",
        "b/over.yaml": "kind: large\npart: {file: y, more: [z, /abs], by_name: {one: {file: w}}}\n"
        "models: [n, 'ase:a.B']",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    value = laid_over(read_layer(tmp_path / "a/base.yaml"), read_layer(tmp_path / "b/over.yaml"))
    assert located(value, Top) == {
        "kind": "large",
        "text": "plain",
        "quick": str(tmp_path / "a/q"),
        "model": str(tmp_path / "a/m"),
        "models": [str(tmp_path / "b/n"), "ase:a.B"],
        "part": {
            "n": 3,
            "file": str(tmp_path / "b/y"),
            "more": [str(tmp_path / "b/z"), "/abs"],
            "by_name": {"one": {"file": str(tmp_path / "b/w")}},
        },
    }
    assert located({"model": "m"}, Top, tmp_path) == {"model": str(tmp_path / "m")}


def test_the_chosen_section_checks_and_is_kept() -> None:
    small, large = check(Top, {"part": {"n": 1}}, "x"), check(Top, {"kind": "large", "part": {"more": ["p"]}}, "x")
    assert type(small.part) is Small
    assert large.part == Large(more=[Path("p")])
    part = Small(n=7)
    assert check(Top, {"part": part}, "x").part is part, "what is checked already is not checked again"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"part": {"n": "many"}}, r"x.yaml: part.n: .*valid integer.*, got 'many'"),
        ({"part": {"more": []}}, r"x.yaml: part.more: unknown key. Known: file, n"),
        ({"part": {"lr": 1}}, r"x.yaml: part.lr: belongs to another trainer$"),
        ({"part": 3}, r"x.yaml: part: expected a mapping of keys to values, got 3"),
        ({"kind": "large", "part": {"by_name": {"a": {"m": 1}}}}, r"x.yaml: part.by_name.a.m: unknown key"),
        ({"quik": "q"}, r"x.yaml: quik: unknown key. Did you mean 'quick'\?"),
        ({"old": 1, "new": 2}, r"x.yaml: old is the old name of new: give new alone"),
    ],
)
def test_errors_name_the_file_and_the_key(value: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check(Top, value, "x.yaml")


def test_a_renamed_key_is_accepted_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    _report_renamed.cache_clear()
    with caplog.at_level(logging.WARNING, "rlpath.config"):
        assert check(Top, {"old": 5}, "x").new == check(Top, {"old": 5}, "x").new == 5
    assert [record.message for record in caplog.records] == [
        "Top: the key old is now called new; the old name is accepted in this version only"
    ]


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, None),
        ({"a": {"b": 1}, "c": 1}, {"a": {"b": 2}, "c": 2}, ("a.b", 1, 2)),
        ({"a": {}}, {"a": {"b": 1}}, ("a.b", None, 1)),
        ({}, {"a": {}}, ("a", None, {})),
        ({"a": None}, {}, None),
        ({"a": 0}, {"a": None}, ("a", 0, None)),
        ({"a": [1, 2]}, {"a": [1]}, ("a", [1, 2], [1])),
    ],
)
def test_the_first_change(old: dict[str, Any], new: dict[str, Any], change: tuple[str, Any, Any] | None) -> None:
    assert first_change(old, new) == change
    if change is not None:
        assert first_change(old, new, lambda key: key.startswith(("a", "c"))) is None
