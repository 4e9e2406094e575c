import pytest

from sla_planner.sweep.measure import spread


def test_few_answers_are_judged_by_their_range():
    # Three normal values span 1.693 sigmas in the mean; the median distance from the median would be 0.
    assert spread([100.0, 100.0, 110.0]) == pytest.approx(10 / 1.693 / 100 / 3**0.5)


def test_one_late_answer_of_five_says_nothing():
    assert spread([100.0, 101.0, 99.0, 100.0, 400.0]) == pytest.approx(1.4826 * 1.0 / 100 / 5**0.5)


def test_two_answers_that_agree_are_certain():
    assert spread([7.0, 7.0]) == 0.0
