"""SGLang, by itself or as Dynamo's worker. Flags, log lines and metrics as in SGLang 0.5.23; older spellings are read too.

SGLang's TP counts all GPUs of a stage, of which attention data parallelism is a split:

    TP        --tp tp [--pp pp]                           several copies of a dense model: --dp dp
    TEP       --tp tp --ep-size ep
    DEP       --tp tp*dp --dp dp --ep-size ep --enable-dp-attention        or --attn-dp-size dp where it is given so

KV capacity of one engine, of one data-parallel rank times dp, the first that is there:

    `sglang:max_total_num_tokens`                                          a gauge; only with --enable-metrics
    `max_total_num_tokens=2042016, ..., max_running_requests=4096, ...`
    `KV Cache is allocated. #tokens: 2042016, ...`
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sla_planner.engines.arguments import CommandLine
from sla_planner.engines.backend import Backend, Evidence, Failure
from sla_planner.engines.evidence_text import last_per_rank, over_ranks, samples, whole
from sla_planner.engines.metric_rows import ENGINE_COUNTS_AT_THE_END, MS_PER_S, counter, gauge, histogram, mean_gauge
from sla_planner.engines.start_failures import failure_in
from sla_planner.errors import UsageError
from sla_planner.model.metric_family import Measure, MetricFamily
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment, Phase

TOKENS_PER_PREFILL_STEP = 32768

_PROGRAM = re.compile(r"(?:\S*/)?sglang serve|dynamo\.sglang(?:\.\S+)?|sglang\.launch_server")
_MODEL = ("--model-path", "--model")
_TP = ("--tp", "--tp-size", "--tensor-parallel-size")
_PP = ("--pp", "--pp-size", "--pipeline-parallel-size")
_DP = ("--dp", "--dp-size", "--data-parallel-size")
_ATTENTION_DP = ("--attn-dp-size", "--attention-data-parallel-size")
_EP = ("--ep-size", "--ep", "--expert-parallel-size")

_GAUGE = "sglang:max_total_num_tokens"
_LIMITS = re.compile(r"\bmax_total_num_tokens=([\d,]*\d)")
_ALLOCATED = re.compile(r"(?<!draft )KV [Cc]ache (?:is )?allocated\b.*?#tokens: ([\d,]*\d)")
_MAX_SEQUENCES = re.compile(r"\bmax_running_requests=([\d,]*\d)")

_FAMILY = MetricFamily(
    name="sglang",
    model_label="model_name",
    rows={
        Measure.COMPLETED: counter("sglang:num_requests_total"),
        Measure.IN_FLIGHT: gauge("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        Measure.TTFT: histogram("sglang:time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: histogram("sglang:inter_token_latency_seconds", MS_PER_S),
        Measure.ITL_PER_REQUEST: histogram("sglang:request_time_per_output_token_seconds", MS_PER_S),
        Measure.DURATION: histogram("sglang:e2e_request_latency_seconds"),
        Measure.ISL: histogram("sglang:prompt_tokens_histogram"),
        Measure.OSL: histogram("sglang:generation_tokens_histogram"),
        Measure.QUEUED_PREFILL: gauge("sglang:num_queue_reqs"),
        Measure.RUNNING_DECODE: gauge("sglang:num_running_reqs"),
        Measure.KV_USAGE: mean_gauge("sglang:token_usage"),
    },
    lacks={Measure.STARTED: ENGINE_COUNTS_AT_THE_END},
)


class Sglang:
    name = "sglang"
    parallel = True
    families = (_FAMILY,)
    pages = ("/metrics",)

    def arguments(self, given: Sequence[str], deployment: Deployment) -> list[str]:
        line = CommandLine(given, _PROGRAM)
        line.drop("--disaggregation-mode", "--disaggregation-transfer-backend", "--disaggregation-bootstrap-port")
        _spread(line, deployment.mapping)
        if deployment.phase is Phase.PREFILL:
            line.switch_on("--disable-radix-cache")
            line.set(("--max-running-requests",), deployment.mapping.dp)
            line.set(("--chunked-prefill-size",), TOKENS_PER_PREFILL_STEP)
        else:
            if deployment.phase is Phase.DECODE:
                line.switch_off("--disable-radix-cache")
            if deployment.mapping.dp > 1:
                line.set(("--load-balance-method",), "round_robin")
        return line.written()

    def spread(self, given: Sequence[str], mapping: ParallelMapping) -> list[str]:
        line = CommandLine(given, _PROGRAM)
        _spread(line, mapping)
        return line.written()

    def serve(self, given: Sequence[str], model: str, path: str, *, trust: bool) -> list[str]:
        line = CommandLine(given, _PROGRAM)
        line.set_model(_MODEL, path, model)
        if trust:
            line.switch_on("--trust-remote-code")
        return line.written()

    def capacity(self, evidence: Evidence, deployment: Deployment) -> Capacity | None:
        dp = deployment.mapping.dp
        running = last_per_rank(evidence.log, _MAX_SEQUENCES)
        max_sequences = over_ranks({rank: whole(match[1]) for rank, match in running.items()}, dp) if running else None
        gauges: dict[str, int] = {}
        for labels, value in samples(evidence.pages.get("/metrics", ""), _GAUGE):
            rank = labels.get("dp_rank", "")
            gauges[rank] = max(gauges.get(rank, 0), int(value))
        sources = {f"/metrics: {_GAUGE}": gauges}
        for pattern, what in ((_LIMITS, "log: max_total_num_tokens"), (_ALLOCATED, "log: KV cache allocated")):
            sources[what] = {rank: whole(match[1]) for rank, match in last_per_rank(evidence.log, pattern).items()}
        for source, per_rank in sources.items():
            if per_rank and all(per_rank.values()):
                return Capacity(over_ranks(per_rank, dp), source, max_sequences)
        return None

    def failure(self, log: str) -> Failure | None:
        return failure_in(log)


def _spread(line: CommandLine, mapping: ParallelMapping) -> None:
    gpus = mapping.tp * mapping.dp
    if gpus % mapping.ep:
        raise UsageError(f"{mapping.label}: {gpus} GPUs cannot be split into an expert parallelism of {mapping.ep}", hint="use a divisor")
    new_spelling = line.has(*_ATTENTION_DP)
    attention = mapping.dp > 1 and (mapping.ep > 1 or new_spelling or line.has("--enable-dp-attention"))
    line.set(_TP, gpus if attention else mapping.tp)
    if mapping.pp > 1:
        line.set(_PP, mapping.pp)
    _share_attention(line, mapping.dp, attention, new_spelling)
    if mapping.ep > 1:
        line.set(_EP, mapping.ep)
    else:
        line.drop(*_EP)


def _share_attention(line: CommandLine, dp: int, attention: bool, new_spelling: bool) -> None:
    """The data-parallel flags: of attention, of copies of the engine, or none."""
    if attention and new_spelling:
        line.set(_ATTENTION_DP, dp)
        line.drop(*_DP)
        line.switch_off("--enable-dp-attention")
        return
    line.drop(*_ATTENTION_DP)
    if dp > 1:
        line.set(_DP, dp)
    else:
        line.drop(*_DP)
    if attention:
        line.switch_on("--enable-dp-attention")
    else:
        line.switch_off("--enable-dp-attention", "--enable-dp-lm-head")  # the second needs the first


BACKEND: Backend = Sglang()
