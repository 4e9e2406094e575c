"""A monotone curve: pools worked out by hand, and properties that hold for any data."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.model.monotone import MonotoneCurve, isotonic

VALUES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([3.0, 1.0], [2.0, 2.0]),
        ([1.0, 5.0, 3.0, 6.0], [1.0, 4.0, 4.0, 6.0]),
        ([4.0, 5.0, 0.0], [3.0, 3.0, 3.0]),
        ([7.0], [7.0]),
    ],
)
def test_violators_are_pooled(values: list[float], expected: list[float]) -> None:
    assert isotonic(values) == expected


@given(VALUES)
def test_isotonic_never_falls_and_keeps_the_sum(values: list[float]) -> None:
    corrected = isotonic(values)
    assert all(left <= right for left, right in pairwise(corrected))
    assert math.fsum(corrected) == pytest.approx(math.fsum(values))


def test_a_line_stays_a_line() -> None:
    curve = MonotoneCurve([0.0, 1.0, 3.0, 7.0], [5.0, 7.0, 11.0, 19.0])
    assert [curve(x) for x in (0.0, 0.5, 2.0, 6.25)] == pytest.approx([5.0, 6.0, 9.0, 17.5])


def test_slopes_of_uneven_steps() -> None:
    """x = 0, 1, 3; y = 0, 1, 5: secants 1 and 2, inner slope 9 / (5/1 + 4/2) = 9/7, first end slope (4*1 - 1*2)/3 = 2/3.

    Half way through the first piece a cubic Hermite curve is (0 + 1)/2 + (2/3 - 9/7)/8.
    """
    assert MonotoneCurve([0.0, 1.0, 3.0], [0.0, 1.0, 5.0])(0.5) == pytest.approx(0.5 + (2 / 3 - 9 / 7) / 8)


def test_flat_beside_a_peak_that_was_pooled_away() -> None:
    curve = MonotoneCurve([0.0, 1.0, 2.0, 3.0], [1.0, 5.0, 3.0, 6.0])
    assert {curve(x) for x in (1.0, 1.25, 1.5, 2.0)} == {4.0}


@given(VALUES, st.lists(st.floats(0.1, 100), min_size=12, max_size=12), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_monotone_continuous_and_through_the_points(values: list[float], steps: list[float], shares: list[float]) -> None:
    x = [math.fsum(steps[:index]) for index in range(len(values))]
    curve = MonotoneCurve(x, values)
    slack = 1e-9 * max(values)
    assert [curve(at) for at in x] == pytest.approx(isotonic(values))
    seen = [curve(x[0] + share * (x[-1] - x[0])) for share in sorted(shares)]
    assert all(right >= left - slack for left, right in pairwise(seen))
    for at in x[1:-1]:
        assert curve(math.nextafter(at, -math.inf)) == pytest.approx(curve(at), rel=1e-6)


def test_outside_the_nearest_end() -> None:
    curve = MonotoneCurve([10.0, 20.0], [3.0, 4.0])
    assert (curve(-5.0), curve(1e9)) == (3.0, 4.0)
