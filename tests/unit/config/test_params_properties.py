"""``--params`` of any content: all ways to write a mapping agree, and later values replace earlier ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from rlpath_core.config import parse_params
from rlpath_core.errors import InputError

NAMES = st.text("abcdefgh_", min_size=1, max_size=3)
TEXTS = st.text(st.characters(codec="latin-1", categories=["L", "N", "P", "S", "Zs"]), max_size=8)
VALUES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXTS | st.lists(st.integers() | TEXTS, max_size=3)
MAPPINGS = st.recursive(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
    lambda inner: st.dictionaries(NAMES, VALUES | inner, min_size=1, max_size=3),
    max_leaves=6,
)


def leaves(mapping: dict[str, Any], at: str = "") -> list[tuple[str, Any]]:
    """Every value that is no mapping, with the dotted keys that lead to it."""
    out: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        out += leaves(value, f"{at}{key}.") if isinstance(value, dict) else [(f"{at}{key}", value)]
    return out


def laid_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """What the later one of two mappings leaves of the earlier, leaf by leaf."""
    result = dict(leaves(base))
    for key, value in leaves(over):
        parents = {".".join(key.split(".")[:n]) for n in range(1, key.count(".") + 1)}
        result = {k: v for k, v in result.items() if k != key and k not in parents and not k.startswith(f"{key}.")}
        result[key] = value
    return result


@given(MAPPINGS)
def test_inline_json_dotted_keys_and_files_say_the_same(mapping: dict[str, Any]) -> None:
    inline, _ = parse_params([json.dumps(mapping)])
    dotted, _ = parse_params([f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in leaves(mapping)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(yaml.safe_dump(mapping, allow_unicode=True), encoding="utf-8")
        from_file, source = parse_params([str(path)])
    assert inline == dotted == from_file == mapping
    assert source == path


@given(MAPPINGS, MAPPINGS)
def test_later_values_replace_earlier_ones(first: dict[str, Any], second: dict[str, Any]) -> None:
    merged, _ = parse_params([json.dumps(first), json.dumps(second)])
    assert dict(leaves(merged)) == laid_over(first, second)


@given(st.text(max_size=20))
def test_any_text_is_a_mapping_or_one_line(text: str) -> None:
    error = None
    try:
        value, _ = parse_params([text])
        assert isinstance(value, dict)
    except InputError as caught:
        error = caught
    assert "\n" not in str(error)
