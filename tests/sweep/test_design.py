import math
import random

import pytest

from sla_planner.model.engine import ItlLaw
from sla_planner.model.sla import Sla
from sla_planner.sweep.design import (
    AIM,
    AIMS,
    HIT,
    DecodeKnown,
    Limits,
    PrefillKnown,
    beside,
    corners,
    first_decode,
    first_prefill,
    longest_isl,
    next_aim,
    next_decode,
    next_prefill,
    queued_prefill,
)
from sla_planner.sweep.points import DecodeShape, PrefillShape
from sla_planner.sweep.result import Goal

GOAL = Goal(Sla(ttft_ms=500, itl_ms=30), isl_tokens=3000, osl_tokens=500)
LIMITS = Limits(max_context_tokens=16384, max_kv_tokens=945_029)
H200 = ItlLaw(4.392, 0.03872, 2.920e-5)  # the clean fit of the shipped profile


def measured(law, shape, noise=0.0, rng=None):
    rng = rng or random.Random(3)
    context = shape.isl_tokens + 60
    itl_ms = law.itl_ms(shape.batch, shape.batch * context) * math.exp(rng.gauss(0, noise))
    return DecodeKnown(shape, shape.batch, context, itl_ms)


def aimed(law, goal=GOAL, limits=LIMITS, noise=0.0):
    known = [measured(law, shape, noise) for shape in first_decode(goal, limits)]
    for _ in range(AIMS):
        shape = next_aim(goal, limits, known)
        if shape is None:
            break
        known.append(measured(law, shape, noise))
    return known


# limits


def test_the_largest_batch_fits_the_kv_cache_and_the_next_one_does_not():
    limits = Limits(max_context_tokens=8192, max_kv_tokens=100_000)
    most = limits.most_requests(3000)
    assert most * (3000 + limits.max_tokens(3000, most)) <= 97_000 < (most + 1) * (3000 + limits.max_tokens(3000, most + 1))


def test_a_sequence_limit_and_the_client_cap_the_batch():
    assert Limits(8192, 10**9, max_sequences=64).most_requests(100) == 64
    assert Limits(8192, 10**9).most_requests(100) == 2000


def test_no_request_fits_a_cache_smaller_than_its_prompt():
    limits = Limits(8192, 2000)
    assert limits.most_requests(3000) == 0
    assert first_decode(GOAL, limits) == []


def test_a_held_request_never_outgrows_the_context():
    assert Limits(4096, 10**6).max_tokens(4000, 200) == 96


def test_the_longest_prompt_fits_the_kv_cache_too():
    assert longest_isl(Limits(16384, 945_029)) == 16384 - 512
    assert longest_isl(Limits(16384, 6000)) == 5820 - 512
    assert longest_isl(Limits(16384, 600)) == 291


# prefill


def test_the_curve_begins_with_the_goal_both_ends_and_the_widest_gap():
    isls = [shape.isl_tokens for shape in first_prefill(GOAL, LIMITS)]
    assert len(isls) == 4
    assert isls == sorted(isls)
    assert {128, 3000, longest_isl(LIMITS)} < set(isls)
    assert isls[1] == 620  # sqrt(128 * 3000): the gap of a factor of 23 is the widest


def test_a_narrow_range_has_fewer_prompt_lengths_and_no_duplicates():
    tiny = Goal(GOAL.promise, isl_tokens=4, osl_tokens=2)
    shapes = first_prefill(tiny, Limits(8, 1000))
    assert len(set(shapes)) == len(shapes) <= 4
    assert max(shape.isl_tokens for shape in shapes) <= 8


def test_a_quadratic_curve_needs_no_more_than_the_first_points():
    known = [PrefillKnown(shape.isl_tokens, 16.5 + 0.0152 * shape.isl_tokens + 4.2e-7 * shape.isl_tokens**2) for shape in first_prefill(GOAL, LIMITS)]
    assert next_prefill(known) is None


def test_a_curve_off_the_law_gets_a_point_in_a_gap():
    known = [PrefillKnown(isl, 20 + 0.02 * isl + (150 if isl == 3000 else 0)) for isl in (128, 620, 3000, 15872)]
    following = next_prefill(known)
    assert following is not None
    assert following.isl_tokens in {282, 1364, 6900}  # the geometric middles


def test_a_doubted_point_has_a_neighbour():
    assert beside(PrefillShape(3200)) == PrefillShape(3000)
    assert beside(PrefillShape(1)) == PrefillShape(1)


def test_as_many_prompts_at_once_as_the_promise_allows():
    assert queued_prefill(GOAL, [PrefillKnown(128, 20), PrefillKnown(3000, 100)]) == PrefillShape(3000, 4)  # 0.95 * 500 / 100
    assert queued_prefill(GOAL, [PrefillKnown(3000, 480)]) == PrefillShape(3000, 2)
    assert queued_prefill(GOAL, [PrefillKnown(3000, 1)]).concurrency == 16


# decode


def test_the_staircase_starts_with_one_and_a_few():
    assert first_decode(GOAL, LIMITS) == [DecodeShape(3000, 1), DecodeShape(3000, 8)]
    assert first_decode(GOAL, Limits(16384, 945_029, max_sequences=4)) == [DecodeShape(3000, 1), DecodeShape(3000, 4)]
    assert first_decode(GOAL, Limits(16384, 945_029, max_sequences=1)) == [DecodeShape(3000, 1)]


@pytest.mark.parametrize("itl_ms", [6, 10, 20, 30])
def test_the_aim_lands_just_inside_the_promise(itl_ms):
    goal = Goal(Sla(500, itl_ms), 3000, 500)
    best = max((point for point in aimed(H200, goal) if point.itl_ms <= itl_ms), key=lambda point: point.batch)
    assert HIT * itl_ms <= best.itl_ms <= itl_ms


def test_one_shot_is_enough_on_a_clean_engine():
    known = aimed(H200)
    assert [point.shape.batch for point in known[:2]] == [1, 8]
    assert len(known) == 3
    assert known[-1].itl_ms == pytest.approx(AIM * 30, rel=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_make_it_miss(seed):
    rng = random.Random(seed)
    known = [measured(H200, shape, 0.03, rng) for shape in first_decode(GOAL, LIMITS)]
    for _ in range(AIMS):
        shape = next_aim(GOAL, LIMITS, known)
        if shape is None:
            break
        known.append(measured(H200, shape, 0.03, rng))
    kept = [point for point in known if point.itl_ms <= 30]
    assert max(point.itl_ms for point in kept) > 0.6 * 30


def test_nothing_is_aimed_at_when_one_request_alone_breaks_the_promise():
    goal = Goal(Sla(500, 4), 3000, 500)
    assert len(aimed(H200, goal)) == 2


def test_an_overshoot_is_corrected_downwards_between_what_kept_and_what_broke():
    known = [measured(H200, DecodeShape(3000, batch)) for batch in (1, 8, 400)]
    shape = next_aim(GOAL, LIMITS, known)
    assert 8 < shape.batch < 400
    assert H200.itl_ms(shape.batch, shape.batch * 3060) <= 30


def test_the_kv_cache_ends_the_aiming():
    limits = Limits(16384, 40_000)
    known = aimed(H200, limits=limits)
    assert known[-1].shape.batch == limits.most_requests(3000)
    assert next_aim(GOAL, limits, known) is None


def test_the_corners_are_the_longest_and_the_shortest_context():
    known = aimed(H200)
    long, short = corners(GOAL, LIMITS, known)
    assert (long.isl_tokens, short.isl_tokens) == (longest_isl(LIMITS), 128)
    assert long.batch == 28  # half of the 55 whose 15,872 tokens and answers fit the cache
    assert H200.itl_ms(long.batch, long.batch * long.isl_tokens) <= 30
    _, short = corners(GOAL, LIMITS, [*known, measured(H200, long)])  # now the law is known
    assert H200.itl_ms(short.batch, short.batch * 128) == pytest.approx(AIM * 30, rel=0.02)


def test_a_promise_that_a_step_alone_breaks_still_gets_its_corners():
    goal = Goal(Sla(500, 4), 3000, 500)
    known = [measured(H200, shape) for shape in [*first_decode(goal, LIMITS), DecodeShape(15872, 8)]]
    _, short = corners(goal, LIMITS, known)
    assert H200.itl_ms(short.batch, short.batch * 128) == pytest.approx(2 * 4.392, rel=0.05)


def test_without_room_above_the_goal_the_second_corner_lies_below_it():
    limits = Limits(3600, 200_000)
    goal = Goal(Sla(500, 30), 3000, 500)
    isls = [shape.isl_tokens for shape in corners(goal, limits, aimed(H200, goal, limits))]
    assert isls == [750, 128]


def test_a_clean_engine_needs_five_or_six_decode_points():
    known = aimed(H200)
    known += [measured(H200, shape) for shape in corners(GOAL, LIMITS, known)]
    assert len(known) <= 6
    assert next_decode(GOAL, LIMITS, known) is None


def test_an_engine_off_the_law_gets_another_point_where_nothing_was_measured():
    known = aimed(H200)
    known += [measured(H200, shape) for shape in corners(GOAL, LIMITS, known)]
    bent = [
        DecodeKnown(point.shape, point.batch, point.context_tokens, point.itl_ms * (1.5 if index % 2 else 0.8)) for index, point in enumerate(known)
    ]
    following = next_decode(GOAL, LIMITS, bent)
    assert following is not None
    assert following not in {point.shape for point in known}
    assert 1 <= following.batch <= LIMITS.most_requests(following.isl_tokens)
