"""Names that a config gives: registered ones, entry points of distributions, and what is wrong with a bad one."""

import sys

import pytest

from rlpath_core.errors import InputError
from rlpath_core.registry import Registry
from rlpath_core.testing.distribution import write_distribution

GROUP = "rlpath.tests"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A registry with one tool of rlpath's own, and a function that installs a distribution with more."""
    registry: Registry[object] = Registry("tool", GROUP)
    registry.register("hammer")("the hammer")

    def install(name, source, **points):
        monkeypatch.syspath_prepend(write_distribution(tmp_path / name, name, source, {GROUP: points}))
        return registry

    yield install
    for module in [m for m in sys.modules if m.startswith("rlpath_test_")]:
        del sys.modules[module]


def test_an_entry_point_is_listed_without_being_imported_and_imported_when_wanted(tools):
    registry = tools("rlpath_test_saw", "SAW = object()\n", saw="rlpath_test_saw:SAW")
    assert list(registry) == ["hammer", "saw"]
    assert "saw" in registry
    assert "rlpath_test_saw" not in sys.modules
    assert registry["saw"] is sys.modules["rlpath_test_saw"].SAW
    assert registry["hammer"] == "the hammer"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("", "AttributeError"),
    ],
)
def test_a_broken_entry_point_names_its_distribution(tools, source, error):
    registry = tools("rlpath_test_broken", source, saw="rlpath_test_broken:SAW")
    assert list(registry) == ["hammer", "saw"]
    with pytest.raises(InputError, match=rf"tool 'saw' of rlpath_test_broken 1\.0: .*rlpath_test_broken:SAW.*{error}"):
        registry["saw"]


def test_a_name_that_is_claimed_twice_is_nobodys(tools):
    registry = tools("rlpath_test_one", "X = 1\n", hammer="rlpath_test_one:X", plane="rlpath_test_one:X")
    tools("rlpath_test_two", "X = 2\n", plane="rlpath_test_two:X")
    with pytest.raises(InputError, match=r"tool 'hammer' is provided by rlpath and by rlpath_test_one 1\.0: "):
        registry["hammer"]
    with pytest.raises(InputError, match=r"rlpath_test_two 1\.0 and by rlpath_test_one 1\.0"):
        registry["plane"]
    assert registry["rlpath_test_two:X"] == 2


def test_an_unknown_name_is_answered_with_the_near_miss_and_all_names(tools):
    registry = tools("rlpath_test_saw", "SAW = 1\n", saw="rlpath_test_saw:SAW")
    with pytest.raises(InputError, match=r"no tool is called 'hamner'\. Did you mean 'hammer'\? Known: hammer, saw"):
        registry["hamner"]
    with pytest.raises(InputError, match="Did you mean 'saw'"):
        registry["sawn"]


def test_without_a_group_no_entry_point_is_known(tools):
    tools("rlpath_test_saw", "SAW = 1\n", saw="rlpath_test_saw:SAW")
    assert list(Registry("tool")) == []
