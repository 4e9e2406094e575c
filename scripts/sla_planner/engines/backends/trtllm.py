"""TensorRT-LLM as Dynamo's worker. What is set goes into the JSON of `--override-engine-args`, which wins over flags and over the engine's own file.

    TP        {"tensor_parallel_size": tp, "enable_attention_dp": false}
    TEP       the same and {"moe_expert_parallel_size": ep, "moe_tensor_parallel_size": tp / ep}
    DEP       {"tensor_parallel_size": tp*dp, "enable_attention_dp": true, "moe_expert_parallel_size": ep, "moe_tensor_parallel_size": tp*dp / ep}

KV capacity: `Allocated 41.35 GiB for max tokens in paged KV cache (502272)`, of one attention-DP rank. The engine first allocates a small cache to
estimate how much memory it needs, so several such lines appear; the last one holds.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from sla_planner.engines.arguments import CommandLine
from sla_planner.engines.backend import Backend, Evidence, Failure
from sla_planner.engines.evidence_text import plain, whole
from sla_planner.engines.metric_rows import ENGINE_COUNTS_AT_THE_END, MS_PER_S, counter, histogram, mean_gauge
from sla_planner.engines.start_failures import failure_in, rule
from sla_planner.errors import UsageError
from sla_planner.model.metric_family import Measure, MetricFamily
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment, Phase

TOKENS_PER_PREFILL_STEP = 32768

_PROGRAM = re.compile(r"dynamo\.trtllm(?:\.\S+)?")
_MODEL = ("--model-path", "--model")
_OVERRIDES = "--override-engine-args"
_DYNAMIC = "--trtllm."
_MOE_KEYS = ("moe_expert_parallel_size", "moe_tensor_parallel_size", "moe_cluster_parallel_size")

_ALLOCATED = re.compile(r"Allocated [\d.,]+ ?GiB for max tokens in paged KV cache \(([\d,]*\d)\)")
_APPLIED = re.compile(r"Applying engine arg overrides: (\{.*\})")

_FAILURES = (
    rule(
        r"Failed to parse override_engine_args as JSON",
        "the engine does not understand --override-engine-args",
        "correct the JSON",
    ),
)

_LACKS = "trtllm-serve exports no such metric"
_FAMILY = MetricFamily(
    name="trtllm",
    model_label="model_name",
    rows={
        Measure.COMPLETED: counter("trtllm_request_success_total"),
        Measure.TTFT: histogram("trtllm_time_to_first_token_seconds", MS_PER_S),
        Measure.ITL: histogram("trtllm_inter_token_latency_seconds", MS_PER_S),
        Measure.ITL_PER_REQUEST: histogram("trtllm_time_per_output_token_seconds", MS_PER_S),
        Measure.DURATION: histogram("trtllm_e2e_request_latency_seconds"),
        Measure.KV_USAGE: mean_gauge("trtllm_kv_cache_utilization"),
    },
    lacks={
        Measure.STARTED: ENGINE_COUNTS_AT_THE_END,
        **dict.fromkeys((Measure.IN_FLIGHT, Measure.ISL, Measure.OSL, Measure.QUEUED_PREFILL, Measure.RUNNING_DECODE), _LACKS),
    },
)


class Trtllm:
    name = "trtllm"
    parallel = True
    families = (_FAMILY,)
    pages: tuple[str, ...] = ()

    def arguments(self, given: Sequence[str], deployment: Deployment) -> list[str]:
        line = CommandLine(given, _PROGRAM)
        line.drop("--disaggregation-mode", "--disaggregation-strategy")
        return _rewritten(line, deployment.mapping, lambda overrides: _set_up(overrides, deployment))

    def spread(self, given: Sequence[str], mapping: ParallelMapping) -> list[str]:
        return _rewritten(CommandLine(given, _PROGRAM), mapping, lambda _: None)

    def serve(self, given: Sequence[str], model: str, path: str, *, trust: bool) -> list[str]:
        line = CommandLine(given, _PROGRAM)
        line.set_model(_MODEL, path, model)
        if trust:
            line.set((_OVERRIDES,), json.dumps(_overrides(line) | {"trust_remote_code": True}))
        return line.written()

    def capacity(self, evidence: Evidence, deployment: Deployment) -> Capacity | None:
        log = plain(evidence.log)
        found = _ALLOCATED.findall(log)
        if not found:
            return None
        dp = deployment.mapping.dp
        batch = _applied_batch(log)
        return Capacity(whole(found[-1]) * dp, "log: last allocation of the paged KV cache", batch * dp if batch else None)

    def failure(self, log: str) -> Failure | None:
        return failure_in(log, _FAILURES)


def _rewritten(line: CommandLine, mapping: ParallelMapping, set_up: Callable[[dict[str, Any]], None]) -> list[str]:
    if dynamic := line.starting_with(_DYNAMIC):
        raise UsageError(f"{dynamic} cannot stand beside {_OVERRIDES}, which this writes", hint=f"write it as {_OVERRIDES} JSON")
    overrides = _overrides(line)
    _spread(overrides, mapping, moe_given=line.has("--expert-parallel-size"))
    set_up(overrides)
    line.set((_OVERRIDES,), json.dumps(overrides))
    _agree(line, overrides)
    return line.written()


def _overrides(line: CommandLine) -> dict[str, Any]:
    text = line.value(_OVERRIDES)
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"{_OVERRIDES} is no JSON: {error}: {text!r}", hint="write plain JSON, without variables of the shell") from None
    if not isinstance(given, dict):
        raise UsageError(f"{_OVERRIDES} is no JSON object: {text!r}", hint='for example {"max_batch_size": 64}')
    return given


def _spread(overrides: dict[str, Any], mapping: ParallelMapping, *, moe_given: bool) -> None:
    """Experts are named only where the mapping or what was given names them: a dense model has none."""
    gpus = mapping.tp * mapping.dp
    if gpus % mapping.ep:
        raise UsageError(f"{mapping.label}: {gpus} GPUs cannot be split into an expert parallelism of {mapping.ep}", hint="use a divisor")
    overrides["tensor_parallel_size"] = gpus
    overrides["enable_attention_dp"] = mapping.dp > 1
    if mapping.pp > 1:
        overrides["pipeline_parallel_size"] = mapping.pp
    if mapping.ep > 1 or moe_given or any(key in overrides for key in _MOE_KEYS):
        overrides["moe_expert_parallel_size"] = mapping.ep
        overrides["moe_tensor_parallel_size"] = gpus // mapping.ep
        overrides.pop("moe_cluster_parallel_size", None)


def _set_up(overrides: dict[str, Any], deployment: Deployment) -> None:
    overrides["disable_overlap_scheduler"] = False
    overrides["cache_transceiver_config"] = None  # it moves KV between prefill and decode engines
    if deployment.phase is not Phase.BOTH:
        cache = overrides.get("kv_cache_config")
        overrides["kv_cache_config"] = {**(cache if isinstance(cache, dict) else {}), "enable_block_reuse": deployment.phase is Phase.DECODE}
    if deployment.phase is Phase.PREFILL:
        overrides["max_batch_size"] = 1  # of each rank
        overrides["max_num_tokens"] = TOKENS_PER_PREFILL_STEP


def _agree(line: CommandLine, overrides: dict[str, Any]) -> None:
    """Flags that are given say what the JSON says, so that a reader of the manifest is not misled."""
    for flag, key in (
        ("--tensor-parallel-size", "tensor_parallel_size"),
        ("--pipeline-parallel-size", "pipeline_parallel_size"),
        ("--expert-parallel-size", "moe_expert_parallel_size"),
        ("--max-batch-size", "max_batch_size"),
        ("--max-num-tokens", "max_num_tokens"),
    ):
        if line.has(flag) and key in overrides:
            line.set((flag,), overrides[key])
    if not overrides["enable_attention_dp"]:
        line.switch_off("--enable-attention-dp")


def _applied_batch(log: str) -> int | None:
    """`max_batch_size` among the overrides that the worker says it applied; other places of the log name batch sizes of other things."""
    applied = _APPLIED.findall(log)
    try:
        batch = ast.literal_eval(applied[-1]).get("max_batch_size") if applied else None
    except (ValueError, SyntaxError):
        return None
    return batch if isinstance(batch, int) and batch > 0 else None


BACKEND: Backend = Trtllm()
