"""What a user lays over a generated object."""

import copy

import pytest

from sla_planner.request.made_patch import patched

GIVEN = {"a": 1, "b": {"c": 2, "d": [1, 2]}, "list": [{"name": "x", "v": 1, "env": [{"name": "p", "value": "1"}]}, {"name": "y"}]}


@pytest.mark.parametrize(
    ("patch", "changes"),
    [
        ({}, {}),
        ({"a": 5}, {"a": 5}),
        ({"b": {"c": None, "e": 3}}, {"b": {"d": [1, 2], "e": 3}}),
        ({"b": {"d": [3]}}, {"b": {"c": 2, "d": [3]}}),  # no names: replaced
        ({"b": "text"}, {"b": "text"}),
        ({"a": {"deep": {"gone": None, "there": 1}}}, {"a": {"deep": {"there": 1}}}),
        ({"new": {"gone": None}}, {"new": {}}),
        ({"list": [{"name": "z"}]}, {"list": [*GIVEN["list"], {"name": "z"}]}),
        ({"list": [{"name": "x", "v": None}]}, {"list": [{"name": "x", "env": [{"name": "p", "value": "1"}]}, {"name": "y"}]}),
        (
            {"list": [{"name": "x", "env": [{"name": "p", "value": "2"}, {"name": "q"}]}]},
            {"list": [{"name": "x", "v": 1, "env": [{"name": "p", "value": "2"}, {"name": "q"}]}, {"name": "y"}]},
        ),
        ({"list": []}, {"list": []}),
        ({"list": [{"key": "no name"}]}, {"list": [{"key": "no name"}]}),
    ],
)
def test_over_what_is_there(patch, changes):
    before = copy.deepcopy(GIVEN)
    assert patched(GIVEN, patch) == {**GIVEN, **changes}
    assert before == GIVEN
    assert patched(patched(GIVEN, patch), patch) == patched(GIVEN, patch)


def test_null_takes_a_key_away():
    assert patched(GIVEN, {"a": None, "never there": None}) == {key: value for key, value in GIVEN.items() if key != "a"}
