"""Searches by libraries: the contract, and what each does with its library."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest

from rlpath_core.errors import InputError
from rlpath_core.paths.options import BandOptions, DimerOptions, PathsConfig, SellaOptions
from rlpath_core.paths.preflight import check_config
from rlpath_core.paths.searches import SEARCHES, Search
from rlpath_core.testing.search import SearchSuite

try:
    import sella
except ImportError:
    sella = None
needs_sella = pytest.mark.skipif(sella is None, reason="the package sella is not installed in this environment")


@needs_sella
class TestSella(SearchSuite):
    @pytest.fixture(params=["unit", "lindh"])
    def search(self, request: pytest.FixtureRequest) -> Callable[..., Search]:
        return lambda **options: SEARCHES["sella"](SellaOptions(hessian=request.param, **options))


class TestDimer(SearchSuite):
    overlap = 0.9

    @pytest.fixture
    def search(self) -> Callable[..., Search]:
        return lambda **options: SEARCHES["dimer"](DimerOptions(**options))


class TestBand(SearchSuite):
    """With a hand-over to another search, and without."""

    @pytest.fixture(params=["minmode", pytest.param("sella", marks=needs_sella), "dimer", None])
    def search(self, request: pytest.FixtureRequest) -> Callable[..., Search]:
        return lambda **options: SEARCHES["band"](BandOptions(hand_over=request.param, **options))


def test_without_sella(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "sella":
            raise ImportError("no module named sella")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'rlpath\[sella\]'"):
        SEARCHES["sella"](SellaOptions())
    with pytest.raises(InputError, match=r"^mine\.yaml: paths\.searches\.sella: the search `sella` needs"):
        check_config(PathsConfig(searches={"sella": {}}), "mine.yaml", "paths.")
