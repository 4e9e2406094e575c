from __future__ import annotations

import pytest

from sla_planner.plan.history import observed_windows
from sla_planner.plan.observation import Kind


def test_requests_become_the_windows_they_arrived_in():
    windows = list(observed_windows([0.0, 3.0, 9.9, 25.0, 31.0], [100, 200, 300, 50, 1], [10, 20, 60, 5, 1], interval_s=10.0))
    assert [w.request_rate_rps.value for w in windows] == [0.3, 0.0, 0.1]
    assert [w.at_s for w in windows] == [-20.0, -10.0, 0.0]
    assert windows[0].isl_tokens.value == pytest.approx(200)
    assert windows[0].osl_tokens.value == pytest.approx(30)
    assert windows[1].isl_tokens.kind is Kind.UNKNOWN
    assert windows[0].ttft_ms.kind is Kind.UNKNOWN


def test_lengths_are_counted_by_bucket():
    (window,) = observed_windows([0.0, 1.0, 2.0, 11.0], [100, 100, 5000, 1], [10, 10, 10, 1], interval_s=10.0)
    assert window.isl_lengths is not None
    seen = {edge: count for edge, count in zip(window.isl_lengths.upper_tokens, window.isl_lengths.requests, strict=True) if count}
    assert list(seen.values()) == [2.0, 1.0]
    assert min(seen) >= 100 > min(seen) / 2
    assert window.isl_lengths.total_tokens == 5200
