"""aiperf as a second measurer: for those who trust it, and to compare with. It is a program of its own, found on PATH, never a dependency.

    command -> run -> profile_export_aiperf.json somewhere below the artifact folder -> AiperfResult

What it calls time_to_first_token and inter_token_latency is our TTFT and ITL: (latency of a request - its TTFT) / (OSL - 1). Its
output_token_throughput is that of the whole run, start and tail included, so it lies below batch / ITL. Keys as of aiperf 0.13; an absent metric is
None.
Source: https://github.com/ai-dynamo/aiperf
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sla_planner.errors import EngineError, UsageError
from sla_planner.traffic.client import base_url

RESULT_NAME = "profile_export_aiperf.json"
PROGRAM = "aiperf"
_TO_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3}
_TOLD = 300  # characters of its last words
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Spread:
    """One latency over the requests of a run, ms. Percentiles are None where the file has none."""

    mean_ms: float
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class AiperfResult:
    """One run. `output_tokens_per_s` of all requests together. `warnings`: why it should not be trusted, a sentence each."""

    version: str
    requests: int
    ttft: Spread | None
    itl: Spread | None
    output_tokens_per_s: float | None
    isl_tokens: float | None
    osl_tokens: float | None
    duration_s: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AiperfShape:
    """What aiperf is asked to send: `requests` of `isl_tokens` and `osl_tokens`, `concurrency` at once. `tokenizer`: a name or folder; empty: the
    model's. `warmup_requests` are not measured."""

    url: str
    model: str
    isl_tokens: int
    osl_tokens: int
    concurrency: int = 1
    requests: int = 1
    tokenizer: str = ""
    warmup_requests: int = 3
    seed: int = 100
    timeout_s: float = 1800.0


def command(shape: AiperfShape, artifact_dir: Path, program: str = PROGRAM) -> list[str]:
    """The argument vector. Answers are forced to their length by `ignore_eos`, `min_tokens` and `max_tokens`, at the top level of the request only:
    strict servers refuse them elsewhere. As many different prompts as requests, so that none is answered from a cache."""
    options: list[tuple[str, object]] = [
        ("--model", shape.model),
        ("--tokenizer", shape.tokenizer or shape.model),
        ("--endpoint-type", "chat"),
        ("--endpoint", "/v1/chat/completions"),
        ("--url", base_url(shape.url).removesuffix("/v1")),
        ("--synthetic-input-tokens-mean", shape.isl_tokens),
        ("--synthetic-input-tokens-stddev", 0),
        ("--output-tokens-mean", shape.osl_tokens),
        ("--output-tokens-stddev", 0),
        ("--extra-inputs", f"max_tokens:{shape.osl_tokens}"),
        ("--extra-inputs", f"min_tokens:{shape.osl_tokens}"),
        ("--extra-inputs", "ignore_eos:true"),
        ("--concurrency", shape.concurrency),
        ("--request-count", shape.requests),
        ("--num-dataset-entries", shape.requests),
        ("--warmup-request-count", shape.warmup_requests),
        ("--random-seed", shape.seed),
        ("--request-timeout-seconds", f"{shape.timeout_s:g}"),
        ("--artifact-dir", artifact_dir),
    ]
    return [program, "profile", "--streaming", *(str(part) for option in options for part in option)]


async def measure(shape: AiperfShape, artifact_dir: Path) -> AiperfResult:
    """Run aiperf and read what it wrote. Ends it when cancelled. Raises `UsageError` when it is not installed or left no result, `EngineError` with
    its last words when it failed."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise UsageError("aiperf is not on PATH", hint="pip install aiperf, best into an environment of its own, or measure without it")
    arguments = command(shape, artifact_dir, program)
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise UsageError(f"{program} cannot be run: {error.strerror}", hint="install aiperf anew") from error
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        await _ended(process)
        raise
    if process.returncode:
        words = " ".join(output.decode(errors="replace").split())[-_TOLD:]
        raise EngineError(f"aiperf ended with exit code {process.returncode}: {words}", hint=f"its files are in {artifact_dir}")
    return read(find(artifact_dir))


def find(artifact_dir: Path) -> Path:
    """The newest result below `artifact_dir`. Raises `UsageError` when there is none."""
    results = sorted(artifact_dir.rglob(RESULT_NAME), key=lambda path: path.stat().st_mtime)
    if not results:
        raise UsageError(f"no {RESULT_NAME} below {artifact_dir}", hint="give the artifact folder of a finished aiperf run")
    return results[-1]


def read(path: Path) -> AiperfResult:
    """The result in the file `path`. Raises `UsageError` naming it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read {path}: {reason}", hint="give the result file of a finished aiperf run") from error
    return parse(text, str(path))


def parse(text: str, name: str = RESULT_NAME) -> AiperfResult:
    """The result that `text` holds; `name` is told in errors. Raises `UsageError`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: no JSON: {error}", hint="the file is damaged: run aiperf again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{name}: not a result of aiperf", hint="give its profile_export_aiperf.json")
    metrics = _Metrics(content, name)
    requests = metrics.average("request_count")
    result = AiperfResult(
        version=str(content.get("aiperf_version") or "unknown"),
        requests=int(requests or 0),
        ttft=metrics.spread("time_to_first_token"),
        itl=metrics.spread("inter_token_latency"),
        output_tokens_per_s=metrics.average("output_token_throughput"),
        isl_tokens=metrics.average("input_sequence_length"),
        osl_tokens=metrics.average("output_sequence_length"),
        duration_s=metrics.seconds("benchmark_duration"),
        warnings=tuple(_warnings(content)),
    )
    if result.ttft is None and result.itl is None:
        raise UsageError(f"{name}: neither time_to_first_token nor inter_token_latency in it", hint="no request succeeded, or it was not streaming")
    return result


class _Metrics:
    """Metrics of one file: an object {unit, avg, p50 ...} each, or a bare number."""

    def __init__(self, content: Mapping[str, Any], name: str) -> None:
        self._content, self._name = content, name

    def spread(self, key: str) -> Spread | None:
        mean = self.average(key)
        if mean is None:
            return None
        scale = self._to_ms(key)
        p50, p99 = (self._number(key, percentile) for percentile in ("p50", "p99"))
        return Spread(mean * scale, None if p50 is None else p50 * scale, None if p99 is None else p99 * scale)

    def average(self, key: str) -> float | None:
        return self._number(key, "avg")

    def seconds(self, key: str) -> float | None:
        value = self.average(key)
        return None if value is None else value * self._to_ms(key, "s") / 1e3

    def _number(self, key: str, statistic: str) -> float | None:
        metric = self._content.get(key)
        value = metric.get(statistic) if isinstance(metric, dict) else metric if statistic == "avg" else None
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UsageError(
                f"{self._name}: {key}: {statistic} is {value!r}, not a number of 0 or more", hint="the file is damaged: run aiperf again"
            )
        return float(value)

    def _to_ms(self, key: str, default: str = "ms") -> float:
        metric = self._content.get(key)
        unit = metric.get("unit", default) if isinstance(metric, dict) else default
        if unit not in _TO_MS:
            raise UsageError(f"{self._name}: {key}: unit is {unit!r}", hint=f"known units of time: {', '.join(_TO_MS)}")
        return _TO_MS[unit]


def _warnings(content: Mapping[str, Any]) -> Iterator[str]:
    if content.get("was_cancelled") or content.get("is_complete") is False:
        yield "aiperf's run is not complete"
    errors = content.get("error_summary")
    for entry in errors if isinstance(errors, list) else []:
        details = entry.get("error_details", entry) if isinstance(entry, dict) else entry
        words = (details.get("message") or details.get("type") or json.dumps(details)) if isinstance(details, dict) else str(details)
        count = entry.get("count", 1) if isinstance(entry, dict) else 1
        yield f"{count} of aiperf's requests failed: {' '.join(str(words).split())[:_TOLD]}"


async def _ended(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
