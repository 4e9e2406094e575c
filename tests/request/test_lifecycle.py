"""Requests from beginning to end in a small cluster."""

from __future__ import annotations

import pytest

from .scenarios import SCENARIOS
from .world import World, settle


def played(name):
    """The world after all moves; the reconciler has come to rest after each."""
    world, reconciler = World(), None
    for move in SCENARIOS[name][0]:
        move(world)
        reconciler = settle(world, reconciler)
    return world


@pytest.mark.parametrize("name", SCENARIOS)
def test_ends_as_it_should(name):
    _, state, reason = SCENARIOS[name]
    world = played(name)
    if state is None:
        assert "x" not in world.requests
        return
    assert world.state() == state
    assert world.condition("Succeeded").get("reason", "") == reason
    assert world.requests["x"]["status"].get("observedGeneration") == (world.requests["x"]["metadata"]["generation"] if reason else None)


@pytest.mark.parametrize("name", SCENARIOS)
def test_makes_each_object_once(name):
    made = played(name).made
    most = 2 if name == "deleted and made anew" else 1
    assert all(count <= most for count in made.values()), made
