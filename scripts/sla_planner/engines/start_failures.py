"""Why an engine did not start, from its log: lines that no healthy start prints.

Causes come before consequences: when one rank runs out of memory the others report a broken connection, later in the log and as loudly. Among causes
the last line wins (a log may hold several starts), on one line the first rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sla_planner.engines.backend import Failure
from sla_planner.engines.evidence_text import plain

_SHOWN = 200  # characters of the engine's own line


@dataclass(frozen=True, slots=True)
class Rule:
    """`pattern` begins where the words begin that are worth showing."""

    pattern: re.Pattern[str]
    reason: str
    hint: str
    retry: bool = False
    consequence: bool = False


def rule(pattern: str, reason: str, hint: str, *, retry: bool = False, consequence: bool = False) -> Rule:
    return Rule(re.compile(pattern), reason, hint, retry, consequence)


COMMON = (
    rule(
        r"error: (?:unrecognized arguments?|argument|the following arguments|ambiguous option|invalid argument)\b",
        "the engine does not know an argument",
        "correct the command line; another version of the engine may spell it differently",
    ),
    rule(
        r"To serve at least one request with the models?'?s? max seq len",
        "the KV cache does not hold one request of the longest length",
        "more GPUs per engine, or a smaller --max-model-len",
    ),
    rule(
        r"Total number of attention heads \(\d+\) must be divisible"
        r"|(?:Assertion|Value|Runtime)Error: (?:\d+ is not divisible by \d+|.*heads.*divisible)"
        r"|assert \S*num_(?:attention_|kv_)?heads % \S*tp\S* == 0",
        "the model cannot be split over so many GPUs",
        "use a TP that divides its number of heads",
    ),
    rule(
        r"No available memory for the cache blocks|Not enough memory\. Please try to increase --mem-fraction-static",
        "the weights leave no memory for the KV cache",
        "more GPUs per engine, or a larger share of the GPU's memory for the engine",
    ),
    rule(
        r"Free memory on device \S* ?\([^)]*\) on startup",
        "something else holds memory of the GPU",
        "wait until the engine before is gone, or end what else uses the GPU",
        retry=True,
    ),
    rule(
        r"(?:[\w.]*OutOfMemoryError: )?(?:(?:CUDA|HIP)(?: error:| driver error:)? out of memory|cudaErrorMemoryAllocation)"
        r"|cudaMalloc failed: out of memory|hipMalloc failed: out of memory|[\w.]*OutOfMemoryError: \S",
        "out of GPU memory",
        "more GPUs per engine, or fewer tokens at once",
    ),
    rule(
        r"(?:[\w.]*GatedRepoError|Cannot access gated repo|Access to model \S+ is restricted)",
        "the model is gated",
        "accept its licence and give the engine a token (HF_TOKEN)",
    ),
    rule(
        r"\S+ is not a local folder and is not a valid model identifier|[\w.]*RepositoryNotFoundError|Repository Not Found for url|Repo id must "
        r"|\S+ does not appear to have a file named config\.json|[\w.]*HFValidationError",
        "the model is not found",
        "check its name or path, and that the engine may read it",
    ),
    rule(
        r"(?:\[Errno \d+\] )?(?:[Ee]rror while attempting to bind|[Aa]ddress already in use|EADDRINUSE)|couldn't bind HTTP server socket",
        "the port is taken",
        "another engine may still be ending",
        retry=True,
    ),
    rule(
        r"(?:[\w.]*Error: )?(?:No CUDA GPUs are available|Found no NVIDIA driver|No HIP GPUs are available|no CUDA-capable device"
        r"|invalid device ordinal|CUDA driver version is insufficient|Failed to infer device type|libcuda\.so\.1: cannot open"
        r"|World size \(\d+\) is larger than the number of available GPUs)",
        "a GPU is missing",
        "start it where as many GPUs are free as the mapping needs",
    ),
    rule(
        r"(?:[\w.]*DistBackendError: )?(?:[NR]CCL (?:error|Error|failure)|nccl(?:Unhandled\w+|SystemError|InternalError|RemoteError))",
        "the GPUs of the engine cannot talk to each other (NCCL)",
        "set NCCL_DEBUG=INFO in its environment; shared memory and the network between nodes are the usual causes",
        retry=True,
        consequence=True,
    ),
)


def failure_in(log: str, own: Sequence[Rule] = ()) -> Failure | None:
    """Why, in words; `own` are an engine's own rules, asked before the common ones. None when the log does not say."""
    found: dict[bool, Failure] = {}
    rules = (*own, *COMMON)
    for line in plain(log).splitlines():
        for one in rules:
            if match := one.pattern.search(line):
                found[one.consequence] = Failure(f"{one.reason}: {_shortened(line[match.start() :])}", one.hint, one.retry)
                break
    return found.get(False) or found.get(True)


def _shortened(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _SHOWN else words[: _SHOWN - 1].rstrip() + "…"
