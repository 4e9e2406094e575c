"""Killed before any call to the cluster, or with another reconciler between any two: the end is the same, and nothing is made twice.

`tests/request/scenarios.py` says what happens; each of its stories is told once per place where the reconciler can be cut off.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .scenarios import SCENARIOS
from .world import MOST_PASSES, Reconciler, World, settle


class Killed(Exception):
    pass


class Mortal(Reconciler):
    """Dies before the calls whose numbers are in `at`, once each; whoever comes next remembers nothing."""

    def __init__(self, world, at=()):
        super().__init__(world)
        self.at, self.calls = frozenset(at), count()

    def pass_over(self, name):
        inner, sent = super().pass_over(name), None
        while True:
            try:
                call = inner.send(sent)
            except StopIteration as end:
                return end.value
            if next(self.calls) in self.at:
                raise Killed(call)
            sent = yield call


def told(name, at=()):
    """(world, calls) after the story."""
    world = World()
    reconciler = Mortal(world, at)
    for move in SCENARIOS[name][0]:
        move(world)
        _settled(world, reconciler)
    return world, next(reconciler.calls)


@cache
def undisturbed(name):
    """(picture, made, told, calls) of the story with nobody killed."""
    world, calls = told(name)
    return world.picture(), world.made, says(world), calls


def same_as_undisturbed(world, name, how=""):
    picture, made, said, _ = undisturbed(name)
    assert world.picture() == picture, how
    assert world.made == made, how
    assert says(world) <= said, how  # an Event may be lost, none is told twice


def _settled(world, reconciler):
    for _ in range(MOST_PASSES):
        try:
            settle(world, reconciler)
        except Killed:
            continue
        return
    raise AssertionError("killed more often than there are places")


def says(world):
    """How often each reason was told about each request."""
    return Counter((name, said.reason) for name, said in world.events)


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_ends_the_same(name):
    *_, calls = undisturbed(name)
    for place in range(calls):
        same_as_undisturbed(told(name, [place])[0], name, f"killed before call {place}")


@given(name=st.sampled_from(sorted(SCENARIOS)), places=st.sets(st.integers(0, 150), max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_killed_again_and_again_ends_the_same(name, places):
    same_as_undisturbed(told(name, places)[0], name)


def two_at_once(name, turns):
    """The story with two reconcilers; `turns` says whose call is next, over and over."""
    world = World()
    for move in SCENARIOS[name][0]:
        move(world)
        _both_settled(world, turns)
    return world


def _both_settled(world, turns):
    both, turn = [Reconciler(world), Reconciler(world)], 0
    for _ in range(MOST_PASSES):
        names = list(world.requests)
        running = [_round(reconciler, names) for reconciler in both]
        left, unrest = [True, True], False
        while any(left):
            chosen = turns[turn % len(turns)]
            turn += 1
            chosen = chosen if left[chosen] else 1 - chosen
            try:
                next(running[chosen])
            except StopIteration as end:
                left[chosen] = False
                unrest = unrest or end.value
        if not unrest:
            return
    raise AssertionError("two reconcilers do not come to rest")


def _round(reconciler, names):
    left = False
    for name in names:
        left = bool((yield from reconciler.pass_over(name))) or left
    return left


@given(name=st.sampled_from(sorted(SCENARIOS)), turns=st.lists(st.integers(0, 1), min_size=1, max_size=30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_two_at_once_end_the_same(name, turns):
    same_as_undisturbed(two_at_once(name, turns), name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_that_are_one_call_apart_end_the_same(name):
    """The two are `apart` calls from each other all the way, for every distance that there is in a pass."""
    for apart in range(1, 16):
        same_as_undisturbed(two_at_once(name, [0] * apart + [0, 1] * 40), name, f"{apart} calls apart")
