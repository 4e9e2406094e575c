"""Traffic as work: how many busy workers a request rate is, per role. Forecasts, jumps and sizes are all in this unit (worker-seconds per second).

Prefill. Prompts are batched, so a prompt costs its share of a full batch, unless it is dearer alone or too long to share one:

    prefill_s(isl) = min(service(isl), isl / best)      isl <= max_batched_tokens
                   = service(isl)                       longer
    best           = max over t <= max_batched_tokens of t / service(t)          tokens/s of one worker

Decode. With the law ITL = c0 + c1*batch + c2*kv, a worker is exactly at the promised ITL `I` when its requests' costs sum to I - c0, so a request of
`osl` tokens holds the share (c1 + c2*(isl + osl/2)) / (I - c0) of a worker for osl*I:

    decode_s(isl, osl) = osl * (c1 + c2*(isl + osl/2)) * I / (I - c0)

Means over requests are sums over histogram buckets, not values at the mean length: half of a trace's tokens can come from 6 % of its prompts. The
two histograms are marginal, so ISL and OSL are taken as independent. A promise that even an empty worker breaks is *infeasible*: the verdict names
the nearest achievable value, and work is counted at that value, half as much again, so that the size stays sane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sla_planner.model.batching import MAX_BATCHED_TOKENS, BatchingLaw
from sla_planner.model.engine import Engine
from sla_planner.model.sla import Sla
from sla_planner.plan.observation import LengthHistogram, TrafficWindow

INFEASIBLE_MARGIN = 1.5  # an impossible latency target is replaced by this times the latency of an empty worker
MIX_REQUESTS = 30.0  # completions that weigh as much as everything known before
Lengths = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # tokens, share of requests


@dataclass(frozen=True, slots=True)
class LengthMix:
    """Mean lengths of recent requests, and their distributions (`tokens`, `share`). Carried across idle intervals."""

    isl: tuple[tuple[float, ...], tuple[float, ...]]
    osl: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def isl_tokens(self) -> float:
        return float(np.dot(*self.isl))

    @property
    def osl_tokens(self) -> float:
        return float(np.dot(*self.osl))


@dataclass(frozen=True, slots=True)
class RequestWork:
    """What one request of the mix costs, in worker-seconds, and what it needs to know of the promise.

    `prefill_s2` is the second moment (s^2). `batch_share` is the share of a decode worker at the promised ITL that one running request holds.
    `ttft_target_ms` and `itl_target_ms` are the promise, or the best effort where it is infeasible; `verdicts` say so.
    """

    prefill_s: float
    prefill_s2: float
    prefill_overhead_s: float
    full_batch_s: float
    decode_s: float
    batch_share: float
    ttft_target_ms: float
    itl_target_ms: float
    fixed_step_ms: float
    verdicts: tuple[str, ...] = ()
    prefill_infeasible: bool = False
    decode_infeasible: bool = False

    def corrected(self, prefill: float, decode: float) -> RequestWork:
        """The same request on an engine that is `prefill` / `decode` times slower than its profile."""
        return replace(
            self,
            prefill_s=self.prefill_s * prefill,
            prefill_s2=self.prefill_s2 * prefill**2,
            decode_s=self.decode_s * decode,
            batch_share=self.batch_share * decode,
        )


def mixed(previous: LengthMix | None, traffic: TrafficWindow) -> LengthMix | None:
    """The mix after this window: completions weigh n against `MIX_REQUESTS`; idle or unknown lengths leave it as it was."""
    if not (traffic.isl_tokens.known and traffic.osl_tokens.known):
        return previous
    seen = LengthMix(
        isl=_distribution(traffic.isl_lengths, traffic.isl_tokens.value), osl=_distribution(traffic.osl_lengths, traffic.osl_tokens.value)
    )
    if previous is None:
        return seen
    count = traffic.completed_requests.or_else(MIX_REQUESTS)
    gain = count / (count + MIX_REQUESTS)
    return LengthMix(isl=_blend(previous.isl, seen.isl, gain), osl=_blend(previous.osl, seen.osl, gain))


def request_work(engine: Engine, sla: Sla, mix: LengthMix) -> RequestWork:
    """The cost of one request of `mix` on `engine` under `sla`."""
    isl, isl_share = (np.array(part) for part in mix.isl)
    osl, osl_share = (np.array(part) for part in mix.osl)
    service_s = np.array([engine.prefill.ttft_ms(tokens) for tokens in isl]) / 1000
    best = _best_tokens_per_s(engine)
    prefill_s = np.where(isl <= MAX_BATCHED_TOKENS, np.minimum(service_s, isl / best), service_s)

    isl_mean, osl_mean = float(isl @ isl_share), float(osl @ osl_share)
    verdicts: list[str] = []
    ttft_floor_ms = engine.prefill.ttft_ms(isl_mean)
    ttft_target_ms = sla.ttft_ms
    if prefill_infeasible := ttft_floor_ms > sla.ttft_ms:
        verdicts.append(f"TTFT {sla.ttft_ms:g} ms cannot be met: a prompt of {isl_mean:.0f} tokens alone takes {ttft_floor_ms:.1f} ms")
        ttft_target_ms = ttft_floor_ms * INFEASIBLE_MARGIN

    law = engine.itl_law
    context = isl_mean + float(osl**2 @ osl_share) / (2 * osl_mean)  # of a running request: long outputs are seen running more often
    itl_floor_ms = law.itl_ms(1, context)
    itl_target_ms = sla.itl_ms
    if decode_infeasible := itl_floor_ms > sla.itl_ms:
        verdicts.append(f"ITL {sla.itl_ms:g} ms cannot be met: one request alone with {context:.0f} tokens takes {itl_floor_ms:.2f} ms a token")
        itl_target_ms = itl_floor_ms * INFEASIBLE_MARGIN
    headroom_ms = itl_target_ms - law.c0_ms
    per_token_ms = law.c1_ms + law.c2_ms * (isl_mean + osl / 2)
    decode_s = float((osl * per_token_ms) @ osl_share) * itl_target_ms / headroom_ms / 1000
    return RequestWork(
        prefill_s=float(prefill_s @ isl_share),
        prefill_s2=float(prefill_s**2 @ isl_share),
        prefill_overhead_s=engine.prefill.ttft_ms(1) / 1000,
        full_batch_s=engine.prefill.ttft_ms(MAX_BATCHED_TOKENS) / 1000,
        decode_s=decode_s,
        batch_share=(law.c1_ms + law.c2_ms * context) / headroom_ms,
        ttft_target_ms=ttft_target_ms,
        itl_target_ms=itl_target_ms,
        fixed_step_ms=law.c0_ms,
        verdicts=tuple(verdicts),
        prefill_infeasible=prefill_infeasible,
        decode_infeasible=decode_infeasible,
    )


def decode_load_of_batch(work: RequestWork, running: float, workers: int) -> float:
    """Decode work per second that `running` requests on `workers` workers stand for.

    Each worker holds the share z = running/workers * batch_share of its promise, steps in c0 + z*(I - c0), and so gets through work at the rate
    z * I / step: below the promise requests leave sooner, and the same batch stands for more arriving work.
    """
    share = running * work.batch_share / max(workers, 1)
    step_ms = work.fixed_step_ms + share * (work.itl_target_ms - work.fixed_step_ms)
    return max(workers, 1) * share * work.itl_target_ms / step_ms


def _best_tokens_per_s(engine: Engine) -> float:
    """Tokens/s of one prefill worker at the batch size that serves most."""
    law = BatchingLaw(engine)
    sizes = np.linspace(MAX_BATCHED_TOKENS / 16, MAX_BATCHED_TOKENS, 16)
    return max(float(size) * 1000 / law.prefill_ms(int(size)) for size in sizes)


def _distribution(histogram: LengthHistogram | None, mean_tokens: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A representative length per bucket, scaled so that the mean is the measured one; the mean alone without a histogram."""
    if histogram is None or sum(histogram.requests) <= 0:
        return (max(mean_tokens, 1.0),), (1.0,)
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
    return tuple(max(length * scale, 1.0) for length in lengths), tuple(count / total for count in counts)


def _blend(
    old: tuple[tuple[float, ...], tuple[float, ...]], new: tuple[tuple[float, ...], tuple[float, ...]], gain: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mixture of two distributions. Lengths within 10 % of each other are merged, so that the mixture stays as small as a histogram."""
    parts = sorted([(tokens, share * (1 - gain)) for tokens, share in zip(*old, strict=True)] + [(t, s * gain) for t, s in zip(*new, strict=True)])
    tokens: list[float] = []
    shares: list[float] = []
    for length, share in parts:
        if share < 1e-6:
            continue
        if tokens and length < tokens[-1] * 1.1:
            merged = shares[-1] + share
            tokens[-1] = (tokens[-1] * shares[-1] + length * share) / merged
            shares[-1] = merged
        else:
            tokens.append(length)
            shares.append(share)
    total = sum(shares)
    return tuple(tokens), tuple(share / total for share in shares)
