"""Calibration. The toy engine: TTFT 10 ms + isl/50, ITL 4 ms + 0.04 batch + 0.00002 KV tokens."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.model.engine import Engine
from sla_planner.model.sla import Sla
from sla_planner.plan.calibration import Calibration, calibrate_decode, calibrate_prefill, last_interval_corrections
from sla_planner.plan.observation import Observation, TrafficWindow, WorkerCounts
from sla_planner.plan.work import LengthMix, RequestWork, request_work

DOUBLED = 1.0718  # 2 ** 0.1: one interval at twice the expected latency, from 1
FRESH = Calibration()


def seen(traffic: TrafficWindow, prefill: int = 1, decode: int = 1, starting: int = 0) -> Observation:
    return Observation(traffic, WorkerCounts(prefill, starting), WorkerCounts(decode, starting))


@pytest.fixture
def work(toy_engine: Engine) -> RequestWork:
    """Every prompt takes 50 ms of a worker."""
    costs = request_work(toy_engine, Sla(), LengthMix(isl=((2000.0,), (1.0,)), osl=((200.0,), (1.0,))))
    return replace(costs, prefill_s=0.05, prefill_s2=0.0025)


# -- mean sizing: the last interval's ratio -----------------------------------------------------------------------------------------------------


def test_ratios_of_the_last_interval(toy_engine: Engine, window) -> None:
    # TTFT at 900 tokens: 28 ms. 10 rps for 2 s on 2 workers: 10 running each, context 1000, ITL 4 + 0.4 + 0.2 = 4.6 ms.
    traffic = window(ttft_ms=42, itl_ms=9.2, isl_tokens=900, osl_tokens=200, request_rate_rps=10, request_duration_s=2)
    corrections = last_interval_corrections(seen(traffic, decode=2), toy_engine)
    assert corrections.prefill == pytest.approx(1.5)
    assert corrections.decode == pytest.approx(2.0)
    assert corrections.skipped == ()


def test_no_decode_worker_is_no_division_by_zero(toy_engine: Engine, window) -> None:
    traffic = window(ttft_ms=42, itl_ms=9.2, isl_tokens=900, osl_tokens=200, request_rate_rps=10, request_duration_s=2)
    for decode in (WorkerCounts(0, starting=1), None):
        corrections = last_interval_corrections(Observation(traffic, WorkerCounts(1), decode), toy_engine)
        assert (corrections.prefill, corrections.decode) == (pytest.approx(1.5), 1.0)
        assert corrections.skipped == ("decode correction skipped: no decode worker is ready",)


def test_idle_and_unknown_latencies_correct_nothing(toy_engine: Engine, window) -> None:
    corrections = last_interval_corrections(seen(window(ttft_ms="idle", isl_tokens="idle", itl_ms=0)), toy_engine)
    assert (corrections.prefill, corrections.decode) == (1.0, 1.0)
    prefill, decode = corrections.skipped
    assert prefill == "prefill correction skipped: TTFT: no requests in the window; ISL: no requests in the window"
    assert "rate: not measured in this test" in decode


def test_a_latency_of_zero_corrects_nothing(toy_engine: Engine, window) -> None:
    corrections = last_interval_corrections(seen(window(ttft_ms=0, isl_tokens=900)), toy_engine)
    assert corrections.prefill == 1.0
    assert corrections.skipped[0] == "prefill correction skipped: observed 0.00 ms, expected 28.00 ms"


# -- risk sizing: slow and bounded --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "ratio", "expected"),
    [
        (1.0, 1.0, 1.0),
        (1.0, 2.0, DOUBLED),
        (1.0, 50.0, DOUBLED),  # one cold start is no more than the bound
        (1.0, 0.5, 0.9330),  # 0.5 ** 0.1
        (1.0, 0.001, 0.9330),
        (0.5, 2.0, 0.55),  # 4 ** 0.1 = 1.149, at most 1.1 in one step
        (2.0, 0.5, 1.8182),
        (2.0, 9.0, 2.0),
    ],
)
def test_one_step(factor: float, ratio: float, expected: float) -> None:
    assert Calibration(factor).toward(ratio).factor == pytest.approx(expected, abs=1e-4)


def test_it_converges() -> None:
    calibration = FRESH
    for _ in range(100):
        calibration = calibration.toward(1.3)
    assert calibration.factor == pytest.approx(1.3, rel=1e-4)
    assert calibration.intervals == 100


@given(st.lists(st.floats(1e-9, 1e9), max_size=60))
def test_it_stays_bounded_and_survives_json(ratios: list[float]) -> None:
    calibration = FRESH
    for ratio in ratios:
        before, calibration = calibration, calibration.toward(ratio)
        assert 0.5 <= calibration.factor <= 2.0
        assert 1 / 1.1001 <= calibration.factor / before.factor <= 1.1001
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_a_damaged_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"factor 0\.0 outside 0\.5 \.\. 2"):
        Calibration.from_json({"factor": 0, "intervals": 3})


def test_decode_from_the_running_batch(toy_engine: Engine, window) -> None:
    # 20 running on 2 workers, KV 1 % of 1 000 000: 4 + 0.4 + 0.2 = 4.6 ms expected.
    traffic = window(itl_ms=9.2, isl_tokens=900, osl_tokens=200, completed_requests=30, running_decode_requests=20, kv_usage=0.01)
    assert calibrate_decode(FRESH, seen(traffic, decode=2), toy_engine).factor == pytest.approx(DOUBLED, abs=1e-4)


def test_decode_without_kv_usage_counts_the_context(toy_engine: Engine, window) -> None:
    traffic = window(itl_ms=9.2, isl_tokens=900, osl_tokens=200, completed_requests=30, running_decode_requests=20)
    assert calibrate_decode(FRESH, seen(traffic, decode=2), toy_engine).factor == pytest.approx(DOUBLED, abs=1e-4)


def test_decode_by_littles_law_leaves_the_queue_out(toy_engine: Engine, window) -> None:
    # 30 finished in 15 s, 12 s long of which 7 s before the first token: 2/s * 5 s = 10 running at context 1000.
    traffic = window(itl_ms=9.2, isl_tokens=900, osl_tokens=200, completed_requests=30, request_duration_s=12, ttft_ms=7000)
    assert calibrate_decode(FRESH, seen(traffic), toy_engine).factor == pytest.approx(DOUBLED, abs=1e-4)


def test_an_almost_idle_worker_still_steps_with_a_batch_of_one(toy_engine: Engine, window) -> None:
    # 4 + 0.04 + 0.02 = 4.06 ms with one request of context 1000.
    traffic = window(itl_ms=4.06, isl_tokens=900, osl_tokens=200, completed_requests=30, running_decode_requests=0)
    assert calibrate_decode(FRESH, seen(traffic), toy_engine).factor == pytest.approx(1.0)


def test_decode_needs_a_batch(toy_engine: Engine, window) -> None:
    traffic = window(itl_ms=9.2, isl_tokens=900, osl_tokens=200, completed_requests=30)
    assert calibrate_decode(FRESH, seen(traffic), toy_engine) == FRESH


def test_prefill_expects_the_wait_of_a_quiet_queue(toy_engine: Engine, work: RequestWork, window) -> None:
    # 4 rps * 50 ms on one worker: utilisation 0.2, M/D/1 wait 0.2 / 0.8 * 25 ms = 6.25 ms. 50 + 6.25 = 56.25 ms expected.
    quiet = {"isl_tokens": 2000, "request_rate_rps": 4, "completed_requests": 60}
    assert calibrate_prefill(FRESH, seen(window(ttft_ms=56.25, **quiet)), work).factor == pytest.approx(1.0)
    # Twice that may be overhead of the frontend: 1.25 ** 0.1 is learned.
    assert calibrate_prefill(FRESH, seen(window(ttft_ms=112.5, **quiet)), work).factor == pytest.approx(1.0226, abs=1e-4)


def test_a_prefix_cache_shows_under_load_and_so_does_its_loss(toy_engine: Engine, work: RequestWork, window) -> None:
    def busy(ttft_ms: float) -> Observation:
        return seen(window(ttft_ms=ttft_ms, isl_tokens=2000, request_rate_rps=15, completed_requests=200))

    warm = calibrate_prefill(FRESH, busy(25), work)  # 50 ms alone
    assert warm.factor == pytest.approx(0.9330, abs=1e-4)  # 0.5 ** 0.1
    assert warm.factor < calibrate_prefill(warm, busy(900), work).factor < 1


def test_prefill_wait_of_two_workers(toy_engine: Engine, work: RequestWork, window) -> None:
    # 8 rps on 2 workers, utilisation 0.2: 0.2 ** (sqrt(6) - 1) = 0.09704; / (2 * 0.8) * 25 ms = 1.516 ms.
    traffic = window(ttft_ms=51.516, isl_tokens=2000, request_rate_rps=8, completed_requests=60)
    assert calibrate_prefill(FRESH, seen(traffic, prefill=2), work).factor == pytest.approx(1.0, abs=1e-5)


def test_prefill_under_load_or_with_a_queue_teaches_nothing(toy_engine: Engine, work: RequestWork, window) -> None:
    busy = window(ttft_ms=500, isl_tokens=2000, request_rate_rps=8, completed_requests=60)
    queued = window(ttft_ms=500, isl_tokens=2000, request_rate_rps=4, completed_requests=60, queued_prefill_requests=1)
    for traffic in (busy, queued):
        assert calibrate_prefill(Calibration(1.2, 9), seen(traffic), work) == Calibration(1.2, 9)


def test_cold_few_or_unknown_teach_nothing(toy_engine: Engine, work: RequestWork, window) -> None:
    known = {
        "ttft_ms": 400,
        "itl_ms": 97,
        "isl_tokens": 2000,
        "osl_tokens": 200,
        "request_rate_rps": 4,
        "running_decode_requests": 4,
        "completed_requests": 60,
    }
    warm = seen(window(**known))
    assert calibrate_prefill(FRESH, warm, work) != FRESH
    assert calibrate_decode(FRESH, warm, toy_engine) != FRESH
    for observation in (
        seen(window(**known), starting=1),
        seen(window(**known), prefill=0, decode=0),
        Observation(window(**known), None, None),
        seen(window(**known | {"completed_requests": 19})),
        seen(window(**{name: value for name, value in known.items() if name != "completed_requests"})),
        seen(window(**known | {"ttft_ms": "idle", "itl_ms": "idle"})),
    ):
        assert calibrate_prefill(FRESH, observation, work) == FRESH
        assert calibrate_decode(FRESH, observation, toy_engine) == FRESH
