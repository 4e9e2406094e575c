"""Which metric names each frontend and engine exports: one entry of `FAMILIES` per family. The frontends are here, an engine brings its own
(`engines/backends/`).

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

from sla_planner.engines.backends import backend, backend_names
from sla_planner.engines.metric_rows import MS_PER_S, counter, gauge, histogram
from sla_planner.errors import UsageError
from sla_planner.model.metric_family import Measure, MetricFamily

_FRONTEND_SEES_NO_ENGINE = "a Dynamo frontend does not export what runs inside the workers"

_DYNAMO = MetricFamily(
    name="dynamo",
    namespace_label="dynamo_namespace",
    rows={
        Measure.STARTED: counter("dynamo_frontend_requests_started_total"),
        Measure.COMPLETED: counter("dynamo_frontend_requests_total"),
        Measure.IN_FLIGHT: gauge("dynamo_frontend_inflight_requests"),
        Measure.TTFT: histogram("dynamo_frontend_time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: histogram("dynamo_frontend_inter_token_latency_seconds", MS_PER_S),
        Measure.DURATION: histogram("dynamo_frontend_request_duration_seconds"),
        Measure.ISL: histogram("dynamo_frontend_input_sequence_tokens"),
        Measure.OSL: histogram("dynamo_frontend_output_sequence_tokens"),
        Measure.QUEUED_PREFILL: gauge("dynamo_frontend_queued_requests"),
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
        Measure.COMPLETED: counter("nv_llm_http_service_requests_total"),
        Measure.IN_FLIGHT: gauge("nv_llm_http_service_inflight_requests"),
        Measure.TTFT: histogram("nv_llm_http_service_time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: histogram("nv_llm_http_service_inter_token_latency_seconds", MS_PER_S),
        Measure.DURATION: histogram("nv_llm_http_service_request_duration_seconds"),
        Measure.ISL: histogram("nv_llm_http_service_input_sequence_tokens"),
        Measure.OSL: histogram("nv_llm_http_service_output_sequence_tokens"),
    },
    lacks={
        Measure.STARTED: "frontends up to Dynamo 0.4.0 count requests when they end",
        Measure.ITL_PER_REQUEST: "a Dynamo frontend counts gaps between tokens, not requests",
        Measure.QUEUED_PREFILL: "frontends up to Dynamo 0.4.0 export no queue",
        Measure.RUNNING_DECODE: _FRONTEND_SEES_NO_ENGINE,
        Measure.KV_USAGE: _FRONTEND_SEES_NO_ENGINE,
    },
)

_FRONTENDS = (_DYNAMO, _DYNAMO_LEGACY)
_ENGINES = tuple(family for name in backend_names() for family in backend(name).families)

FAMILIES: Mapping[str, MetricFamily] = MappingProxyType({family.name: family for family in (*_FRONTENDS, *_ENGINES)})


def metric_family(name: str) -> MetricFamily:
    """The family called `name`. Raises UsageError for an unknown one, with the known ones."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise UsageError(f"unknown metric family {name!r}", hint=f"known: {', '.join(FAMILIES)}") from None
