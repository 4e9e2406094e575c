import pytest

from sla_planner.model.profile import ParallelMapping
from sla_planner.model.selection import Candidate, choose


def candidate(tp, latency_ms, throughput):
    return Candidate(ParallelMapping(tp=tp), latency_ms, latency_ms, throughput)


def test_the_most_throughput_per_gpu_among_what_keeps_the_promise():
    choice = choose([candidate(1, 60, 900), candidate(2, 48, 700), candidate(4, 30, 500)], 50)
    assert choice.picked == candidate(2, 48, 700)
    assert choice.nearest == choice.picked


def test_exactly_the_promise_keeps_it():
    assert choose([candidate(1, 50, 900)], 50).picked


def test_a_tie_goes_to_fewer_gpus_whatever_the_order():
    same = [candidate(4, 10, 1000), candidate(2, 20, 995), candidate(8, 5, 1000)]
    assert choose(same, 50).picked.mapping.tp == 2
    assert choose(same[::-1], 50).picked.mapping.tp == 2


def test_more_than_a_hundredth_is_no_tie():
    assert choose([candidate(4, 10, 1000), candidate(2, 20, 985)], 50).picked.mapping.tp == 4


def test_on_one_mapping_the_better_point_wins_a_tie():
    assert choose([candidate(2, 10, 995), candidate(2, 20, 1000)], 50).picked.throughput_per_gpu == 1000


def test_nothing_is_relaxed():
    choice = choose([candidate(1, 80, 900), candidate(8, 51, 100)], 50)
    assert choice.picked is None
    assert choice.nearest == candidate(8, 51, 100)


def test_of_equally_near_ones_the_smaller():
    assert choose([candidate(8, 60, 100), candidate(4, 60, 50)], 50).nearest.mapping.tp == 4


@pytest.mark.parametrize(
    ("mapping", "label"),
    [
        (ParallelMapping(), "TP1"),
        (ParallelMapping(tp=4), "TP4"),
        (ParallelMapping(tp=8, ep=8), "TEP8"),
        (ParallelMapping(dp=8, ep=8), "DEP8"),
        (ParallelMapping(tp=4, pp=2), "TP4-PP2"),
        (ParallelMapping(tp=2, dp=4, ep=8), "TP2-DP4-EP8"),
    ],
)
def test_the_label_of_a_mapping(mapping, label):
    assert mapping.label == label
