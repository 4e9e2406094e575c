"""/metrics: the names, labels and buckets of a Dynamo frontend (as recorded from 1.6.1) and, per worker, gauges under vLLM's names, the
KV capacity under SGLang's too.

As in Dynamo: `requests_total` counts at completion; TTFT and ITL are of streaming requests only, ITL one observation per token after the first;
`queued_requests` are those without a first token yet. A request that was refused (4xx) is in no metric.

The gauges carry `role` and `worker`. As vLLM does, a worker that decodes states its KV capacity as labels of `cache_config_info`, in whole blocks
of `BLOCK_TOKENS`: capacity = num_gpu_blocks * block_size; as SGLang does, as the gauge `max_total_num_tokens` of each data-parallel rank. Waiting
requests wait in queues that the workers of a role share: `worker="shared"`. A worker that is a process of its own exports its gauges; what waits for
it waits in its frontend, and is in `queued_requests` there.

Counts are plain integers and lists: an observation per token has to cost well under a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from sla_planner.engines.simulated.api import Call, Endpoint
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import Role
from sla_planner.model.frontend_buckets import DURATION_S, ISL_TOKENS, ITL_S, OSL_TOKENS, TTFT_S

FRONTEND = "dynamo_frontend_"
BLOCK_TOKENS = 16  # of KV: vLLM's default


class Histogram:
    """Counts per bucket and a sum, without labels."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, name: str, documentation: str, model: str) -> Metric:
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        family = HistogramMetricFamily(FRONTEND + name, documentation, labels=["model"])
        family.add_metric([model], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        return family


class FrontendMetrics:
    """What the HTTP front counts."""

    def __init__(self, model: str) -> None:
        self.ttft_s = Histogram(TTFT_S)
        self.itl_s = Histogram(ITL_S)
        self.duration_s = Histogram(DURATION_S)
        self.isl_tokens = Histogram(ISL_TOKENS)
        self.osl_tokens = Histogram(OSL_TOKENS)
        self.inflight = self.queued = self.output_tokens = 0
        self._model = model
        self._started: Counter[tuple[Endpoint, str]] = Counter()
        self._finished: Counter[tuple[Endpoint, str, str]] = Counter()

    def started(self, call: Call) -> None:
        self.inflight += 1
        self.queued += 1
        self._started[call.endpoint, _request_type(call)] += 1
        self.isl_tokens.observe(call.isl_tokens)

    def finished(self, call: Call, *, osl_tokens: int, duration_s: float, error_type: str) -> None:
        """`error_type` is empty for a success."""
        self.inflight -= 1
        if not osl_tokens:  # the first token would have ended its queueing
            self.queued -= 1
        self._finished[call.endpoint, _request_type(call), error_type] += 1
        self.osl_tokens.observe(osl_tokens)
        self.duration_s.observe(duration_s)

    def collect(self) -> Iterator[Metric]:
        model = self._model
        yield self.ttft_s.family("time_to_first_token_seconds", "Time to first token in seconds", model)
        yield self.itl_s.family("inter_token_latency_seconds", "Inter-token latency in seconds", model)
        yield self.duration_s.family("request_duration_seconds", "Duration of LLM requests", model)
        yield self.isl_tokens.family("input_sequence_tokens", "Input sequence length in tokens", model)
        yield self.osl_tokens.family("output_sequence_tokens", "Output sequence length in tokens", model)
        for name, value, documentation in (
            ("inflight_requests", self.inflight, "Number of inflight requests"),
            ("queued_requests", self.queued, "Number of requests without a first token yet"),
        ):
            family = GaugeMetricFamily(FRONTEND + name, documentation, labels=["model"])
            family.add_metric([model], value)
            yield family
        yield from self._counters()

    def _counters(self) -> Iterator[Metric]:
        started = CounterMetricFamily(FRONTEND + "requests_started", "LLM requests accepted", labels=["endpoint", "model", "request_type"])
        for (endpoint, request_type), count in self._started.items():
            started.add_metric([endpoint, self._model, request_type], count)
        yield started
        labels = ["endpoint", "error_type", "model", "request_type", "status"]
        finished = CounterMetricFamily(FRONTEND + "requests", "LLM requests processed", labels=labels)
        for (endpoint, request_type, error_type), count in self._finished.items():
            finished.add_metric([endpoint, error_type, self._model, request_type, "error" if error_type else "success"], count)
        yield finished
        tokens = CounterMetricFamily(FRONTEND + "output_tokens", "Output tokens generated (updates in real time)", labels=["model"])
        tokens.add_metric([self._model], self.output_tokens)
        yield tokens


class FleetMetrics:
    """Gauges per worker, read from the fleet at every scrape."""

    def __init__(self, fleet: Fleet, model: str) -> None:
        self._fleet = fleet
        self._model = model

    def collect(self) -> Iterator[Metric]:
        labels = ["model_name", "role", "worker"]
        running = GaugeMetricFamily("vllm:num_requests_running", "Number of requests in model execution batches.", labels=labels)
        kv_usage = GaugeMetricFamily("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", labels=labels)
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Number of requests waiting to be processed.", labels=labels)
        capacity = self._fleet.max_kv_tokens
        for worker in self._fleet.workers():
            running.add_metric([self._model, worker.role, worker.name], worker.load)
            kv_usage.add_metric([self._model, worker.role, worker.name], worker.kv_tokens / capacity)
        for role in self._fleet.roles:
            queue = self._fleet.handover if role is Role.DECODE else self._fleet.waiting
            waiting.add_metric([self._model, role, "shared"], len(queue))
        yield from (running, waiting, kv_usage, *self._kv_capacity())

    def _kv_capacity(self) -> Iterator[Metric]:
        ours = ["role", "worker"]
        config_labels = ["block_size", "cache_dtype", "engine", "num_gpu_blocks", *ours]
        config = GaugeMetricFamily("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=config_labels)
        tokens = GaugeMetricFamily("sglang:max_total_num_tokens", "Maximum total number of tokens in the KV cache pool.", labels=["dp_rank", *ours])
        options = self._fleet.options
        blocks = str(options.stated_kv_tokens // BLOCK_TOKENS)  # of all ranks, on each: vLLM does so
        decoding = (worker for worker in self._fleet.workers() if worker.role is not Role.PREFILL)
        ranks = (worker for worker in decoding for _ in range(options.ranks))
        for number, worker in enumerate(ranks):
            config.add_metric([str(BLOCK_TOKENS), "auto", str(number), blocks, worker.role, worker.name], 1)
            tokens.add_metric([str(number), worker.role, worker.name], options.stated_kv_tokens // options.ranks)
        yield from (config, tokens)


class Exposition:
    """The text of /metrics: what this process counts as a frontend, as a fleet of workers, or as both."""

    def __init__(self, *counted: FrontendMetrics | FleetMetrics) -> None:
        self._registry = CollectorRegistry()
        for each in counted:
            self._registry.register(each)

    def text(self) -> bytes:
        return generate_latest(self._registry)


def _request_type(call: Call) -> str:
    return "stream" if call.stream else "unary"
