"""What the planner tells Prometheus and the kubelet, on one port.

    /metrics   the last tick of every target. A quantity that is not a value is absent: not 0, not the number of an earlier tick
    /healthz   200 while every target ticked within the last `STALE_INTERVALS` intervals (a failed tick is a tick), else 503 and the reason
    /readyz    200 once the metrics of any target have answered, or while another planner acts, else 503 and the reason

Every series carries `target`; what belongs to one role carries `role`. `dynamo_*` are the names of Dynamo's SLA planner demo.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sla_planner.errors import UsageError
from sla_planner.plan.decision import Reason, Role
from sla_planner.plan.observation import Quantity, WorkerCounts
from sla_planner.plan.record import Tick

STALE_INTERVALS = 3
_SOCKET_TIMEOUT_S = 10.0
_POLL_S = 0.1  # how long close() may take
_JUDGED = ("target", "promise")

# (labels beside `target`, value) of one target; an empty list leaves the target out.
Points = list[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class _Gauge:
    name: str
    text: str
    labels: tuple[str, ...]
    read: Callable[[Tick], Points]


def _observed(read: Callable[[Tick], Quantity]) -> Callable[[Tick], Points]:
    def points(tick: Tick) -> Points:
        quantity = read(tick)
        return [((), quantity.value)] if quantity.known else []

    return points


def _predicted(field: str) -> Callable[[Tick], Points]:
    return lambda tick: [] if tick.decision.prediction is None else [((), getattr(tick.decision.prediction, field))]


def _predicted_load(tick: Tick) -> Points:
    prediction = tick.decision.prediction
    return [] if prediction is None else [((Role.PREFILL,), prediction.prefill_load), ((Role.DECODE,), prediction.decode_load)]


def _corrections(tick: Tick) -> Points:
    return [((Role.PREFILL,), tick.decision.prefill_correction), ((Role.DECODE,), tick.decision.decode_correction)]


def _desired(tick: Tick) -> Points:
    return [((role.role,), role.desired) for role in (tick.decision.prefill, tick.decision.decode)]


def _actual(tick: Tick) -> Points:
    fleet = ((Role.PREFILL, tick.observation.prefill), (Role.DECODE, tick.observation.decode))
    return [
        ((role, state), getattr(counts, state)) for role, counts in fleet if counts is not None for state in ("ready", "starting", "unschedulable")
    ]


def _needed(tick: Tick) -> Points:
    return [((role.role,), role.need) for role in (tick.decision.prefill, tick.decision.decode)]


def _gpus(tick: Tick) -> Points:
    """A worker that cannot be placed holds none."""
    fleet = (
        (Role.PREFILL, tick.observation.prefill, tick.terms.prefill_gpus),
        (Role.DECODE, tick.observation.decode, tick.terms.decode_gpus),
    )
    return [((role,), counts.coming * gpus) for role, counts, gpus in fleet if counts is not None]


def _expected_misses(tick: Tick) -> Points:
    share = tick.decision.expected_miss_share
    return [] if share is None else [((), share)]


def _reasons(tick: Tick) -> Points:
    return [((role.role, reason), float(role.reason is reason)) for role in (tick.decision.prefill, tick.decision.decode) for reason in Reason]


def _ready(read: Callable[[Tick], WorkerCounts | None]) -> Callable[[Tick], Points]:
    def points(tick: Tick) -> Points:
        counts = read(tick)
        return [] if counts is None else [((), counts.ready)]

    return points


_GAUGES = (
    _Gauge("slaplanner_sla_ttft_ms", "Promised time to first token", (), lambda t: [((), t.terms.sla.ttft_ms)]),
    _Gauge("slaplanner_sla_itl_ms", "Promised inter-token latency", (), lambda t: [((), t.terms.sla.itl_ms)]),
    _Gauge("slaplanner_sla_attainment_ratio", "Share of requests that it is promised to", (), lambda t: [((), t.terms.sla.attainment)]),
    _Gauge("slaplanner_observed_request_rate_rps", "Offered load, requests/s", (), _observed(lambda t: t.observation.traffic.request_rate_rps)),
    _Gauge("slaplanner_observed_isl_tokens", "Mean input length", (), _observed(lambda t: t.observation.traffic.isl_tokens)),
    _Gauge("slaplanner_observed_osl_tokens", "Mean output length", (), _observed(lambda t: t.observation.traffic.osl_tokens)),
    _Gauge("slaplanner_observed_ttft_ms", "Mean time to first token", (), _observed(lambda t: t.observation.traffic.ttft_ms)),
    _Gauge("slaplanner_observed_itl_ms", "Mean inter-token latency", (), _observed(lambda t: t.observation.traffic.itl_ms)),
    _Gauge("slaplanner_observed_ttft_attained_ratio", "Share within the TTFT target", (), _observed(lambda t: t.observation.traffic.ttft_attained)),
    _Gauge("slaplanner_observed_itl_attained_ratio", "Share within the ITL target", (), _observed(lambda t: t.observation.traffic.itl_attained)),
    _Gauge("slaplanner_predicted_request_rate_rps", "Request rate the decision assumed", (), _predicted("request_rate_rps")),
    _Gauge("slaplanner_predicted_isl_tokens", "Input length the decision assumed", (), _predicted("isl_tokens")),
    _Gauge("slaplanner_predicted_osl_tokens", "Output length the decision assumed", (), _predicted("osl_tokens")),
    _Gauge("slaplanner_predicted_load", "Load the decision assumed, in busy workers", ("role",), _predicted_load),
    _Gauge("slaplanner_expected_miss_ratio", "Share of requests expected outside the promise", (), _expected_misses),
    _Gauge("slaplanner_correction", "Observed latency over the profile's", ("role",), _corrections),
    _Gauge("slaplanner_needed_replicas", "Workers needed, before limits and stability", ("role",), _needed),
    _Gauge("slaplanner_desired_replicas", "Workers decided", ("role",), _desired),
    _Gauge("slaplanner_actual_replicas", "Workers there are, by state", ("role", "state"), _actual),
    _Gauge("slaplanner_gpus", "GPUs that workers hold, ready or starting", ("role",), _gpus),
    _Gauge("slaplanner_decision_reason", "1 for the reason of the last decision", ("role", "reason"), _reasons),
    _Gauge("dynamo_ttft_ms", "Mean time to first token", (), _observed(lambda t: t.observation.traffic.ttft_ms)),
    _Gauge("dynamo_itl_ms", "Mean inter-token latency", (), _observed(lambda t: t.observation.traffic.itl_ms)),
    _Gauge("dynamo_request_rate", "Offered load, requests/s", (), _observed(lambda t: t.observation.traffic.request_rate_rps)),
    _Gauge("dynamo_prefill_workers", "Prefill workers serving", (), _ready(lambda t: t.observation.prefill)),
    _Gauge("dynamo_decode_workers", "Decode workers serving", (), _ready(lambda t: t.observation.decode)),
)


class Exporter(Collector):
    """Serves on `port` (0 = any free one, see `.port`) from construction until `close()`. Raises UsageError when the port cannot be had.

    `interval_s`  time between ticks (the longest, where targets differ).
    `clock`       monotonic seconds.
    """

    def __init__(self, port: int, *, interval_s: float, host: str = "0.0.0.0", clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._ticked_at = {"": clock()}  # by target; "" = the start, until a target has ticked
        self._latest: dict[str, tuple[Tick, float]] = {}  # with the time of `update`
        self._failing: set[str] = set()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._judged: dict[tuple[str, str], tuple[float, float]] = {}  # by target and promise: finished requests, those inside it
        self._answered = False
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._server = _listen(host, port, self._answer)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="exporter", daemon=True).start()

    def update(self, tick: Tick) -> None:
        """Show `tick` as its target's last one."""
        known = tick.observation.traffic.request_rate_rps.known
        outcome = tick.carried.value if known else "unknown"
        with self._lock:
            self._latest[tick.target] = tick, self._clock()
            self._failing.discard(tick.target)
            self._answered = self._answered or tick.observation.traffic.answered
            self._judge(tick)
            self._note(tick.target, outcome)

    def fail(self, target: str) -> None:
        """Count a tick of `target` that ended in an error: what it last saw and decided is no longer shown, the age of its data goes on growing."""
        with self._lock:
            self._failing.add(target)
            self._note(target, "failed")

    def stand_by(self, target: str) -> None:
        """Count an interval in which another planner acted for `target`: nothing is shown of it, and there is nothing to wait for."""
        with self._lock:
            self._failing.add(target)
            self._answered = True
            self._note(target, "standby")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for every scrape."""
        with self._lock:
            latest, outcomes, judged, ticked_at = dict(self._latest), dict(self._outcomes), dict(self._judged), dict(self._ticked_at)
            shown = [tick for target, (tick, _) in latest.items() if target not in self._failing]
        for gauge in _GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.text, labels=("target", *gauge.labels))
            for tick in shown:
                for labels, value in gauge.read(tick):
                    family.add_metric((tick.target, *labels), value)
            yield family
        now = self._clock()
        ages = GaugeMetricFamily("slaplanner_data_age_seconds", "Time since traffic was last known", labels=("target",))
        for target, (tick, updated_at) in latest.items():
            ages.add_metric((target,), tick.decision.data_age_s + now - updated_at)
        yield ages
        intervals = GaugeMetricFamily("slaplanner_interval_seconds", "Time between ticks", labels=("target",))
        since_tick = GaugeMetricFamily("slaplanner_tick_age_seconds", "Time since the last tick, whatever came of it", labels=("target",))
        for target, (tick, _) in latest.items():
            intervals.add_metric((target,), tick.terms.interval_s)
            since_tick.add_metric((target,), now - ticked_at[target])
        yield intervals
        yield since_tick
        gpu_hours = CounterMetricFamily("slaplanner_gpu_hours", "GPU-hours charged since the state began", labels=("target",))
        for target, (tick, _) in latest.items():
            gpu_hours.add_metric((target,), tick.gpu_hours)
        yield gpu_hours
        finished = CounterMetricFamily("slaplanner_judged_requests", "Requests finished while it was known who was served in time", labels=_JUDGED)
        inside = CounterMetricFamily("slaplanner_kept_requests", "Of those, requests inside the promise", labels=_JUDGED)
        for names, (requests, kept) in judged.items():
            finished.add_metric(names, requests)
            inside.add_metric(names, kept)
        yield finished
        yield inside
        ticks = CounterMetricFamily("slaplanner_ticks", "Ticks by what came of them", labels=("target", "outcome"))
        for (target, outcome), count in outcomes.items():
            ticks.add_metric((target, outcome), count)
        yield ticks

    def _judge(self, tick: Tick) -> None:
        traffic = tick.observation.traffic
        for promise, share in (("ttft", traffic.ttft_attained), ("itl", traffic.itl_attained)):
            if share.known and traffic.completed_requests.known:
                requests, kept = self._judged.get((tick.target, promise), (0.0, 0.0))
                finished = traffic.completed_requests.value
                self._judged[tick.target, promise] = requests + finished, kept + finished * share.value

    def _note(self, target: str, outcome: str) -> None:
        self._outcomes[target, outcome] += 1
        self._ticked_at.pop("", None)
        self._ticked_at[target] = self._clock()

    def _answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path."""
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        if path not in ("/healthz", "/readyz"):
            return HTTPStatus.NOT_FOUND, "text/plain", b"known paths: /metrics /healthz /readyz\n"
        trouble = self._unhealthy() if path == "/healthz" else self._unready()
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        return status, "text/plain", f"{trouble or 'ok'}\n".encode()

    def _unhealthy(self) -> str:
        with self._lock:
            target, ticked_at = max(self._ticked_at.items(), key=lambda item: item[1])  # one target that hangs must not get all restarted
        age_s = self._clock() - ticked_at
        if age_s < STALE_INTERVALS * self._interval_s:
            return ""
        last = f"the last tick, of {target}, was" if target else "no tick since the start,"
        return f"{last} {age_s:.0f} s ago; the interval is {self._interval_s:g} s"

    def _unready(self) -> str:
        return "" if self._answered else "no metrics have answered yet"


def _listen(host: str, port: int, answer: Callable[[str], tuple[HTTPStatus, str, bytes]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SOCKET_TIMEOUT_S

        def do_GET(self) -> None:
            status, content_type, body = answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Probes and scrapes every few seconds are not news."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot listen on {host}:{port} ({reason})", hint="choose another --prometheus-port") from None
