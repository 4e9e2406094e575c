"""vLLM, by itself or as Dynamo's worker. Flags, log lines and metrics as in vLLM 0.32; older spellings are read too.

    TP        --tensor-parallel-size tp [--pipeline-parallel-size pp] [--data-parallel-size dp]
    TEP, DEP  the same and --enable-expert-parallel, which spreads the experts over tp * dp GPUs: no other EP exists

KV capacity of one engine, the first that is there:

    kv_cache_size_tokens of `vllm:cache_config_info`       of one data-parallel rank: times dp
    num_gpu_blocks * block_size of the same                already the sum over the ranks that the page lists
    `GPU KV cache size: 2,042,016 tokens`                  one line per rank
    `Maximum concurrency for 2,048 tokens per request: 997.08x`    product, rounded as it is
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
CACHE_INFO = "vllm:cache_config_info"

_PROGRAM = re.compile(r"(?:\S*/)?vllm serve|dynamo\.vllm(?:\.\S+)?|vllm\.entrypoints\.\S+")
_MODEL = ("--model",)
_TP = ("--tensor-parallel-size", "-tp")
_PP = ("--pipeline-parallel-size", "-pp")
_DP = ("--data-parallel-size", "-dp")
_DP_LOCAL = ("--data-parallel-size-local", "-dpl")
_EP = ("--enable-expert-parallel", "-ep")

_KV_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")
_MAX_SEQUENCES = re.compile(r"max[_-]num[_-]seqs['\"]?(?:\s*[=:]\s*|\s+)([\d,]*\d)\b")

_FAMILY = MetricFamily(
    name="vllm",
    model_label="model_name",
    rows={
        Measure.COMPLETED: counter("vllm:request_success_total"),
        Measure.IN_FLIGHT: gauge("vllm:num_requests_running", "vllm:num_requests_waiting"),
        Measure.TTFT: histogram("vllm:time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: histogram("vllm:inter_token_latency_seconds", MS_PER_S),
        Measure.ITL_PER_REQUEST: histogram("vllm:request_time_per_output_token_seconds", MS_PER_S),
        Measure.DURATION: histogram("vllm:e2e_request_latency_seconds"),
        Measure.ISL: histogram("vllm:request_prompt_tokens"),
        Measure.OSL: histogram("vllm:request_generation_tokens"),
        Measure.QUEUED_PREFILL: gauge("vllm:num_requests_waiting"),
        Measure.RUNNING_DECODE: gauge("vllm:num_requests_running"),
        Measure.KV_USAGE: mean_gauge("vllm:kv_cache_usage_perc"),  # 0..1 in spite of its name
    },
    lacks={Measure.STARTED: ENGINE_COUNTS_AT_THE_END},
)


class Vllm:
    name = "vllm"
    parallel = True
    families = (_FAMILY,)
    pages = ("/metrics",)

    def arguments(self, given: Sequence[str], deployment: Deployment) -> list[str]:
        line = CommandLine(given, _PROGRAM)
        line.switch_off("--is-prefill-worker", "--is-decode-worker")
        line.drop("--disaggregation-mode")
        _spread(line, deployment.mapping)
        if deployment.phase is not Phase.BOTH:
            unwanted, wanted = "--no-enable-prefix-caching", "--enable-prefix-caching"
            if deployment.phase is Phase.PREFILL:
                unwanted, wanted = wanted, unwanted
            line.switch_off(unwanted)
            line.switch_on(wanted)
        if deployment.phase is Phase.PREFILL:
            line.set(("--max-num-seqs",), 1)  # of each rank
            line.set(("--max-num-batched-tokens",), TOKENS_PER_PREFILL_STEP)
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
        max_sequences = whole(list(running.values())[-1][1]) * dp if running else None
        for tokens, source in (_of_page(evidence.pages.get("/metrics", ""), dp), _of_log(evidence.log, dp)):
            if tokens:
                return Capacity(tokens, source, max_sequences)
        return None

    def failure(self, log: str) -> Failure | None:
        return failure_in(log)


def tokens_of_blocks(page: str) -> list[int]:
    """num_gpu_blocks * block_size of every sample of the cache's description."""
    infos = [labels for labels, _ in samples(page, CACHE_INFO)]
    return [size * number for labels in infos if (size := _number(labels.get("block_size"))) and (number := _number(labels.get("num_gpu_blocks")))]


def _of_page(page: str, ranks: int) -> tuple[int, str]:
    """Of all ranks together, and where it was read; 0 when the page does not say."""
    sizes = [size for labels, _ in samples(page, CACHE_INFO) if (size := _number(labels.get("kv_cache_size_tokens")))]
    if sizes:
        return sum(sizes) * ranks // len(sizes), f"/metrics: kv_cache_size_tokens of {CACHE_INFO}"
    if sums := tokens_of_blocks(page):  # each rank's sample carries the sum over the ranks of the page
        return max(sums) * ranks // len(sums), f"/metrics: num_gpu_blocks * block_size of {CACHE_INFO}"
    return 0, ""


def _of_log(log: str, ranks: int) -> tuple[int, str]:
    if sizes := last_per_rank(log, _KV_TOKENS):
        return over_ranks({rank: whole(match[1]) for rank, match in sizes.items()}, ranks), "log: KV cache size"
    if ratios := last_per_rank(log, _CONCURRENCY):
        tokens = {rank: int(whole(match[1]) * float(match[2])) for rank, match in ratios.items()}
        return over_ranks(tokens, ranks), "log: maximum concurrency, rounded"
    return 0, ""


def _spread(line: CommandLine, mapping: ParallelMapping) -> None:
    if mapping.ep not in (1, mapping.tp * mapping.dp):
        known = f"vLLM spreads experts over all {mapping.tp * mapping.dp} GPUs or none"
        raise UsageError(f"{mapping.label}: an expert parallelism of {mapping.ep} is not possible; {known}", hint="use TEP or DEP")
    line.set(_TP, mapping.tp)
    if mapping.pp > 1:
        line.set(_PP, mapping.pp)
    line.drop(*_DP_LOCAL)
    if mapping.dp > 1:
        line.set(_DP, mapping.dp)
    else:
        line.drop(*_DP)
    if mapping.ep > 1:
        line.switch_on(*_EP)
    else:
        line.switch_off(*_EP)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and int(text) else None


BACKEND: Backend = Vllm()
