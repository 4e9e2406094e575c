"""The planner's own port, over a real socket."""

import dataclasses
import socket

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from sla_planner.errors import UsageError
from sla_planner.metrics.exporter import Exporter
from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision, Prediction, Reason, Role, RoleDecision
from sla_planner.plan.observation import Observation, Quantity, WorkerCounts, unknown_traffic
from sla_planner.plan.record import Carried, Terms, Tick


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def exporter(clock):
    exporter = Exporter(0, interval_s=15.0, host="127.0.0.1", clock=clock)
    yield exporter
    exporter.close()


TWO_READY = WorkerCounts(ready=2, starting=1)


def tick(target="llama", *, known=True, prefill=TWO_READY, prefill_wanted=3, data_age_s=0.0, completed=0.0):
    traffic = unknown_traffic(0.0, 15.0, "no answer", answered=known)
    if known:
        traffic = dataclasses.replace(
            traffic,
            request_rate_rps=Quantity.of(2.5),
            isl_tokens=Quantity.of(3000.0),
            osl_tokens=Quantity.idle(),
            ttft_ms=Quantity.of(120.0),
            itl_ms=Quantity.of(9.5),
            ttft_attained=Quantity.of(0.99),
            completed_requests=Quantity.of(completed),
        )
    decision = Decision(
        at_s=0.0,
        prefill=RoleDecision(Role.PREFILL, 2, 5, prefill_wanted, Reason.LOAD_UP, "more load"),
        decode=RoleDecision(Role.DECODE, 4, 4, 4, Reason.STEADY, "enough"),
        prediction=Prediction(3.0, 3100.0, 150.0, prefill_load=1.25, decode_load=3.5) if known else None,
        prefill_correction=1.1,
        decode_correction=0.9,
        expected_miss_share=0.004 if known else None,
        data_age_s=data_age_s,
    )
    return Tick(
        target,
        Observation(traffic, prefill, WorkerCounts(ready=4)),
        decision,
        gpu_hours=12.5,
        carried=Carried.APPLIED if decision.act else Carried.NOTHING,
        terms=Terms(Sla(ttft_ms=300.0, itl_ms=25.0, attainment=0.95), interval_s=30.0, prefill_gpus=2, decode_gpus=8),
    )


def samples(exporter):
    text = requests.get(f"http://127.0.0.1:{exporter.port}/metrics", timeout=5).text
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "target")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["target"] == "llama"
    }


def probe(exporter, path):
    response = requests.get(f"http://127.0.0.1:{exporter.port}{path}", timeout=5)
    return response.status_code, response.text.strip()


def test_what_was_seen_and_decided(exporter):
    exporter.update(tick())
    seen = samples(exporter)
    expected = {
        ("slaplanner_observed_request_rate_rps",): 2.5,
        ("slaplanner_observed_isl_tokens",): 3000.0,
        ("slaplanner_observed_ttft_ms",): 120.0,
        ("slaplanner_observed_itl_ms",): 9.5,
        ("slaplanner_observed_ttft_attained_ratio",): 0.99,
        ("slaplanner_predicted_request_rate_rps",): 3.0,
        ("slaplanner_predicted_isl_tokens",): 3100.0,
        ("slaplanner_predicted_osl_tokens",): 150.0,
        ("slaplanner_predicted_load", "prefill"): 1.25,
        ("slaplanner_predicted_load", "decode"): 3.5,
        ("slaplanner_expected_miss_ratio",): 0.004,
        ("slaplanner_correction", "prefill"): 1.1,
        ("slaplanner_correction", "decode"): 0.9,
        ("slaplanner_needed_replicas", "prefill"): 5.0,
        ("slaplanner_desired_replicas", "prefill"): 3.0,
        ("slaplanner_desired_replicas", "decode"): 4.0,
        ("slaplanner_actual_replicas", "prefill", "ready"): 2.0,
        ("slaplanner_actual_replicas", "prefill", "starting"): 1.0,
        ("slaplanner_actual_replicas", "prefill", "unschedulable"): 0.0,
        ("slaplanner_gpus", "prefill"): 6.0,
        ("slaplanner_gpus", "decode"): 32.0,
        ("slaplanner_decision_reason", "load-up", "prefill"): 1.0,
        ("slaplanner_decision_reason", "steady", "prefill"): 0.0,
        ("slaplanner_decision_reason", "steady", "decode"): 1.0,
        ("slaplanner_sla_ttft_ms",): 300.0,
        ("slaplanner_sla_itl_ms",): 25.0,
        ("slaplanner_sla_attainment_ratio",): 0.95,
        ("slaplanner_interval_seconds",): 30.0,
        ("slaplanner_gpu_hours_total",): 12.5,
        ("slaplanner_ticks_total", "applied"): 1.0,
        ("dynamo_ttft_ms",): 120.0,
        ("dynamo_itl_ms",): 9.5,
        ("dynamo_request_rate",): 2.5,
        ("dynamo_prefill_workers",): 2.0,
        ("dynamo_decode_workers",): 4.0,
    }
    assert {key: seen.get(key) for key in expected} == expected


def test_what_is_idle_or_unknown_is_absent(exporter):
    exporter.update(tick())
    assert ("slaplanner_observed_osl_tokens",) not in samples(exporter)  # idle
    exporter.update(tick(known=False, prefill=None))
    names = {key[0] for key in samples(exporter)}
    assert not {name for name in names if "observed" in name or "predicted" in name or name.startswith("dynamo_")} - {"dynamo_decode_workers"}
    assert not {("slaplanner_actual_replicas", "prefill", "ready"), ("slaplanner_gpus", "prefill")} & samples(exporter).keys()
    assert ("slaplanner_expected_miss_ratio",) not in samples(exporter)
    assert samples(exporter)["slaplanner_desired_replicas", "prefill"] == 3.0


def test_a_worker_that_cannot_be_placed_holds_no_gpu(exporter):
    exporter.update(tick(prefill=WorkerCounts(ready=1, starting=2, unschedulable=4)))
    assert samples(exporter)["slaplanner_gpus", "prefill"] == 6.0


def test_requests_inside_the_promise_add_up_over_ticks(exporter):
    for completed in (100.0, 300.0):
        exporter.update(tick(completed=completed))
    exporter.update(tick(known=False))
    exporter.fail("llama")
    seen = samples(exporter)
    assert seen["slaplanner_judged_requests_total", "ttft"] == 400.0
    assert seen["slaplanner_kept_requests_total", "ttft"] == pytest.approx(396.0)
    assert ("slaplanner_judged_requests_total", "itl") not in seen  # nobody knows their share


def test_the_time_since_a_tick_is_its_targets_own(exporter, clock):
    exporter.update(tick("other"))
    exporter.update(tick())
    clock.now += 70.0
    exporter.fail("other")
    assert samples(exporter)["slaplanner_tick_age_seconds",] == 70.0
    exporter.fail("llama")
    assert samples(exporter)["slaplanner_tick_age_seconds",] == 0.0


def test_ticks_are_counted_by_what_came_of_them(exporter):
    for one in (tick(), tick(), tick(prefill_wanted=2), tick(known=False)):
        exporter.update(one)
    exporter.fail("llama")
    seen = samples(exporter)
    counts = {key[1]: value for key, value in seen.items() if key[0] == "slaplanner_ticks_total"}
    assert counts == {"applied": 2.0, "nothing": 1.0, "unknown": 1.0, "failed": 1.0}


def test_a_planner_that_stands_by_is_healthy_ready_and_shows_nothing(exporter, clock):
    assert probe(exporter, "/readyz")[0] == 503
    for _ in range(5):
        exporter.stand_by("llama")
        clock.now += 40.0
    assert probe(exporter, "/healthz") == probe(exporter, "/readyz") == (200, "ok")
    seen = samples(exporter)
    assert ("slaplanner_desired_replicas", "prefill") not in seen
    assert seen["slaplanner_ticks_total", "standby"] == 5.0


def test_a_failed_tick_hides_old_numbers_and_the_age_goes_on_growing(exporter, clock):
    exporter.update(tick(data_age_s=5.0))
    clock.now += 20.0
    exporter.fail("llama")
    seen = samples(exporter)
    assert ("slaplanner_observed_ttft_ms",) not in seen
    assert ("slaplanner_desired_replicas", "prefill") not in seen
    assert seen["slaplanner_data_age_seconds",] == 25.0
    assert seen["slaplanner_gpu_hours_total",] == 12.5
    exporter.update(tick())
    assert samples(exporter)["slaplanner_observed_ttft_ms",] == 120.0


def test_targets_do_not_mix(exporter):
    exporter.update(tick("llama"))
    exporter.update(tick("other", known=False))
    assert samples(exporter)["slaplanner_observed_ttft_ms",] == 120.0


def test_health_is_lost_when_no_target_ticks(exporter, clock):
    assert probe(exporter, "/healthz") == (200, "ok")
    clock.now += 45.0
    assert probe(exporter, "/healthz") == (503, "no tick since the start, 45 s ago; the interval is 15 s")
    exporter.update(tick("llama"))
    exporter.update(tick("other"))
    clock.now += 44.0
    exporter.fail("other")
    clock.now += 44.0  # llama hangs, other goes on
    assert probe(exporter, "/healthz") == (200, "ok")
    clock.now += 1.0
    assert probe(exporter, "/healthz") == (503, "the last tick, of other, was 45 s ago; the interval is 15 s")


def test_ready_once_traffic_has_been_known(exporter):
    exporter.update(tick(known=False))
    assert probe(exporter, "/readyz") == (503, "no metrics have answered yet")
    exporter.update(tick())
    exporter.update(tick(known=False))
    assert probe(exporter, "/readyz") == (200, "ok")


def test_other_paths_are_not_found(exporter):
    assert probe(exporter, "/") == (404, "known paths: /metrics /healthz /readyz")
    assert probe(exporter, "/healthz?verbose=1")[0] == 200


def test_a_busy_port_is_one_clear_line(exporter):
    with pytest.raises(UsageError, match=rf"cannot listen on 127.0.0.1:{exporter.port} \(Address already in use\); choose another --prometheus-port"):
        Exporter(exporter.port, interval_s=15.0, host="127.0.0.1")


@pytest.mark.parametrize("port", [-1, 70000])
def test_an_impossible_port_is_one_clear_line(port):
    with pytest.raises(UsageError, match="cannot listen on"):
        Exporter(port, interval_s=15.0, host="127.0.0.1")


def test_the_port_is_free_again_after_closing(clock):
    first = Exporter(0, interval_s=15.0, host="127.0.0.1", clock=clock)
    first.close()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", first.port), timeout=1):
        pass
