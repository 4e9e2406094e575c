"""Traffic as work: how many busy workers a request rate is, per role. Forecasts, jumps and sizes are all in this unit (worker-seconds per second).

Prefill. Prompts are batched, so a prompt costs its share of a full batch, unless it is dearer alone or too long to share one:

    prefill_s(isl) = min(service(isl), isl / best)      isl <= max_batched_tokens
                   = service(isl)                       longer
    best           = max over t <= max_batched_tokens of t / service(t)          tokens/s of one worker

Decode. With the law ITL = c0 + c1*batch + c2*kv, a worker is full when its requests' costs sum to I - c0, when their KV fills its cache, or when it
runs `MAX_SEQUENCES` of them, whichever comes first for this mix. With `share` = what one running request takes of that (1/full batch) and I = the ITL
of a full worker (the promise, or less where KV or sequences are scarcer), a request of `osl` tokens holds it for osl*I:

    decode_s(isl, osl) = osl * I * share(isl + osl/2)        share(k) = (c1 + c2*k) / (I - c0)  or  k / max_kv_tokens  or  1 / MAX_SEQUENCES

Means over requests are sums over histogram buckets, not values at the mean length: half of a trace's tokens can come from 6 % of its prompts. The
two histograms are marginal, so ISL and OSL are taken as independent. An engine that is f times slower than its profile has every latency times f.

What no fleet can keep is said, with the nearest that can be kept: an ITL below that of a request alone, a context that does not fit the cache, and
prompts whose service alone exceeds the TTFT, where they are more than the promise lets miss (`misses` adds a TTFT that leaves no time to queue).
Work is then counted at a target that can be kept, so that the size stays sane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sla_planner.model.batching import MAX_BATCHED_TOKENS, MAX_SEQUENCES, BatchingLaw
from sla_planner.model.engine import Engine, ItlLaw
from sla_planner.model.sla import Sla
from sla_planner.plan.observation import LengthHistogram, TrafficWindow

INFEASIBLE_MARGIN = 1.5  # an impossible latency target is replaced by this times the latency of an empty worker
LONGEST_TOKENS = 1e7  # of a prompt or an answer: beyond any context window; what a page says above it is not believed
MIX_REQUESTS = 30.0  # completions that weigh as much as everything known before
Lengths = tuple[tuple[float, ...], tuple[float, ...]]  # tokens, share of requests


@dataclass(frozen=True, slots=True)
class LengthMix:
    """Mean lengths of recent requests, and their distributions (`tokens`, `share`). Carried across idle intervals."""

    isl: Lengths
    osl: Lengths

    @property
    def isl_tokens(self) -> float:
        return float(np.dot(*self.isl))

    @property
    def osl_tokens(self) -> float:
        return float(np.dot(*self.osl))


@dataclass(frozen=True, slots=True)
class PromptWork:
    """What one prompt of the mix costs a busy worker, in worker-seconds, the second moment of that (s^2), and its TTFT on an idle worker."""

    prefill_s: float
    prefill_s2: float
    alone_s: float


@dataclass(frozen=True, slots=True)
class RequestWork(PromptWork):
    """What one request of the mix costs, in worker-seconds, and what it needs to know of the promise.

    `batch_share` is the share of a full decode worker that
    one running request holds, `itl_target_ms` the ITL of a full worker. `ttft_target_ms` is the promise, or the nearest that can be kept; `verdicts`
    say so. `hopeless_share` of the prompts take longer alone than promised, whatever the fleet.
    """

    prefill_overhead_s: float
    full_batch_s: float
    decode_s: float
    batch_share: float
    ttft_target_ms: float
    itl_target_ms: float
    fixed_step_ms: float
    hopeless_share: float = 0.0
    verdicts: tuple[str, ...] = ()
    prefill_infeasible: bool = False
    decode_infeasible: bool = False


@dataclass(frozen=True, slots=True)
class Slowness:
    """How many times slower than its profile an engine is, per role."""

    prefill: float = 1.0
    decode: float = 1.0


def mixed(previous: LengthMix | None, traffic: TrafficWindow, known_requests: float = MIX_REQUESTS) -> LengthMix | None:
    """The mix after this window: completions weigh n against `known_requests`; idle or unknown lengths leave it as it was."""
    if not (traffic.isl_tokens.known and traffic.osl_tokens.known):
        return previous
    seen = LengthMix(
        isl=_distribution(traffic.isl_lengths, traffic.isl_tokens.value), osl=_distribution(traffic.osl_lengths, traffic.osl_tokens.value)
    )
    if previous is None:
        return seen
    count = traffic.completed_requests.or_else(MIX_REQUESTS)
    gain = count / (count + known_requests)
    return LengthMix(isl=_blend(previous.isl, seen.isl, gain), osl=_blend(previous.osl, seen.osl, gain))


@lru_cache(maxsize=16)
def request_work(engine: Engine, sla: Sla, mix: LengthMix, slowness: Slowness = Slowness()) -> RequestWork:
    """The cost of one request of `mix` on `engine`, `slowness` times slower than its profile, under `sla`."""
    isl_share, service_s, _ = _profiled_prefill(engine, mix.isl)
    service_s, prompt = service_s * slowness.prefill, prompt_work(engine, mix, slowness.prefill)
    late = service_s * 1000 > sla.ttft_ms
    hopeless = float(isl_share[late].sum())
    verdicts, decode = [], _decode_work(engine, sla, mix, slowness.decode)
    ttft_target_ms = sla.ttft_ms
    if prefill_infeasible := hopeless > 1 - sla.attainment + 1e-9:
        reachable_ms = _quantile(service_s * 1000, isl_share, sla.attainment)
        nearest = f"{reachable_ms:.1f} ms is the lowest that {sla.attainment:.0%} of them can have"
        verdicts.append(f"TTFT {sla.ttft_ms:g} ms cannot be met: {hopeless:.0%} of prompts take longer alone; {nearest}")
        ttft_target_ms = reachable_ms
    return RequestWork(
        prefill_s=prompt.prefill_s,
        prefill_s2=prompt.prefill_s2,
        alone_s=prompt.alone_s,
        prefill_overhead_s=engine.prefill.ttft_ms(1) / 1000 * slowness.prefill,
        full_batch_s=engine.prefill.ttft_ms(MAX_BATCHED_TOKENS) / 1000 * slowness.prefill,
        decode_s=decode.request_s,
        batch_share=decode.batch_share,
        ttft_target_ms=ttft_target_ms,
        itl_target_ms=decode.full_itl_ms,
        fixed_step_ms=decode.fixed_ms,
        hopeless_share=hopeless,
        verdicts=(*verdicts, *decode.verdicts),
        prefill_infeasible=prefill_infeasible,
        decode_infeasible=bool(decode.verdicts),
    )


def prompt_work(engine: Engine, mix: LengthMix, slower: float = 1.0) -> PromptWork:
    """The cost of one prompt of `mix` on `engine`, `slower` times slower than its profile."""
    share, service_s, prefill_s = _profiled_prefill(engine, mix.isl)
    return PromptWork(float(prefill_s @ share) * slower, float((prefill_s * prefill_s) @ share) * slower**2, float(service_s @ share) * slower)


@lru_cache(maxsize=16)
def _profiled_prefill(engine: Engine, isl_lengths: Lengths) -> tuple[npt.NDArray[np.float64], ...]:
    """By length: the share of requests, seconds alone on a worker, and worker-seconds of a busy one; as profiled."""
    isl, share = (np.array(part) for part in isl_lengths)
    service_s = np.array([engine.prefill.ttft_ms(tokens) for tokens in isl_lengths[0]]) / 1000
    in_batch_s = np.minimum(service_s, isl / _best_tokens_per_s(engine))
    prefill_s = np.where(isl <= MAX_BATCHED_TOKENS, in_batch_s, service_s) / _streams(engine, float(isl @ share))
    return share, service_s, prefill_s


@dataclass(frozen=True, slots=True)
class _DecodeWork:
    request_s: float
    batch_share: float
    full_itl_ms: float
    fixed_ms: float
    verdicts: tuple[str, ...]


def _decode_work(engine: Engine, sla: Sla, mix: LengthMix, slower: float) -> _DecodeWork:
    osl, osl_share = (np.array(part) for part in mix.osl)
    law = ItlLaw(engine.itl_law.c0_ms * slower, engine.itl_law.c1_ms * slower, engine.itl_law.c2_ms * slower)
    isl_mean, osl_mean = mix.isl_tokens, mix.osl_tokens
    context = isl_mean + float(osl**2 @ osl_share) / (2 * osl_mean)  # of a running request: long outputs are seen running more often
    alone_ms, capacity = law.itl_ms(1, context), engine.decode.max_kv_tokens
    target_ms, verdicts = sla.itl_ms, []
    if alone_ms > sla.itl_ms:
        verdicts.append(f"ITL {sla.itl_ms:g} ms cannot be met: one request alone with {context:.0f} tokens takes {alone_ms:.2f} ms a token")
        target_ms = alone_ms * INFEASIBLE_MARGIN
    if context > capacity:
        verdicts.append(f"a context of {context:.0f} tokens does not fit the KV cache of a decode worker, {capacity} tokens")
    running_tokens = isl_mean + osl / 2
    shares = {
        (law.c1_ms + law.c2_ms * context) / (target_ms - law.c0_ms): (law.c1_ms + law.c2_ms * running_tokens) / (target_ms - law.c0_ms),
        min(context / capacity, 1.0): np.minimum(running_tokens / capacity, 1.0),
        1 / MAX_SEQUENCES: np.full_like(osl, 1 / MAX_SEQUENCES),
    }
    batch_share = max(shares)
    full_itl_ms = min(target_ms, law.itl_ms(1 / batch_share, context / batch_share))
    request_s = float((osl * shares[batch_share]) @ osl_share) * full_itl_ms / 1000
    return _DecodeWork(request_s, batch_share, full_itl_ms, law.c0_ms, tuple(verdicts))


def _streams(engine: Engine, isl_tokens: float) -> int:
    """Prefill batches that a worker serves at once: above 1 with data parallelism, which a profile counts in its throughput and not in its TTFT."""
    tokens_per_s = engine.prefill.throughput_per_gpu(isl_tokens) * engine.prefill.gpus
    return max(round(tokens_per_s * engine.prefill.ttft_ms(isl_tokens) / 1000 / isl_tokens), 1)


def _quantile(values: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], share: float) -> float:
    order = np.argsort(values)
    return float(values[order][min(int(np.searchsorted(np.cumsum(shares[order]), share - 1e-9)), len(values) - 1)])


def decode_load_of_batch(work: RequestWork, running: float, workers: int) -> float:
    """Decode work per second that `running` requests on `workers` workers stand for.

    Each worker holds the share z = running/workers * batch_share of its promise, steps in c0 + z*(I - c0), and so gets through work at the rate
    z * I / step: below the promise requests leave sooner, and the same batch stands for more arriving work.
    """
    share = running * work.batch_share / max(workers, 1)
    step_ms = work.fixed_step_ms + share * (work.itl_target_ms - work.fixed_step_ms)
    return max(workers, 1) * share * work.itl_target_ms / step_ms


@lru_cache(maxsize=16)
def _best_tokens_per_s(engine: Engine) -> float:
    """Tokens/s of one prefill worker at the batch size that serves most."""
    law = BatchingLaw(engine)
    sizes = np.linspace(MAX_BATCHED_TOKENS / 16, MAX_BATCHED_TOKENS, 16)
    return max(float(size) * 1000 / law.prefill_ms(int(size)) for size in sizes)


def _distribution(histogram: LengthHistogram | None, mean_tokens: float) -> Lengths:
    """A representative length per bucket, scaled so that the mean is the measured one; the mean alone without a histogram."""
    if histogram is None or sum(histogram.requests) <= 0:
        return (_believable(mean_tokens),), (1.0,)
    lengths, counts = [], []
    lower = 1.0
    for upper, count in zip(histogram.upper_tokens, histogram.requests, strict=True):
        if count > 0:
            lengths.append(math.sqrt(lower * min(upper, 2 * lower)) if math.isinf(upper) else (lower + upper) / 2)
            counts.append(count)
        if not math.isinf(upper):
            lower = max(upper, 1.0)
    total = sum(counts)
    scale = mean_tokens / (sum(length * count for length, count in zip(lengths, counts, strict=True)) / total)
    return tuple(_believable(length * scale) for length in lengths), tuple(count / total for count in counts)


def _believable(tokens: float) -> float:
    return min(max(tokens, 1.0), LONGEST_TOKENS)


def _blend(old: Lengths, new: Lengths, gain: float) -> Lengths:
    """Mixture of two distributions. Lengths within 10 % of each other are merged, so that the mixture stays as small as a histogram."""
    parts = sorted([(tokens, share * (1 - gain)) for tokens, share in zip(*old, strict=True)] + [(t, s * gain) for t, s in zip(*new, strict=True)])
    tokens: list[float] = []
    shares: list[float] = []
    for length, share in parts:
        if share < 1e-6:
            continue
        if tokens and length < tokens[-1] * 1.1:
            merged = shares[-1] + share
            tokens[-1] = _believable((tokens[-1] * shares[-1] + length * share) / merged)
            shares[-1] = merged
        else:
            tokens.append(length)
            shares.append(share)
    total = sum(shares)
    return tuple(tokens), tuple(share / total for share in shares)
