"""Queues that have a closed form. Prompts are batches of their own where the form wants single service; a decode worker without a cost per request
or per token of KV is a delay, and a batch of equal requests is a sum of steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.simulate.by_hand import Decode, Prefill, batched_up_to, engine, fleet, poisson, requests

from sla_planner.plan.decision import Role
from sla_planner.simulate import events
from sla_planner.simulate.options import ClusterOptions, Startup

ARRIVALS = 400_000


def waits(rate_rps: float, isl, workers: int, *, seed: int, slowness: float = 1.0) -> np.ndarray:
    """Seconds that each prompt waits until its service of isl / 10 ms begins."""
    trace = poisson(rate_rps, ARRIVALS, isl, 1, seed=seed)
    queue = batched_up_to(fleet(trace, engine(), prefill=workers, options=ClusterOptions(slowness=slowness)), 0)
    queue.advance(math.inf)
    assert queue.core.cells[events.FINISHED] == ARRIVALS
    return queue.core.first_token_s - trace.arrival_s - trace.isl_tokens / 10_000 * slowness


def test_m_d_1():
    """Service 0.1 s, 8 arrivals/s: rho 0.8. Pollaczek-Khinchine: mean wait rho / (2 (1 - rho)) services. Erlang: P(no wait) = 1 - rho and
    P(wait <= one service) = (1 - rho) exp(rho)."""
    wait_s = waits(8.0, 1000, 1, seed=1)
    assert wait_s.mean() == pytest.approx(2.0 * 0.1, rel=0.03)
    assert (wait_s < 1e-9).mean() == pytest.approx(0.2, abs=0.005)
    assert (wait_s <= 0.1).mean() == pytest.approx(0.4451, abs=0.01)


def test_prompts_too_long_to_share_a_batch_are_m_d_1_without_being_told_so():
    """10,000 tokens, 1 s each, one in two seconds: rho 0.5, so half a service."""
    trace = poisson(0.5, ARRIVALS, 10_000, 1, seed=2)
    queue = fleet(trace, engine())
    queue.advance(math.inf)
    wait_s = queue.core.first_token_s - trace.arrival_s - 1.0
    assert wait_s.mean() == pytest.approx(0.5, rel=0.03)


def test_m_m_1():
    """Exponential service of 0.2 s, 3 arrivals/s: rho 0.6, mean wait rho / (1 - rho) services, P(wait > t) = rho exp(-(1 - rho) t / s)."""
    isl = np.ceil(np.random.default_rng(13).exponential(2000, ARRIVALS))
    wait_s = waits(3.0, isl, 1, seed=3)
    assert wait_s.mean() == pytest.approx(1.5 * 0.2, rel=0.03)
    assert (wait_s > 1.0).mean() == pytest.approx(0.6 * math.exp(-2.0), abs=0.005)


@pytest.mark.parametrize(("workers", "erlang_c"), [(3, 0.6472), (10, 0.4092)])
def test_m_m_c(workers, erlang_c):
    """rho 0.8. Erlang's C by hand: 3 servers 11.52 / 17.8; 10 servers from tables. Mean wait C / (c (1 - rho)) services, exponential beyond 0."""
    isl = np.ceil(np.random.default_rng(4).exponential(2000, ARRIVALS))
    wait_s = waits(0.8 * workers / 0.2, isl, workers, seed=5)
    late_s = wait_s[wait_s > 1e-9]
    assert len(late_s) / ARRIVALS == pytest.approx(erlang_c, abs=0.01)
    mean_s = erlang_c * 0.2 / (workers * 0.2)
    assert wait_s.mean() == pytest.approx(mean_s, rel=0.04)
    assert (late_s > mean_s / erlang_c).mean() == pytest.approx(math.exp(-1), abs=0.01)


def test_a_slow_engine_is_the_same_queue_at_its_own_speed():
    """0.05 s at twice the time is M/D/1 with 0.1 s."""
    assert np.allclose(waits(8.0, 500, 1, seed=1, slowness=2.0), waits(8.0, 1000, 1, seed=1), rtol=0, atol=1e-6)


def test_m_g_infinity():
    """20 arrivals/s that stay 10 ms for every token after the first, of 1..400 evenly: 20 * 1.995 s = 39.9 in service, Poisson: variance = mean."""
    osl = np.random.default_rng(6).integers(1, 401, ARRIVALS)
    delay = batched_up_to(fleet(poisson(20.0, ARRIVALS, 1, osl, seed=7), engine(), prefill=16, decode=1), 0)
    seen = []
    for second in range(100, 19_000, 4):  # further apart than anybody stays
        delay.advance(float(second))
        seen.append(int(delay.decode_batches()[0]))
    assert np.mean(seen) == pytest.approx(39.9, rel=0.01)
    assert np.var(seen) == pytest.approx(39.9, rel=0.06)


def test_littles_law():
    """Whatever the laws: mean number inside = arrivals/s * mean stay."""
    rng = np.random.default_rng(8)
    trace = poisson(5.0, 50_000, rng.integers(100, 4000, 50_000), rng.integers(1, 300, 50_000), seed=9)
    system = fleet(trace, engine(c0=5, c1=0.5, c2=0.0001), prefill=2, decode=2)
    inside = []
    for half_second in range(20_000):
        system.advance(half_second / 2)
        inside.append(system.core.cells[events.NEXT_ARRIVAL] - system.core.cells[events.FINISHED])
    system.advance(math.inf)
    stay_s = system.core.finish_s - trace.arrival_s
    first = trace.arrival_s < 10_000
    assert np.mean(inside) == pytest.approx(first.sum() / 10_000 * stay_s[first].mean(), rel=0.01)


def test_equal_requests_together_take_the_sum_of_their_steps():
    """10 of 99 + 101 tokens: the first of 100 steps takes 5 + 10 * 1 + 0.001 * 1000 = 16 ms, each 0.01 ms longer than the one before: 1.6495 s."""
    together = fleet(requests(*[(0.0, 99, 101)] * 10), engine(c0=5, c1=1, c2=0.001), decode=0, options=ClusterOptions(startup=Startup(mean_s=50)))
    together.scale(1, 1)
    together.advance(math.inf)
    assert np.ptp(together.core.finish_s) < 1e-9
    assert together.core.finish_s[0] - 50 == pytest.approx(1.6495, abs=0.001)


def test_a_request_that_joins_slows_the_other_from_then_on():
    """10 + 10 * batch ms. A: 101 tokens; after 50 of 20 ms B (26 tokens) joins: 25 of 30 ms together, then A's last 25 alone again."""
    joined = fleet(requests((0.0, 1, 101), (1.0, 1, 26)), engine(c0=10, c1=10, prefill=Prefill(lambda _: 1e-6)))
    joined.advance(math.inf)
    assert joined.core.finish_s == pytest.approx([1.0 + 0.75 + 0.5, 1.75], abs=1e-6)


def test_kv_slows_steps_as_it_grows():
    """1 us per token of KV, 1000 of prompt, 1000 steps: 1001, 1002 ... 2000 us, 1.5005 s."""
    alone = fleet(requests((0.0, 1000, 1001)), engine(c0=0, c2=0.001, prefill=Prefill(lambda _: 1e-6)))
    alone.advance(math.inf)
    assert alone.core.finish_s[0] == pytest.approx(1.5005, abs=0.002)


def test_a_saturated_worker_serves_full_batches():
    """5 ms + 1 ms per 100 tokens: full batches of 8 * 1000 tokens take 85 ms, so 94.1 prompts/s of one worker; single ones would be 66.7."""
    flood = fleet(requests(*[(0.0, 1000, 1)] * 9001), engine(prefill=Prefill(lambda isl: 5 + isl / 100)))
    flood.advance(math.inf)
    assert 9000 / (flood.core.finish_s[-1] - 0.015) == pytest.approx(8 / 0.085, rel=1e-9)


def test_a_full_decode_worker_is_a_bottleneck_of_its_kv():
    """A cache for two requests of 100 + 101 tokens, 1 s each: two per second."""
    small = fleet(requests(*[(0.0, 100, 101)] * 40), engine(decode=Decode(max_kv_tokens=402)))
    small.advance(math.inf)
    assert np.sort(small.core.finish_s)[-1] == pytest.approx(20.0, abs=0.5)
    assert small.gpu_seconds(Role.DECODE) > 0
