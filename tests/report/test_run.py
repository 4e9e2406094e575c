from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Reason, Role
from sla_planner.report.run import Change, Requests, RoleUse, changes


def test_the_saving_weighs_both_roles_by_their_gpus(tiny):
    # used 14 + 52; peak-sized 2 x 1 x 10 s + 4 x 2 x 10 s
    assert tiny.peak_gpu_s(Role.PREFILL) == 20
    assert tiny.peak_gpu_s(Role.DECODE) == 80
    assert tiny.saving == pytest.approx(0.34)


def test_no_saving_is_told_without_a_fleet_to_compare_with(tiny):
    assert replace(tiny, prefill=RoleUse(0.0, 0), decode=RoleUse(0.0, 0)).saving is None


@pytest.mark.parametrize(("attainment", "kept"), [(0.5, True), (0.51, False)])
def test_the_promise_is_kept_at_exactly_the_promised_share(tiny, attainment, kept):
    assert replace(tiny, promise=Sla(500.0, 50.0, attainment)).kept is kept


def test_a_share_that_binary_fractions_cannot_hold_is_still_kept(tiny):
    inside = np.arange(1000) < 990
    many = Requests(np.linspace(0, 9, 1000), np.full(1000, 10), np.full(1000, 100.0), np.full(1000, 10.0), inside)
    assert replace(tiny, requests=many, promise=Sla(500.0, 50.0, 0.99)).kept


def test_changes_are_the_roles_that_a_decision_resized_in_order(tiny):
    assert list(changes(tiny.ticks, tiny.start_s)) == [
        Change(4.0, Role.PREFILL, 1, 2, Reason.LOAD_UP, "load 0.8 -> 1.6"),
        Change(4.0, Role.DECODE, 2, 3, Reason.LOAD_UP, "load 0.8 -> 1.6"),
        Change(8.0, Role.PREFILL, 2, 1, Reason.LOAD_DOWN, "the grace period is over"),
    ]


def test_requests_out_of_order_are_refused():
    with pytest.raises(ValueError, match="order of arrival"):
        Requests(np.array([1.0, 0.5]), np.zeros(2, int), np.zeros(2), np.zeros(2), np.ones(2, bool))


def test_a_run_without_duration_is_refused(tiny):
    with pytest.raises(ValueError, match="longer than 0 s"):
        replace(tiny, duration_s=0)


def test_arrays_of_different_length_are_refused():
    with pytest.raises(ValueError, match="'ttft_ms': 1"):
        Requests(np.zeros(2), np.zeros(2, int), np.zeros(1), np.zeros(2), np.ones(2, bool))
