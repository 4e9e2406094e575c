"""The adaptive level: hand-derived steps, and what it must do on jumps, dips and noise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.plan.level import AdaptiveLevel

SETTLED = AdaptiveLevel(level=1.8, variance=0.5, count=1000)  # (l + 0.2) * v = 1, so that z = x - 1.8


def after(*values: float) -> AdaptiveLevel:
    level = AdaptiveLevel()
    for value in values:
        level = level.observe(value)
    return level


def test_first_value_is_the_level() -> None:
    assert after(7.0).level == 7.0


def test_few_values_are_averaged() -> None:
    # v (l + 0.2) = 0.1 * 10.2 = 1.02 after the first, so 10.6 is within 1.5 sigma: the gain is 1/2, the mean of two.
    assert after(10.0, 10.6).level == pytest.approx(10.3)


@pytest.mark.parametrize(
    ("x", "level"),
    [
        (2.8, 2.0),  # z = 1: gain 0.2
        (3.3, 2.1),  # z = 1.5: still 0.2
        (4.05, 3.15),  # z = 2.25: half way up the ramp, gain 0.6
        (4.8, 4.8),  # z = 3: gain 1
        (11.8, 11.8),  # far beyond: gain 1
        (0.0, 1.44),  # z = -1.8 counts as 0.9: gain 0.2
    ],
)
def test_gain_rises_with_the_innovation(x: float, level: float) -> None:
    assert SETTLED.observe(x).level == pytest.approx(level)


def test_a_drop_needs_twice_the_surprise() -> None:
    # (9.8 + 0.2) * 0.1 = 1: z = x - 9.8. A rise of 3 is followed at once, a drop of 3 (counts as 1.5) with gain 0.2, a drop of 6 at once.
    settled = AdaptiveLevel(9.8, 0.1, 1000)
    assert settled.observe(12.8).level == pytest.approx(12.8)
    assert settled.observe(6.8).level == pytest.approx(9.2)
    assert settled.observe(3.8).level == pytest.approx(3.8)


def test_a_jump_raises_the_variance_at_most_by_eight_tenths() -> None:
    # (min(e, 9 v) - v) * 0.1 = 0.8 v
    assert SETTLED.observe(500.0).variance == pytest.approx(0.9)
    assert SETTLED.observe(1.8).variance == pytest.approx(0.45)


def test_a_second_jump_is_not_hidden_by_the_first() -> None:
    level = after(*[1.0, 1.2, 0.9, 1.1] * 25, *[8.0] * 10)
    assert level.level == pytest.approx(8.0, rel=0.01)
    assert level.observe(20.0).level == pytest.approx(20.0)


def test_constant_series_then_jump() -> None:
    assert after(*[2.0] * 500, 9.0).level == pytest.approx(9.0)


def test_scatter_around_a_constant_is_smoothed() -> None:
    levels = []
    level = AdaptiveLevel()
    for i in range(400):
        level = level.observe(10.0 + (1.0 if i % 2 else -1.0))
        levels.append(level.level)
    assert max(abs(value - 10.0) for value in levels[100:]) < 0.25


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=60))
def test_level_stays_within_what_was_seen(values: list[float]) -> None:
    level = after(*values)
    rounding = 1e-9 * max(values)
    assert min(values) - rounding <= level.level <= max(values) + rounding
    assert level.level >= 0
    assert math.isfinite(level.variance)
    assert level.count == len(values)
