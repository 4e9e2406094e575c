"""What a policy sees of a simulated fleet is what the production reader makes of the same counters, late and with gaps, and never the future."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from tests.metrics.conftest import TextServer
from tests.simulate.by_hand import Prefill, engine, fleet, poisson, requests

from sla_planner.engines.metric_names import metric_family
from sla_planner.metrics.scrape import ScrapeSource
from sla_planner.model.metric_family import Measure
from sla_planner.model.sla import Sla
from sla_planner.plan.observation import Kind, LengthHistogram, Quantity, TrafficWindow
from sla_planner.simulate import events
from sla_planner.simulate.fleet import SimulatedFleet
from sla_planner.simulate.options import ClusterOptions, Metrics
from sla_planner.simulate.policy import Seen, Workers
from sla_planner.simulate.run import Scenario, run
from sla_planner.simulate.scrape import Scrape, Scrapes

SLA = Sla(ttft_ms=470, itl_ms=20)
ENGINE = engine(c0=5, c1=0.5, c2=0.0001)
HISTOGRAMS = {
    Measure.TTFT: events.TTFT,
    Measure.ITL: events.ITL,
    Measure.ISL: events.ISL,
    Measure.OSL: events.OSL,
    Measure.DURATION: events.DURATION,
}


def traffic(seconds: int = 300, *, seed: int = 1):
    rng = np.random.default_rng(seed)
    count = 8 * seconds
    return poisson(8.0, count, rng.integers(1, 4000, count), rng.integers(1, 300, count), seed=seed)


def watched(rows, metrics: Metrics = Metrics(), *, until_s: float, **workers: int) -> tuple[SimulatedFleet, Scrapes]:  # noqa: B008 - frozen
    """A fleet of 2 and 2, scraped until then."""
    options = ClusterOptions(metrics=metrics)
    cluster = fleet(rows, ENGINE, options=options, **{"prefill": 2, "decode": 2, **workers})
    scrapes = Scrapes(options, cluster.core.edges)
    for scrape in range(int(until_s / metrics.scrape_s) + 1):
        cluster.advance(scrape * metrics.scrape_s)
        scrapes.take(cluster)
    return cluster, scrapes


# ---- the same as over HTTP ----------------------------------------------------------------------------------------------------------------


def page(scrape: Scrape, edges: np.ndarray) -> str:
    """What a Dynamo frontend with these totals would answer."""
    rows = metric_family("dynamo").rows
    lines = [
        f'{rows[measure].names[0]}{{model="m"}} {value}'
        for measure, value in (
            (Measure.STARTED, scrape.started),
            (Measure.COMPLETED, scrape.finished),
            (Measure.IN_FLIGHT, scrape.started - scrape.finished),
            (Measure.QUEUED_PREFILL, scrape.started - scrape.first_tokens),
        )
    ]
    for measure, histogram in HISTOGRAMS.items():
        name, below = rows[measure].names[0], np.cumsum(scrape.tally[histogram, :-1])
        finite = [edge for edge in edges[histogram].tolist() if np.isfinite(edge)]
        lines += [f'{name}_bucket{{model="m",le="{edge}"}} {below[index]:.17g}' for index, edge in enumerate(finite)]
        lines += [f'{name}_bucket{{model="m",le="+Inf"}} {below[-1]:.17g}', f'{name}_count{{model="m"}} {below[-1]:.17g}']
        lines += [f'{name}_sum{{model="m"}} {scrape.tally[histogram, -1]:.17g}']
    return "\n".join(lines) + "\n"


@pytest.fixture
def frontend() -> Iterator[TextServer]:
    server = TextServer()
    yield server
    server.stop()


def same(ours: TrafficWindow, theirs: TrafficWindow) -> None:
    for name in (field.name for field in fields(TrafficWindow)):
        one, other = getattr(ours, name), getattr(theirs, name)
        if isinstance(one, Quantity):
            assert one.kind is other.kind, (name, one, other)
            assert one.value == pytest.approx(other.value, rel=1e-9, abs=1e-9), name
        elif isinstance(one, LengthHistogram):
            assert one.upper_tokens == other.upper_tokens
            assert one.requests == pytest.approx(other.requests)
            assert one.total_tokens == pytest.approx(other.total_tokens)
        else:
            assert one == other, name


@pytest.mark.parametrize("prefill", [2, 1])  # enough of them, and a queue that grows
def test_windows_are_those_that_a_planner_reads_over_http(frontend, prefill):
    cluster = fleet(traffic(), ENGINE, prefill=prefill, decode=2)
    scrapes = Scrapes(ClusterOptions(), cluster.core.edges)
    source = ScrapeSource([frontend.url], metric_family("dynamo"), model="m")
    kinds = set()
    for scrape in range(61):
        now_s = scrape * 5.0
        cluster.advance(now_s)
        scrapes.take(cluster)
        if scrape % 3:
            continue
        frontend.text = page(scrapes.newest(now_s), cluster.core.edges)
        theirs = source.observe(now_s, 15.0, SLA.ttft_ms, SLA.itl_ms)
        if scrape:
            ours = scrapes.traffic(now_s, 15.0, SLA)
            same(ours, theirs)
            kinds |= {ours.ttft_attained.kind, ours.kv_usage.kind, ours.ttft_ms.kind}
    assert kinds == {Kind.VALUE, Kind.UNKNOWN}


def test_a_window_without_requests_is_idle_as_it_is_over_http(frontend):
    cluster, scrapes = watched(requests((1000, 1, 1)), until_s=60)
    source = ScrapeSource([frontend.url], metric_family("dynamo"))
    frontend.text = page(scrapes.newest(60.0), cluster.core.edges)
    source.observe(0.0, 60.0, SLA.ttft_ms, SLA.itl_ms)
    ours = scrapes.traffic(60.0, 60.0, SLA)
    same(ours, source.observe(60.0, 60.0, SLA.ttft_ms, SLA.itl_ms))
    assert (ours.request_rate_rps, ours.ttft_ms.kind) == (Quantity.of(0.0), Kind.IDLE)


# ---- by hand ------------------------------------------------------------------------------------------------------------------------------


def test_a_window_of_few_requests_by_hand():
    """1 ms per 10 tokens, 10 ms per token. Between 10 and 20 s: two arrive, of 1000 and 3000 tokens, and the first one ends after 0.1 + 0.5 s."""
    cluster = fleet(requests((1, 500, 1), (12, 1000, 51), (19.9, 3000, 51)), engine(), options=ClusterOptions())
    scrapes = Scrapes(ClusterOptions(), cluster.core.edges)
    for second in range(0, 25, 5):
        cluster.advance(float(second))
        scrapes.take(cluster)
    window = scrapes.traffic(20.0, 10.0, SLA)
    assert window.window_s == 10
    assert window.request_rate_rps.value == 0.2
    assert window.isl_tokens.value == 2000  # a prompt is known when it arrives, an answer when it ends
    assert window.osl_tokens.value == 51
    assert window.ttft_ms.value == pytest.approx(100)
    assert window.itl_ms.value == pytest.approx(10)
    assert window.request_duration_s.value == pytest.approx(0.6)
    assert (window.completed_requests.value, window.in_flight_requests.value, window.queued_prefill_requests.value) == (1, 1, 1)


def test_gauges_of_the_engines_by_hand():
    """In the 5 s one prefill worker is busy for 2 s, the other for 0.03 + 0.3 s, and both still are. One decodes, with 101 tokens of a million when
    its worker was last looked at; two wait for a prefill worker."""
    rows = requests((3, 25_000, 1), (4.6, 100, 1000), (4.7, 80_000, 2), (4.8, 1, 2), (4.9, 1, 2))
    cluster = fleet(rows, engine(prefill=Prefill(lambda isl: isl / 10 if isl > 100 else 30)), prefill=2, decode=3)
    scrapes = Scrapes(ClusterOptions(), cluster.core.edges)
    scrapes.take(cluster)
    cluster.advance(5.0)
    scrapes.take(cluster)
    gauges = scrapes.newest(5.0).engines
    assert gauges.prefill_busy == pytest.approx((2.0 + 0.03 + 0.3) / 5)
    assert gauges.waiting_prefill == 2
    assert gauges.running.tolist() == [1, 0, 0]
    assert gauges.kv_usage == pytest.approx([101e-6, 0, 0])


# ---- late, lost, stale --------------------------------------------------------------------------------------------------------------------


def test_the_first_look_is_unknown():
    _, scrapes = watched(traffic(), until_s=0)
    assert scrapes.traffic(0.0, 15.0, SLA).request_rate_rps.kind is Kind.UNKNOWN


def test_late_metrics_are_those_of_before():
    """30 s late, every 5 s: at 100 s the window is that of 55..70 s, as somebody without delay saw it at 70."""
    _, late = watched(traffic(), Metrics(delay_s=30), until_s=100)
    _, prompt = watched(traffic(), until_s=100)
    assert late.newest(100.0).at_s == 70
    assert late.newest(29.9) is None
    same(replace(late.traffic(100.0, 15.0, SLA), at_s=70.0), prompt.traffic(70.0, 15.0, SLA))
    assert late.traffic(29.0, 15.0, SLA).answered is False


def test_lost_scrapes_are_gaps_and_the_window_says_how_long_it_was():
    """Nothing between 0 and the one that came through: rates are over the time that really passed."""
    _, scrapes = watched(traffic(), Metrics(lost_share=0.5), until_s=300)
    kept = sorted({scrapes.newest(float(second)).at_s for second in range(301) if scrapes.newest(float(second))})
    assert 15 < len(kept) < 45  # of 61
    for second in range(60, 301, 15):
        window, last = scrapes.traffic(float(second), 15.0, SLA), scrapes.newest(float(second))
        first_s = max(at_s for at_s in kept if at_s <= last.at_s - 15)
        assert window.window_s == last.at_s - first_s
        arrived = (traffic().arrival_s <= last.at_s).sum() - (traffic().arrival_s <= first_s).sum()
        assert window.request_rate_rps.value == pytest.approx(arrived / window.window_s)


def test_a_scrape_too_old_is_no_answer():
    _, scrapes = watched(traffic(), until_s=100)
    assert scrapes.traffic(400.0, 15.0, SLA).answered is True
    assert scrapes.traffic(400.1, 15.0, SLA).answered is False
    assert scrapes.newest(400.1) is None


def test_a_window_longer_than_what_is_known_is_what_is_known():
    _, scrapes = watched(traffic(), until_s=20)
    assert scrapes.traffic(20.0, 60.0, SLA).window_s == 20


# ---- never the future ---------------------------------------------------------------------------------------------------------------------


class Diary:
    """Asks for one worker more or less by what it sees, and writes down everything."""

    name, interval_s, settings = "diary", 15.0, {}

    def __init__(self) -> None:
        self.pages: list[tuple] = []

    def decide(self, seen: Seen) -> Workers:
        window = seen.traffic(30.0, SLA)
        newest = seen.newest
        gauges = None if newest is None else (newest.engines.prefill_busy, newest.engines.waiting_prefill, newest.engines.running.tolist())
        self.pages.append((seen.at_s, window, gauges, seen.prefill, seen.decode))
        busy = window.queued_prefill_requests.or_else(0) > 4
        return Workers(2 + busy, 3 - busy)


@pytest.mark.parametrize("delay_s", [0.0, 20.0])
@pytest.mark.parametrize("until_s", [104.0, 105.0, 150.0])
def test_nothing_that_arrives_later_can_be_seen(until_s, delay_s):
    """Two days that differ only after `until_s` are the same to whoever has scrapes up to then, whatever it decides."""
    day, other = traffic(), traffic(seed=2)
    early, late = day.arrival_s < until_s, other.arrival_s >= until_s
    mixed = type(day)(
        *(np.concatenate([getattr(day, name)[early], getattr(other, name)[late]]) for name in ("arrival_s", "isl_tokens", "osl_tokens"))
    )

    def diary(rows) -> list[tuple]:
        writer = Diary()
        run(Scenario(rows, ENGINE, Workers(2, 2), ClusterOptions(metrics=Metrics(delay_s=delay_s)), horizon_s=280.0), writer)
        return writer.pages

    one, two = diary(day), diary(mixed)
    blind = [index for index, (at_s, *_) in enumerate(one) if at_s - delay_s < until_s]
    assert one[: len(blind)] == two[: len(blind)]
    assert one != two
