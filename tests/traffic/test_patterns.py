import pytest

from sla_planner.traffic.patterns import SCENARIOS, long_context, spike, steady


@pytest.mark.parametrize(
    ("name", "requests", "end_s", "isl_tokens", "osl_tokens"),
    [("steady", 20, 57.0, 20 * 8, 20 * 100), ("spike", 50, 0.0, 50 * 8, 50 * 200), ("long-context", 5, 0.0, 5100, 500)],
)
def test_the_scenarios_by_name(name, requests, end_s, isl_tokens, osl_tokens):
    trace = SCENARIOS[name]()
    assert (len(trace), trace.end_s, trace.isl_tokens.sum(), trace.osl_tokens.sum()) == (requests, end_s, isl_tokens, osl_tokens)


def test_the_scenarios_take_other_sizes():
    assert steady(3, 0.5, 7, 9).arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert spike(4, 7, 9).isl_tokens.tolist() == [7, 7, 7, 7]
    assert long_context((3, 5), 2).isl_tokens.tolist() == [3, 5]
