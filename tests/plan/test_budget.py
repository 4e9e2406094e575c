"""The GPU budget: known cases, an independent enumeration, properties."""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.errors import UsageError
from sla_planner.plan.budget import Fitted, check_limits, fit
from sla_planner.plan.decision import Reason
from sla_planner.plan.settings import RoleLimits

Pair = tuple[int, int]


def limits(gpus: Pair = (1, 1), least: Pair = (1, 1), most: tuple[int | None, int | None] = (None, None)) -> tuple[RoleLimits, RoleLimits]:
    prefill, decode = (RoleLimits(least[i], most[i], gpus[i]) for i in (0, 1))
    return prefill, decode


def granted(need: Pair, budget: int, gpus: Pair = (1, 1), least: Pair = (1, 1), running: Pair = (0, 0)) -> Pair:
    fitted = fit(need, limits(gpus, least), budget, running)
    return fitted.prefill, fitted.decode


@pytest.mark.parametrize(
    ("need", "budget", "gpus", "expected"),
    [
        ((4, 4), 8, (1, 1), (4, 4)),  # exactly the budget
        ((5, 3), 8, (1, 1), (5, 3)),
        ((3, 5), -1, (1, 1), (3, 5)),  # unlimited
        ((1, 21), 16, (1, 1), (1, 15)),
        ((2, 2), 3, (1, 1), (1, 2)),  # a tie goes to decode
        ((2, 2), 5, (2, 2), (1, 1)),  # 4 of 5 GPUs: a fifth is no use
        ((10, 10), 9, (1, 2), (3, 3)),
        ((24, 24), 22, (8, 8), (1, 1)),  # proportional rounding gives 32 GPUs here
    ],
)
def test_known_shares(need: Pair, budget: int, gpus: Pair, expected: Pair) -> None:
    assert granted(need, budget, gpus) == expected


def test_minimums_come_first() -> None:
    assert granted((10, 10), 5, least=(2, 1)) == (2, 3)
    assert granted((1, 40), 8, least=(3, 1)) == (3, 5)


def test_two_gpu_decode_workers_never_exceed_eight_gpus() -> None:
    # (1P, 4D) would be 9 GPUs.
    for need in product(range(1, 12), repeat=2):
        prefill, decode = granted(need, 8, gpus=(1, 2))
        assert prefill + 2 * decode <= 8


def test_what_limits_a_role_is_named() -> None:
    assert fit((5, 2), limits(most=(3, None)), -1, (1, 1)) == Fitted(3, 2, prefill_limited_by=Reason.CEILING)
    assert fit((0, 0), limits(least=(1, 2)), -1, (1, 1)) == Fitted(1, 2, Reason.FLOOR, Reason.FLOOR)
    assert fit((2**40, 2), limits(), -1, (1, 1)) == Fitted(2**31 - 1, 2, prefill_limited_by=Reason.CEILING)  # `replicas` is an int32
    assert fit((4, 4), limits(), 4, (0, 0)) == Fitted(2, 2, Reason.BUDGET, Reason.BUDGET)
    assert fit((9, 1), limits(most=(4, None)), 4, (0, 0)) == Fitted(3, 1, prefill_limited_by=Reason.BUDGET)


def test_a_maximum_does_not_make_its_role_look_served() -> None:
    # 4 of 10 prefill is 40 %, so the fifth and sixth GPU are better spent there than on decode beyond 50 %.
    fitted = fit((10, 4), limits(most=(4, None)), 6, (0, 0))
    assert (fitted.prefill, fitted.decode) == (4, 2)


def test_gpus_move_between_roles_in_two_steps() -> None:
    first = fit((2, 6), limits(), 8, running=(6, 2))
    assert first == Fitted(2, 2, decode_limited_by=Reason.BUDGET, awaited_gpus=4)
    assert fit((2, 6), limits(), 8, running=(4, 2)) == Fitted(2, 4, decode_limited_by=Reason.BUDGET, awaited_gpus=2)
    assert fit((2, 6), limits(), 8, running=(2, 2)) == Fitted(2, 6)


def test_a_missing_role_comes_back_when_gpus_are_free() -> None:
    assert granted((4, 4), 8, running=(8, 0)) == (4, 0)
    assert granted((4, 4), 8, running=(4, 0)) == (4, 4)


def test_nothing_grows_while_more_runs_than_the_budget_allows() -> None:
    assert granted((4, 4), 8, running=(1, 9)) == (1, 4)


@pytest.mark.parametrize(
    ("prefill", "decode", "budget", "message"),
    [
        (RoleLimits(2, None, 4), RoleLimits(1, None, 8), 15, "GPU budget 15 is below the 16 GPUs"),
        (RoleLimits(3, 2), RoleLimits(), -1, "prefill: maximum of 2 workers is below the minimum of 3"),
        (RoleLimits(), RoleLimits(gpus_per_worker=0), -1, "decode: 0 GPUs per worker"),
        (RoleLimits(min_workers=-1), RoleLimits(), -1, "prefill: minimum of -1"),
    ],
)
def test_impossible_limits_are_refused(prefill: RoleLimits, decode: RoleLimits, budget: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_limits(prefill, decode, budget)
    with pytest.raises(UsageError, match=message):
        fit((1, 1), (prefill, decode), budget, (1, 1))


def best_ratios(need: Pair, both: tuple[RoleLimits, RoleLimits], budget: int) -> tuple[Fraction, Fraction]:
    """Worst ratio and sum of ratios of the best pair, by looking at every pair of the rectangle."""

    def ratio(workers: int, role_need: int) -> Fraction:
        return Fraction(1) if workers >= role_need else Fraction(workers, role_need)

    best = (Fraction(-1), Fraction(-1))
    for p, d in product(range(13), repeat=2):
        inside = all(role.min_workers <= n <= (12 if role.max_workers is None else role.max_workers) for n, role in zip((p, d), both, strict=True))
        if inside and p * both[0].gpus_per_worker + d * both[1].gpus_per_worker <= budget:
            ratios = ratio(p, need[0]), ratio(d, need[1])
            best = max(best, (min(ratios), sum(ratios, Fraction(0))))
    return best


@pytest.mark.parametrize("gpus", [(1, 1), (1, 2), (2, 1), (4, 3)])
@pytest.mark.parametrize(("least", "most"), [((0, 0), (None, None)), ((1, 1), (None, None)), ((2, 1), (4, 9)), ((1, 3), (None, 5))])
def test_against_enumeration(gpus: Pair, least: Pair, most: tuple[int | None, int | None]) -> None:
    both = limits(gpus, least, most)
    floor = sum(n * g for n, g in zip(least, gpus, strict=True))
    for need in product((0, 1, 3, 4, 7, 11), repeat=2):
        for budget in (floor, floor + 1, floor + 3, floor + 8, floor + 20):
            fitted = fit(need, both, budget, (0, 0))
            pair = (fitted.prefill, fitted.decode)
            ratios = [Fraction(min(n, wanted), wanted) if wanted else Fraction(1) for n, wanted in zip(pair, need, strict=True)]
            assert (min(ratios), sum(ratios)) == best_ratios(need, both, budget), (need, budget, pair)
            assert pair[0] * gpus[0] + pair[1] * gpus[1] <= budget
            assert all(lo <= n <= max(lo, wanted) for n, lo, wanted in zip(pair, least, need, strict=True))


counts = st.integers(0, 60)
pairs = st.tuples(counts, counts)
sizes = st.tuples(st.sampled_from((1, 2, 4, 8)), st.sampled_from((1, 2, 4, 8)))


@given(need=pairs, gpus=sizes, running=pairs, extra=st.integers(0, 200))
@settings(max_examples=80)
def test_gpus_held_or_granted_stay_within_the_budget(need: Pair, gpus: Pair, running: Pair, extra: int) -> None:
    budget = sum(gpus) + extra
    now = granted(need, budget, gpus, running=running)
    held = sum(n * g for n, g in zip(running, gpus, strict=True))
    assert now[0] * gpus[0] + now[1] * gpus[1] <= budget
    assert sum(max(n, r) * g for n, r, g in zip(now, running, gpus, strict=True)) <= max(budget, held)


@given(need=pairs, gpus=sizes, running=pairs, extra=st.integers(0, 200))
@settings(max_examples=80)
def test_two_calls_reach_the_share(need: Pair, gpus: Pair, running: Pair, extra: int) -> None:
    budget = sum(gpus) + extra
    target = granted(need, budget, gpus)
    first = granted(need, budget, gpus, running=running)
    assert granted(need, budget, gpus, running=first) == target
    assert granted(need, budget, gpus, running=target) == target


@given(need=st.tuples(st.integers(1, 60), st.integers(1, 60)), gpus=sizes, extra=st.integers(0, 200), more=st.integers(1, 20))
@settings(max_examples=80)
def test_a_larger_budget_never_serves_less(need: Pair, gpus: Pair, extra: int, more: int) -> None:
    def served(budget: int) -> Fraction:
        p, d = granted(need, budget, gpus)
        return min(Fraction(p, need[0]), Fraction(d, need[1]))

    assert served(sum(gpus) + extra) <= served(sum(gpus) + extra + more)
