"""Which metric names each frontend and engine exports: one entry per family; a new family is a new entry of `FAMILIES`.

Where the names come from:

    dynamo         /metrics text of the Dynamo 1.6.1 frontend. The Dynamo namespace is not in that text: the operator's PodMonitor adds the label
    dynamo-legacy  frontends up to Dynamo 0.4.0: names compiled into ai-dynamo-runtime 0.4.0, and the queries of its planner
    vllm           /metrics text of vLLM 0.32
    sglang         metrics_collector.py of the sglang 0.5.23 wheel
    trtllm         trtllm-serve's documentation (path /prometheus/metrics) and notes in Dynamo 1.6.1's trtllm worker; not seen on a running server
    llamacpp       /metrics text of llama.cpp's server (xllamacpp 2026.10)

A name that a server does not export costs nothing: that measure is then unknown, and says which name was looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sla_planner.errors import UsageError
from sla_planner.model.metric_family import Measure, MetricFamily, MetricKind, Row

MS_PER_S = 1000.0


def _counter(name: str) -> Row:
    return Row(MetricKind.COUNTER, (name,))


def _histogram(name: str, scale: float = 1.0) -> Row:
    return Row(MetricKind.HISTOGRAM, (name,), scale)


def _totals(total: str, number: str, scale: float = 1.0) -> Row:
    return Row(MetricKind.TOTALS, (total, number), scale)


def _gauge(*names: str) -> Row:
    return Row(MetricKind.GAUGE, names)


def _mean_gauge(name: str) -> Row:
    return Row(MetricKind.MEAN_GAUGE, (name,))


_ENGINE_COUNTS_AT_THE_END = "an engine counts requests when they end; offered load is completions plus the change of requests in flight"
_FRONTEND_SEES_NO_ENGINE = "a Dynamo frontend does not export what runs inside the workers"
_LLAMACPP_COUNTS_NO_REQUESTS = "llama.cpp exports no request counter, only tokens and seconds"

_DYNAMO = MetricFamily(
    name="dynamo",
    namespace_label="dynamo_namespace",
    rows={
        Measure.STARTED: _counter("dynamo_frontend_requests_started_total"),
        Measure.COMPLETED: _counter("dynamo_frontend_requests_total"),
        Measure.IN_FLIGHT: _gauge("dynamo_frontend_inflight_requests"),
        Measure.TTFT: _histogram("dynamo_frontend_time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: _histogram("dynamo_frontend_inter_token_latency_seconds", MS_PER_S),
        Measure.DURATION: _histogram("dynamo_frontend_request_duration_seconds"),
        Measure.ISL: _histogram("dynamo_frontend_input_sequence_tokens"),
        Measure.OSL: _histogram("dynamo_frontend_output_sequence_tokens"),
        Measure.QUEUED_PREFILL: _gauge("dynamo_frontend_queued_requests"),
    },
    lacks={
        Measure.ITL_PER_REQUEST: "a Dynamo frontend counts gaps between tokens, not requests",
        Measure.RUNNING_DECODE: _FRONTEND_SEES_NO_ENGINE,
        Measure.KV_USAGE: _FRONTEND_SEES_NO_ENGINE,
    },
)

_DYNAMO_LEGACY = MetricFamily(
    name="dynamo-legacy",
    rows={
        Measure.COMPLETED: _counter("nv_llm_http_service_requests_total"),
        Measure.IN_FLIGHT: _gauge("nv_llm_http_service_inflight_requests"),
        Measure.TTFT: _histogram("nv_llm_http_service_time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: _histogram("nv_llm_http_service_inter_token_latency_seconds", MS_PER_S),
        Measure.DURATION: _histogram("nv_llm_http_service_request_duration_seconds"),
        Measure.ISL: _histogram("nv_llm_http_service_input_sequence_tokens"),
        Measure.OSL: _histogram("nv_llm_http_service_output_sequence_tokens"),
    },
    lacks={
        Measure.STARTED: "frontends up to Dynamo 0.4.0 count requests when they end",
        Measure.ITL_PER_REQUEST: "a Dynamo frontend counts gaps between tokens, not requests",
        Measure.QUEUED_PREFILL: "frontends up to Dynamo 0.4.0 export no queue",
        Measure.RUNNING_DECODE: _FRONTEND_SEES_NO_ENGINE,
        Measure.KV_USAGE: _FRONTEND_SEES_NO_ENGINE,
    },
)

_VLLM = MetricFamily(
    name="vllm",
    model_label="model_name",
    rows={
        Measure.COMPLETED: _counter("vllm:request_success_total"),
        Measure.IN_FLIGHT: _gauge("vllm:num_requests_running", "vllm:num_requests_waiting"),
        Measure.TTFT: _histogram("vllm:time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: _histogram("vllm:inter_token_latency_seconds", MS_PER_S),
        Measure.ITL_PER_REQUEST: _histogram("vllm:request_time_per_output_token_seconds", MS_PER_S),
        Measure.DURATION: _histogram("vllm:e2e_request_latency_seconds"),
        Measure.ISL: _histogram("vllm:request_prompt_tokens"),
        Measure.OSL: _histogram("vllm:request_generation_tokens"),
        Measure.QUEUED_PREFILL: _gauge("vllm:num_requests_waiting"),
        Measure.RUNNING_DECODE: _gauge("vllm:num_requests_running"),
        Measure.KV_USAGE: _mean_gauge("vllm:kv_cache_usage_perc"),  # 0..1 in spite of its name
    },
    lacks={Measure.STARTED: _ENGINE_COUNTS_AT_THE_END},
)

_SGLANG = MetricFamily(
    name="sglang",
    model_label="model_name",
    rows={
        Measure.COMPLETED: _counter("sglang:num_requests_total"),
        Measure.IN_FLIGHT: _gauge("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        Measure.TTFT: _histogram("sglang:time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: _histogram("sglang:inter_token_latency_seconds", MS_PER_S),
        Measure.ITL_PER_REQUEST: _histogram("sglang:request_time_per_output_token_seconds", MS_PER_S),
        Measure.DURATION: _histogram("sglang:e2e_request_latency_seconds"),
        Measure.ISL: _histogram("sglang:prompt_tokens_histogram"),
        Measure.OSL: _histogram("sglang:generation_tokens_histogram"),
        Measure.QUEUED_PREFILL: _gauge("sglang:num_queue_reqs"),
        Measure.RUNNING_DECODE: _gauge("sglang:num_running_reqs"),
        Measure.KV_USAGE: _mean_gauge("sglang:token_usage"),
    },
    lacks={Measure.STARTED: _ENGINE_COUNTS_AT_THE_END},
)

_TRTLLM_LACKS = "trtllm-serve exports no such metric"
_TRTLLM = MetricFamily(
    name="trtllm",
    model_label="model_name",
    rows={
        Measure.COMPLETED: _counter("trtllm_request_success_total"),
        Measure.TTFT: _histogram("trtllm_time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: _histogram("trtllm_inter_token_latency_seconds", MS_PER_S),
        Measure.ITL_PER_REQUEST: _histogram("trtllm_time_per_output_token_seconds", MS_PER_S),
        Measure.DURATION: _histogram("trtllm_e2e_request_latency_seconds"),
        Measure.KV_USAGE: _mean_gauge("trtllm_kv_cache_utilization"),
    },
    lacks={
        Measure.STARTED: _ENGINE_COUNTS_AT_THE_END,
        **dict.fromkeys((Measure.IN_FLIGHT, Measure.ISL, Measure.OSL, Measure.QUEUED_PREFILL, Measure.RUNNING_DECODE), _TRTLLM_LACKS),
    },
)

_LLAMACPP = MetricFamily(
    name="llamacpp",
    model_label=None,
    rows={
        Measure.IN_FLIGHT: _gauge("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        Measure.ITL: _totals("llamacpp:tokens_predicted_seconds_total", "llamacpp:tokens_predicted_total", MS_PER_S),
        Measure.QUEUED_PREFILL: _gauge("llamacpp:requests_deferred"),
        Measure.RUNNING_DECODE: _gauge("llamacpp:requests_processing"),
    },
    lacks={
        **dict.fromkeys((Measure.STARTED, Measure.COMPLETED, Measure.TTFT, Measure.DURATION, Measure.ISL, Measure.OSL), _LLAMACPP_COUNTS_NO_REQUESTS),
        Measure.ITL_PER_REQUEST: "llama.cpp exports no histograms",
        Measure.KV_USAGE: "llama.cpp exports no KV usage",
    },
)

FAMILIES: Mapping[str, MetricFamily] = MappingProxyType(
    {family.name: family for family in (_DYNAMO, _DYNAMO_LEGACY, _VLLM, _SGLANG, _TRTLLM, _LLAMACPP)}
)


def metric_family(name: str) -> MetricFamily:
    """The family called `name`. Raises UsageError for an unknown one, with the known ones."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise UsageError(f"unknown metric family {name!r}", hint=f"known: {', '.join(FAMILIES)}") from None
