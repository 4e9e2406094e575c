"""llama.cpp's server. Log, /props and metrics as in its build of 2026-10 (xllamacpp 2026.10), older log lines are read too. It has no manifest.

A server has `n_slots` slots. Its KV cache is split evenly over them, or, *unified*, one pool that all of them share:

    split     n_slots * n_ctx_slot
    unified   n_ctx_slot, or what the log tells of the pool: a slot is capped to the model's training context, the pool is not

The log says which (`n_slots = 4, n_ctx_slot = 512, kv_unified = 'false'`), /props does not. A server that was left to choose takes four slots and one
pool; so /props alone with four slots is read as a pool: rather a quarter of what is there than four times it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from sla_planner.engines.backend import Backend, Evidence, Failure
from sla_planner.engines.evidence_text import plain
from sla_planner.engines.metric_rows import MS_PER_S, gauge, totals
from sla_planner.engines.start_failures import failure_in, rule
from sla_planner.errors import UsageError
from sla_planner.model.metric_family import Measure, MetricFamily
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment

_SLOTS_OF_ITS_OWN_CHOICE = 4

_SLOTS = re.compile(r"n_slots = (\d+), n_ctx_slot = (\d+), kv_unified = '(true|false)'")
_CONTEXT = re.compile(r"\bn_ctx\s*= (\d+)")
_BEFORE_CAP = re.compile(r"the slot context \((\d+)\) exceeds the training context")  # all of the pool, where slots share one
_OLD_SLOTS = re.compile(r"n_slots = (\d+)")

_FAILURES = (
    rule(r"error while handling argument .*|error: invalid argument: \S+", "the engine does not know an argument", "correct the command line"),
    rule(r"failed to open GGUF file .*|failed to load model from \S+", "the model is not found or cannot be read", "check its path"),
    rule(
        r"failed to allocate (?:buffer for kv cache|compute \S+ buffers)|unable to allocate \S+ buffer",
        "out of memory",
        "a smaller context (-c), or fewer layers on the GPU",
    ),
)

_COUNTS_NO_REQUESTS = "llama.cpp exports no request counter, only tokens and seconds"
_FAMILY = MetricFamily(
    name="llamacpp",
    model_label=None,
    rows={
        Measure.IN_FLIGHT: gauge("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        Measure.ITL: totals("llamacpp:tokens_predicted_seconds_total", "llamacpp:tokens_predicted_total", MS_PER_S),
        Measure.QUEUED_PREFILL: gauge("llamacpp:requests_deferred"),
        Measure.RUNNING_DECODE: gauge("llamacpp:requests_processing"),
    },
    lacks={
        **dict.fromkeys(
            (Measure.STARTED, Measure.COMPLETED, Measure.TTFT, Measure.DURATION, Measure.ISL, Measure.OSL),
            _COUNTS_NO_REQUESTS,
        ),
        Measure.ITL_PER_REQUEST: "llama.cpp exports no histograms",
        Measure.KV_USAGE: "llama.cpp exports no KV usage",
    },
)


class Llamacpp:
    name = "llamacpp"
    parallel = False
    families = (_FAMILY,)
    pages = ("/props",)

    def arguments(self, given: Sequence[str], deployment: Deployment) -> list[str]:  # noqa: ARG002 - the contract of all engines
        raise _no_manifest()

    def spread(self, given: Sequence[str], mapping: ParallelMapping) -> list[str]:  # noqa: ARG002 - the contract of all engines
        raise _no_manifest()

    def serve(self, given: Sequence[str], model: str, path: str, *, trust: bool) -> list[str]:  # noqa: ARG002 - the contract of all engines
        raise _no_manifest()

    def capacity(self, evidence: Evidence, deployment: Deployment) -> Capacity | None:  # noqa: ARG002 - one engine, one cache
        return _of_log(plain(evidence.log)) or _of_props(evidence.pages.get("/props", ""))

    def failure(self, log: str) -> Failure | None:
        return failure_in(log, _FAILURES)


def _of_log(log: str) -> Capacity | None:
    context = _CONTEXT.findall(_llama_context_lines(log))
    if found := _SLOTS.findall(log):
        slots, of_slot, unified = int(found[-1][0]), int(found[-1][1]), found[-1][2] == "true"
        if not unified:
            return Capacity(slots * of_slot, f"log: {slots} slots of {of_slot} tokens", slots)
        told = [of_slot, *map(int, context[-1:]), *map(int, _BEFORE_CAP.findall(log)[-1:])]
        return Capacity(max(told), f"log: one pool for {slots} slots", slots)
    if context:
        old_slots = _OLD_SLOTS.findall(log)
        return Capacity(int(context[-1]), "log: n_ctx", int(old_slots[-1]) if old_slots else None)
    return None


def _llama_context_lines(log: str) -> str:
    """Of the context that serves: the lines of a slot or of the model name other contexts."""
    return "\n".join(line for line in log.splitlines() if "llama_context:" in line or "llama_new_context_with_model:" in line)


def _of_props(page: str) -> Capacity | None:
    try:
        props = json.loads(page)
        slots, of_slot = int(props["total_slots"]), int(props["default_generation_settings"]["n_ctx"])
    except (ValueError, KeyError, TypeError):
        return None
    if slots < 1 or of_slot < 1:
        return None
    if slots == _SLOTS_OF_ITS_OWN_CHOICE:
        source = f"/props: n_ctx, taken as one pool for {slots} slots, since it does not say; {slots * of_slot:,} if it is split"
        return Capacity(of_slot, source, slots)
    return Capacity(slots * of_slot, f"/props: {slots} slots of {of_slot} tokens", slots)


def _no_manifest() -> UsageError:
    return UsageError("llama.cpp has no DynamoGraphDeployment", hint="use an engine command, an endpoint or a workload")


BACKEND: Backend = Llamacpp()
