"""The share of requests that miss the promise on N workers at a given load: a curve of the utilisation r = load / N, not a threshold.

Prefill. The work ahead of an arriving prompt is a queue served at rate 1 with arriving work r. In heavy traffic it is Brownian motion with drift
-(1 - r) and variance per second v, reflected at zero (Kingman 1961; Harrison 1985, section 1.8). Starting empty, after s seconds

    P(wait > t) = F((-t - (1-r) s) / sqrt(v s)) + exp(-2 (1-r) t / v) F((-t + (1-r) s) / sqrt(v s))            F = normal cdf
    v           = r * (E[S^2] / E[S] + (d - 1) E[S])

with S the prefill work of a prompt and d the index of dispersion of arrivals. The miss share is that probability averaged over the first
`SPELL_S` seconds of the load, at t = promise - own service. Own service is a batch's: while a batch of length b is served, r*b of work arrives,
so b = a + r*b = a / (1 - r) for a fixed overhead a, at most a full batch. Past r = 1 the first exponent changes sign and the same formula
describes a backlog that builds up. Load is divided over the workers; no gain from pooling is assumed, because on recorded traffic there is none
(bursts belong to clients and grow with them).

Decode. A batch that arriving work r keeps alive settles where arrivals and completions balance. With z = share of the promise's headroom in use,
ITL = c0 + z (I - c0), and requests that step faster leave sooner:

    z(r) = r c0 / (I - r (I - c0))        z(1) = 1; no balance, so z is unbounded, for r >= I / (I - c0)

What is promised is a request's mean ITL over its life. The mean of the batch over one residence has relative variance 2/3 d / n (n = requests in
the batch; occupancy of an M/G/infinity queue whose correlation lasts one residence). At z = 1 a change of r moves z by I / c0 times as much, and
workers are not equally full nor traffic even within an interval, by `UNEVEN` of the load, so that

    miss share = F((r - 1) / sqrt(UNEVEN^2 + 2/3 d / n (c0 / I)^2))           n = 1 / batch share of one request

On three recorded days (ServeGen), fleets of 1 to 3 decode workers lost 2 to 8 % of requests at r = 0.9, 8 to 21 % at 0.95, 33 to 52 % at 1 and 55 to
78 % at 1.05; the curve says 3, 18, 50 and 82 %. The prefill curve is within a few points of what static fleets lost there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sla_planner.model.sla import Sla
from sla_planner.plan.work import RequestWork

SPELL_S = 15.0  # the default interval; what static fleets lost on recorded days was counted in such bins
REACH, REACH_STEP = 0.3, 1.05
MOMENTS = 16  # of a spell, at which the wait is evaluated
UNEVEN = 0.055  # of a decode worker's load, standard deviation; fits what static fleets lost on recorded days
DISPERSION = 1.3  # variance over mean of arrivals in a second; recorded LLM traffic has 1.2 to 3.7, and this fits what static fleets lost
UTILISATION = np.concatenate([np.arange(8) * 0.05, 0.4 + np.arange(36) * 0.025, 1.3 + np.arange(18) * 0.1])  # grid of r; linear in between
Curve = npt.NDArray[np.float64]  # miss share (0..1) at UTILISATION, non-decreasing


def prefill_miss_curve(work: RequestWork) -> Curve:
    """Share of requests whose TTFT exceeds `work.ttft_target_ms`, at each utilisation of UTILISATION."""
    return _prefill_curve(
        *(_rounded(value) for value in (work.prefill_s, work.prefill_s2, work.prefill_overhead_s, work.full_batch_s)), work.ttft_target_ms
    )


def decode_miss_curve(work: RequestWork) -> Curve:
    """Share of requests whose mean ITL exceeds `work.itl_target_ms`, at each utilisation of UTILISATION."""
    return _decode_curve(work.fixed_step_ms, work.itl_target_ms, _rounded(work.batch_share))


def miss_share(curve: Curve, load: npt.NDArray[np.floating] | float, workers: npt.NDArray[np.integer] | int) -> npt.NDArray[np.float64]:
    """The curve at `load` worker-seconds/s on `workers` workers; any shapes that go together. Everything is missed without a worker."""
    if isinstance(workers, int) and workers <= 0:
        return np.where(np.asarray(load) > 0, 1.0, 0.0)
    shares: npt.NDArray[np.float64] = np.interp(np.asarray(load) / workers, UTILISATION, curve)
    return shares


def highest_load(curve: Curve, share: float) -> float:
    """The largest utilisation whose miss share is at most `share`; the smallest of the grid above 0 when none is."""
    return float(UTILISATION[max(int(np.searchsorted(curve, share, side="right")) - 1, 1)])


def within_reach(work: RequestWork, sla: Sla) -> RequestWork:
    """`work` with a TTFT target that leaves time to queue: the promised share of requests keeps it on workers that are busy `REACH` of the time.

    A tighter one would be kept only by a fleet that stands idle almost all the time; it is said to be out of reach, and the nearest is named.
    """
    if highest_load(prefill_miss_curve(work), 1 - sla.attainment) >= REACH:
        return work
    target_ms = work.ttft_target_ms * REACH_STEP
    while highest_load(prefill_miss_curve(replace(work, ttft_target_ms=target_ms)), 1 - sla.attainment) < REACH:
        target_ms *= REACH_STEP
    near = f"{target_ms:.0f} ms is the nearest that {sla.attainment:.0%} of requests can keep"
    verdict = f"TTFT {sla.ttft_ms:g} ms leaves no time to queue: {near} on workers that are busy {REACH:.0%} of the time"
    return replace(work, ttft_target_ms=target_ms, verdicts=(verdict, *work.verdicts), prefill_infeasible=True)


def _rounded(value: float) -> float:
    """Steps of 1 %: near enough for a curve, and lets a drifting mix share one."""
    return 1.01 ** round(math.log(value) / math.log(1.01)) if value > 0 else 0.0


@lru_cache(maxsize=4096)
def _prefill_curve(mean_s: float, second_s2: float, overhead_s: float, full_batch_s: float, target_ms: float) -> Curve:
    r = UTILISATION
    batch_s = np.full_like(r, full_batch_s)
    batch_s[r < 1] = np.minimum(full_batch_s, overhead_s / (1 - r[r < 1]))
    slack_s = target_ms / 1000 - np.maximum(batch_s, mean_s)
    variance = (second_s2 / mean_s + (DISPERSION - 1) * mean_s) * r
    shares = np.where(slack_s <= 0, 1.0, 0.0)
    waits = (slack_s > 0) & (variance > 0)
    shares[waits] = _waiting_share(r[waits], slack_s[waits], variance[waits])
    return _monotone(shares)


def _waiting_share(r: Curve, slack_s: Curve, variance: Curve) -> Curve:
    """P(wait > slack) averaged over a spell that starts with an empty queue; arrays of one entry per utilisation, slack and variance > 0."""
    elapsed_s = SPELL_S * (np.arange(MOMENTS)[:, None] + 0.5) / MOMENTS
    spread = np.sqrt(variance * elapsed_s)
    drift_s = (1 - r) * elapsed_s
    reflected = np.exp(np.minimum(-2 * (1 - r) * slack_s / variance, 700.0))
    late = _normal_cdf((-slack_s - drift_s) / spread) + reflected * _normal_cdf((-slack_s + drift_s) / spread)
    shares: Curve = np.minimum(late.mean(axis=0), 1.0)
    return shares


@lru_cache(maxsize=4096)
def _decode_curve(fixed_ms: float, target_ms: float, batch_share: float) -> Curve:
    scatter = math.hypot(UNEVEN, math.sqrt(2 / 3 * DISPERSION * batch_share) * fixed_ms / target_ms)
    return _monotone(_normal_cdf((UTILISATION - 1) / scatter))


def _monotone(shares: Curve) -> Curve:
    curve: Curve = np.maximum.accumulate(shares)
    curve.flags.writeable = False
    return curve


def _normal_cdf(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Abramowitz and Stegun 26.2.17, absolute error below 7.5e-8. numpy has no erfc, and importing scipy takes long."""
    t = 1 / (1 + 0.2316419 * np.abs(x))
    upper = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper *= np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return np.where(x >= 0, 1 - upper, upper)
