"""A fleet as a fluid: the surface of `SimulatedFleet`, an estimate of its latencies, no machine code, and little time whatever the traffic.

Prefill. A prompt is worker-seconds of work: what it costs in a batch as full as whole prompts make it, or alone where it is too long to share one.
N workers are one that is N times as fast, first come first served. With C(t) = work that could have been done until t, and A = the work of the
prompts before, a prompt's turn comes when C reaches

    X = max(C(arrival), X of the one before + its work)          all of a step at once:  X = A + running maximum of (C(arrival) - A)

and its first token after the time that it takes alone, or that of a batch which grew while the one before it was served, at most a full one: a / (1
- r), with a = the fixed overhead of a batch and r = the utilisation of late.

Decode. All running requests get their tokens at one pace, so one clock, in tokens per request, says when each of them ends. It moves, second by
second, by 1 / (c0 + (c1 + c2 k) max(B/N, 1)), where B requests with k tokens of KV each run on N workers. Of those that came in the last `STEP_S`
only the number is kept: with m tokens each they leave like a decaying substance, at the rate B / (m step). Where KV or sequences are full, the rest
waits. Workers that drain go on serving and fade away with their requests.

Workers come and go as in `fleet`, at the resolution of `STEP_S`. Left out: KV transfer, workers of one role that differ in load, and the wait for
one of several busy workers that a single fast one would not know.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import numpy as np
import numpy.typing as npt

from sla_planner.model.batching import MAX_BATCHED_TOKENS
from sla_planner.model.engine import Engine
from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts
from sla_planner.simulate import events
from sla_planner.simulate.events import READY, Core
from sla_planner.simulate.fleet import SimulatedFleet, new_core
from sla_planner.simulate.options import ClusterOptions
from sla_planner.traffic.trace import Trace

STEP_S = 10.0
UTILISATION_S = 10.0  # over which it is averaged
Floats = npt.NDArray[np.float64]
_NOBODY = Trace(np.array([300 * 86_400.0]), np.ones(1, np.int64), np.ones(1, np.int64))  # whoever comes, comes after everything


class FluidFleet:
    """`core` has the counters, the histograms, and each request's first token and end, as far as they are known."""

    def __init__(self, trace: Trace, engine: Engine, options: ClusterOptions, *, prefill: int, decode: int) -> None:
        """`prefill`, `decode`: workers that are ready at second 0."""
        self.now_s = 0.0
        self.core = new_core(trace, engine, options)
        self._workers = SimulatedFleet(_NOBODY, engine, options, prefill=prefill, decode=decode)
        self._prefill = _Prefill(self.core)
        self._decode = _Decode(self.core)
        self._gpus = engine.decode.gpus
        self._draining = 0.0  # decode workers
        self._drained_gpu_s = 0.0

    @property
    def launches(self) -> int:
        return self._workers.launches

    def advance(self, until_s: float) -> None:
        """Everything until then."""
        while self.now_s < until_s:
            self._step(min(until_s, self.now_s + STEP_S))

    def scale(self, prefill: int, decode: int) -> None:
        """Ask for so many workers of each role (>= 0), now."""
        before = self.counts(Role.DECODE).ready
        self._workers.scale(prefill, decode)
        self._draining += before - self.counts(Role.DECODE).ready

    def counts(self, role: Role) -> WorkerCounts:
        return self._workers.counts(role)

    def gpu_seconds(self, role: Role) -> float:
        """Charged so far."""
        return self._workers.gpu_seconds(role) + (self._drained_gpu_s if role is Role.DECODE else 0.0)

    # what an engine's own metrics say

    def prefill_busy_s(self) -> float:
        """Worker-seconds of prefill done so far."""
        return self._prefill.done_s

    def decode_batches(self) -> npt.NDArray[np.int64]:
        ready = self.counts(Role.DECODE).ready
        return np.full(ready, round(self._decode.running / max(ready, 1)), np.int64)

    def decode_kv_usage(self) -> Floats:
        ready = self.counts(Role.DECODE).ready
        return np.full(ready, min(self._decode.kv_tokens / max(ready, 1) / self.core.law[events.MAX_KV], 1.0))

    # a step

    def _step(self, until_s: float) -> None:
        core, lives = self.core, self._workers.core
        prefill = float((1 / lives.p_slow[lives.p_state == READY]).sum())
        decode = float((1 / lives.d_slow[lives.d_state == READY]).sum()) + self._draining
        begun = self._prefill.advance(self.now_s, until_s, prefill)
        stay_s = self._decode.advance(self.now_s, until_s, decode, begun)
        faded = self._draining * (-math.expm1((self.now_s - until_s) / stay_s) if stay_s > 0 else 1.0)
        self._draining -= faded
        self._drained_gpu_s += self._gpus * faded * stay_s
        self._workers.advance(until_s)
        self.now_s = until_s
        index = core.cells
        index[events.NEXT_ARRIVAL], index[events.HEAD] = self._prefill.arrived, self._prefill.begun
        index[events.FIRST_TOKENS] = self._prefill.begun
        index[events.FINISHED] = self._decode.finished
        index[events.HANDOVER_HEAD], index[events.HANDOVER_TAIL] = 0, round(self._decode.waiting)


class _Prefill:
    """`arrived`, `begun`: requests so far; the begun ones have their first token, which is up to a batch too soon."""

    def __init__(self, core: Core) -> None:
        self.arrived = self.begun = 0
        self.done_s = 0.0
        self._core = core
        short = core.prefill_tokens[core.prefill_tokens <= MAX_BATCHED_TOKENS].astype(np.float64)
        left_over = float(np.sum(short**2) / (2 * np.sum(short))) if len(short) else 0.0  # of a batch that the next prompt does not fit into
        full = math.ceil(MAX_BATCHED_TOKENS - left_over)
        per_token_s = float(core.service_s[full]) / full
        self._service_s = core.service_s[core.prefill_tokens]
        shared_s = np.minimum(self._service_s, core.prefill_tokens * per_token_s)
        self._work_s = np.where(core.prefill_tokens <= MAX_BATCHED_TOKENS, shared_s, self._service_s)
        self._before_s = np.cumsum(self._work_s) - self._work_s
        self._turn_s = np.zeros(len(self._work_s))  # X
        self._latest_s = 0.0  # the running maximum
        self._could_s = 0.0  # C
        self._overhead_s, self._full_s = float(core.service_s[1]), float(core.service_s[MAX_BATCHED_TOKENS])
        self._utilisation = 0.0

    def advance(self, from_s: float, until_s: float, workers: float) -> slice:
        """The requests whose turn came."""
        core = self._core
        new = slice(self.arrived, int(np.searchsorted(core.arrival_s, until_s, side="right")))
        self.arrived = new.stop
        could_s = self._could_s + workers * (until_s - from_s)
        if new.stop > new.start:
            ahead = self._could_s + workers * (core.arrival_s[new] - from_s) - self._before_s[new]
            ahead[0] = max(ahead[0], self._latest_s)
            np.maximum.accumulate(ahead, out=ahead)
            self._latest_s = float(ahead[-1])
            self._turn_s[new] = self._before_s[new] + ahead
            _count(core, events.ISL, core.isl[new])
        ready = int(np.searchsorted(self._turn_s[self.begun : self.arrived], could_s)) if workers > 0 else 0
        turned = slice(self.begun, self.begun + ready)
        self._begin(turned, from_s, until_s, workers)
        self.begun, self._could_s = turned.stop, could_s
        return turned

    def _begin(self, turned: slice, from_s: float, until_s: float, workers: float) -> None:
        core = self._core
        done_s = float(self._work_s[turned].sum())
        self.done_s += done_s
        elapsed_s = until_s - from_s
        if workers > 0:
            self._utilisation += (min(done_s / (workers * elapsed_s), 1.0) - self._utilisation) * -math.expm1(-elapsed_s / UTILISATION_S)
        if turned.stop == turned.start:
            return
        batch_s = min(self._overhead_s / max(1 - self._utilisation, 1e-9), self._full_s)
        turn_at_s = from_s + (self._turn_s[turned] - self._could_s) / workers
        core.first_token_s[turned] = turn_at_s + np.maximum(self._service_s[turned], batch_s)
        _count(core, events.TTFT, core.first_token_s[turned] - core.arrival_s[turned])


class _Decode:
    """`running` and `waiting` for room, amounts that need not be whole; `kv_tokens` held by both; `finished` requests."""

    def __init__(self, core: Core) -> None:
        self.running = self.waiting = self.kv_tokens = 0.0
        self.finished = 0
        self._core = core
        gaps, whole = core.osl - 1.0, core.isl + core.osl
        self._kinds = np.stack([gaps > 0, gaps, gaps * (core.isl + core.osl / 2), gaps * whole])  # sums of them say all of a crowd
        self._edges = core.edges[events.ITL].tolist()
        self._crowd_waiting = (0.0, 0.0, 0.0, 0.0)
        self._under_way = np.zeros(0, np.int64)  # requests, and where on the clock each will end
        self._ends_at = np.zeros(0)
        self._clock = 0.0  # tokens that each running request has got since the beginning

    def advance(self, from_s: float, until_s: float, workers: float, begun: slice) -> float:
        """`begun` come in, at their first tokens. How long (s) a request stays now, 0 for nobody."""
        core = self._core
        seconds = math.ceil(until_s - from_s)
        second_s = (until_s - from_s) / seconds
        place = (core.first_token_s[begun] - from_s) / second_s  # some are up to a batch behind the end
        whole = np.clip(place, 0, seconds - 1).astype(np.int64)
        coming = [np.bincount(whole, kind[begun], seconds).tolist() for kind in self._kinds]
        clock, ahead, stay_s = self._flow(workers, second_s, list(zip(*coming, strict=True)))
        behind = np.maximum(place - seconds, 0.0) * (clock[-1] - clock[-2])
        entered = np.interp(place, np.arange(seconds + 1), clock) + behind + np.array(ahead)[whole]
        more = core.osl[begun] > 1
        requests = np.arange(begun.start, begun.stop)
        self._under_way = np.concatenate([self._under_way, requests[more]])
        self._ends_at = np.concatenate([self._ends_at, (entered + core.osl[begun] - 1)[more]])
        over = self._ends_at <= self._clock
        seconds_of = from_s + second_s * np.arange(seconds + 1)
        ended_s = np.interp(self._ends_at[over], clock, seconds_of)
        self._finish(requests[~more], core.first_token_s[begun][~more])
        self._finish(self._under_way[over], np.maximum(ended_s, core.first_token_s[self._under_way[over]]))
        self._under_way, self._ends_at = self._under_way[~over], self._ends_at[~over]
        left = np.minimum(self._ends_at - self._clock, core.osl[self._under_way])
        self.kv_tokens = float((core.isl[self._under_way] + core.osl[self._under_way] - left).sum())
        return stay_s

    def _flow(self, workers: float, second_s: float, coming: list[tuple[float, ...]]) -> tuple[list[float], list[float], float]:
        """Second by second: (the clock at the beginning and after each, tokens on it until somebody new is admitted, seconds of a stay)."""
        law, tally = self._core.law, self._core.tally[events.ITL]
        c0_s, c1_s, c2_s = float(law[events.C0_S]), float(law[events.C1_S]), float(law[events.C2_S])
        max_kv, max_sequences = float(law[events.MAX_KV]), float(law[events.MAX_SEQUENCES])
        w_n, w_g, w_k, w_r = self._crowd_waiting
        known = self._ends_at[: len(self._ends_at) - round(w_n)]  # those that were running before
        ends_at = np.sort(known).tolist()
        kv_of_known = self.kv_tokens / max(len(self._ends_at), 1)
        n, g, k, r = 0.0, 0.0, 0.0, 0.0  # of those that came since
        old = float(len(ends_at))
        clock, ahead, stay_s = [self._clock], [], 0.0
        for more_n, more_g, more_k, more_r in coming:
            w_n, w_g, w_k, w_r = w_n + more_n, w_g + more_g, w_k + more_k, w_r + more_r
            if workers <= 0 or old + n + w_n <= 1e-9:
                clock.append(clock[-1] + (second_s / (c0_s + c1_s) if workers > 0 else 0.0))
                ahead.append(0.0)
                continue
            tokens, kv, most_kv = ((g + w_g) / (n + w_n), (k + w_k) / (g + w_g), (r + w_r) / (g + w_g)) if n + w_n > 1e-9 else (1.0, 0.0, 1.0)
            room = workers * max(min(max_sequences, max_kv / max(most_kv, kv_of_known)), 1.0)
            mean_old, mean_new = old, n
            for _ in range(2):
                crowd = mean_old + mean_new
                step_s = (
                    c0_s + (c1_s + c2_s * (mean_old * kv_of_known + mean_new * kv) / crowd) * max(crowd / workers, 1.0) if crowd > 0 else c0_s + c1_s
                )
                stay_s = tokens * step_s
                kept = math.exp(-second_s / stay_s)
                stayed = stay_s / second_s * (1 - kept)
                old_after = float(len(ends_at) - bisect_left(ends_at, clock[-1] + second_s / step_s))
                admitted = min(max(room - old_after - n * kept, 0.0) / (w_n * stayed), 1.0) if w_n > 0 else 1.0
                after = n * kept + admitted * w_n * stayed
                mean_old, mean_new = (old + old_after) / 2, (n + after) / 2
            old = old_after
            n, g, k, r = (here * kept + admitted * new * stayed for here, new in ((n, w_n), (g, w_g), (k, w_k), (r, w_r)))
            w_n, w_g, w_k, w_r = (new * (1 - admitted) for new in (w_n, w_g, w_k, w_r))
            clock.append(clock[-1] + second_s / step_s)
            ahead.append(w_n * tokens / room)
            tally[bisect_left(self._edges, step_s)] += (mean_old + mean_new) * second_s / step_s
            tally[-1] += (mean_old + mean_new + w_n) * second_s
        self._clock, self._crowd_waiting, self.running, self.waiting = clock[-1], (w_n, w_g, w_k, w_r), old + n, w_n
        return clock, ahead, stay_s

    def _finish(self, requests: npt.NDArray[np.int64], ended_s: Floats) -> None:
        core = self._core
        core.finish_s[requests] = ended_s
        self.finished += len(requests)
        _count(core, events.OSL, core.osl[requests])
        _count(core, events.DURATION, ended_s - core.arrival_s[requests])


def _count(core: Core, histogram: int, values: npt.NDArray[Any]) -> None:
    """Observe all of `values`."""
    if len(values):
        tally = core.tally[histogram]
        tally[:-1] += np.bincount(np.searchsorted(core.edges[histogram], values), minlength=len(tally) - 1)
        tally[-1] += values.sum()
