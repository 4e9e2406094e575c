"""Workers of both roles, from launch to exit, around the event core.

    launch -> starting -> ready -> draining -> gone          GPU-seconds are charged from launch to exit, start-up and drain included
    unscheduled: asked for beyond `max_gpus`; holds no GPU, and is launched when one is free

Scaling up launches workers, also while others drain: one that drains never comes back. Scaling down takes unscheduled and starting workers first, the
newest first, then those with the fewest requests, then the newest (as `engine-sim` does, and as Kubernetes does where pods tell their deletion cost).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sla_planner.model.batching import MAX_BATCHED_TOKENS, MAX_SEQUENCES
from sla_planner.model.engine import Engine
from sla_planner.model.frontend_buckets import DURATION_S, ISL_TOKENS, ITL_S, OSL_TOKENS, TTFT_S
from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts
from sla_planner.simulate import events
from sla_planner.simulate.events import ABSENT, DRAINING, GONE, NEVER, READY, Core
from sla_planner.simulate.options import ClusterOptions, Spread
from sla_planner.traffic.trace import Trace

FIRST_SLOTS = 16


class Fleet(Protocol):
    """A prefill and a decode role under one trace: `SimulatedFleet`, or what estimates it."""

    now_s: float
    core: Core

    def __init__(self, trace: Trace, engine: Engine, options: ClusterOptions, *, prefill: int, decode: int) -> None: ...

    @property
    def launches(self) -> int: ...

    def advance(self, until_s: float) -> None: ...

    def scale(self, prefill: int, decode: int) -> None: ...

    def counts(self, role: Role) -> WorkerCounts: ...

    def gpu_seconds(self, role: Role) -> float: ...

    def prefill_busy_s(self) -> float: ...

    def decode_batches(self) -> npt.NDArray[np.int64]: ...

    def decode_kv_usage(self) -> npt.NDArray[np.float64]: ...


@dataclass(slots=True)
class _Worker:
    """One worker that holds a slot of the core and GPUs."""

    role: Role
    number: int  # in order of launch
    slot: int
    launched_s: float
    ready_s: float  # NEVER: it never will be
    state: int = ABSENT


@dataclass(slots=True)
class _Workers:
    """One role's."""

    role: Role
    gpus: int
    alive: list[_Worker] = field(default_factory=list)  # in order of launch
    unscheduled: int = 0
    draining: int = 0
    free_slots: list[int] = field(default_factory=list)
    slots: int = 0
    past_gpu_seconds: float = 0.0

    def serving(self) -> list[_Worker]:
        return [worker for worker in self.alive if worker.state == READY]

    def starting(self) -> list[_Worker]:
        return [worker for worker in self.alive if worker.state == ABSENT]


class SimulatedFleet:
    """A prefill and a decode role under one trace. Time only moves in `advance`."""

    def __init__(self, trace: Trace, engine: Engine, options: ClusterOptions, *, prefill: int, decode: int) -> None:
        """`prefill`, `decode`: workers that are ready at second 0."""
        self.now_s = 0.0
        self.engine = engine
        self.options = options
        self.launches = 0
        self.core = new_core(trace, engine, options)
        self._random = np.random.default_rng((options.seed, 1))
        self._roles = {
            Role.PREFILL: _Workers(Role.PREFILL, engine.prefill.gpus, free_slots=list(range(FIRST_SLOTS))[::-1], slots=FIRST_SLOTS),
            Role.DECODE: _Workers(Role.DECODE, engine.decode.gpus, free_slots=list(range(FIRST_SLOTS))[::-1], slots=FIRST_SLOTS),
        }
        self._events: list[tuple[float, int, _Worker]] = []  # ready, or warm after a cold start
        for role, count in ((Role.PREFILL, prefill), (Role.DECODE, decode)):
            for _ in range(count):
                self._launch(self._roles[role], at_once=True)

    # time

    def advance(self, until_s: float) -> None:
        """Everything up to and including `until_s`."""
        while self._events and self._events[0][0] <= until_s:
            at_s, _, worker = heapq.heappop(self._events)
            self._core_to(at_s)
            self._worker_event(worker, at_s)
        self._core_to(until_s)
        self._collect()

    def _core_to(self, until_s: float) -> None:
        if until_s > self.now_s or until_s == 0.0:
            events.advance(self.core, until_s)
            self.now_s = until_s

    def _worker_event(self, worker: _Worker, at_s: float) -> None:
        if worker.state == ABSENT:
            self._becomes_ready(worker, at_s)
        elif worker.state in (READY, DRAINING):  # warm
            self._set_pace(worker, 1.0, at_s)

    def _collect(self) -> None:
        """Workers that left while draining give their slots and GPUs back."""
        for workers in self._roles.values():
            if not workers.draining:
                continue
            states, gone_s = self._columns(workers.role)
            for worker in [worker for worker in workers.alive if worker.state == DRAINING and states[worker.slot] == GONE]:
                workers.draining -= 1
                self._leaves(workers, worker, float(gone_s[worker.slot]))
        self._place_unscheduled()

    # scaling

    def scale(self, prefill: int, decode: int) -> None:
        """Ask for so many workers of each role (>= 0), now."""
        for role, count in ((Role.PREFILL, prefill), (Role.DECODE, decode)):
            workers = self._roles[role]
            asked = len(workers.alive) - workers.draining + workers.unscheduled
            for _ in range(asked - count):
                self._remove_one(workers)
            for _ in range(count - asked):
                workers.unscheduled += 1
        self._place_unscheduled()

    def counts(self, role: Role) -> WorkerCounts:
        """As the Kubernetes API tells: draining workers are no longer counted."""
        workers = self._roles[role]
        starting = len(workers.starting())
        return WorkerCounts(len(workers.alive) - workers.draining - starting, starting, workers.unscheduled)

    def gpu_seconds(self, role: Role) -> float:
        """Charged so far."""
        workers = self._roles[role]
        return workers.past_gpu_seconds + workers.gpus * sum(self.now_s - worker.launched_s for worker in workers.alive)

    def gpus_held(self) -> int:
        return sum(workers.gpus * len(workers.alive) for workers in self._roles.values())

    # what an engine's own metrics say

    def prefill_busy_s(self) -> float:
        """Worker-seconds of prefill done so far."""
        core = self.core
        running = core.p_until_s < NEVER
        return float(core.p_busy_s.sum() - (core.p_until_s[running] - self.now_s).sum())

    def decode_batches(self) -> npt.NDArray[np.int64]:
        """Running requests of each ready decode worker."""
        slots = [worker.slot for worker in self._roles[Role.DECODE].serving()]
        batches: npt.NDArray[np.int64] = self.core.d_batch[slots]
        return batches

    def decode_kv_usage(self) -> npt.NDArray[np.float64]:
        """Share of its KV (0..1) that each ready decode worker holds, as of its last event."""
        slots = [worker.slot for worker in self._roles[Role.DECODE].serving()]
        usage: npt.NDArray[np.float64] = np.minimum(self.core.d_kv[slots] / self.engine.decode.max_kv_tokens, 1.0)
        return usage

    # workers

    def _launch(self, workers: _Workers, *, at_once: bool = False) -> None:
        if not workers.free_slots:
            self._grow(workers)
        worker = _Worker(workers.role, self.launches, workers.free_slots.pop(), self.now_s, self.now_s if at_once else self.now_s + self._startup_s())
        self.launches += 1
        workers.alive.append(worker)
        if at_once:
            self._becomes_ready(worker, self.now_s, warm=True)
        elif worker.ready_s < NEVER:
            heapq.heappush(self._events, (worker.ready_s, worker.number, worker))

    def _startup_s(self) -> float:
        startup = self.options.startup
        if startup.never_share and self._random.random() < startup.never_share:
            return NEVER
        if startup.spread is Spread.UNIFORM:
            return startup.mean_s * float(self._random.uniform(0.5, 1.5))
        if startup.spread is Spread.LOGNORMAL:
            return startup.mean_s * math.exp(self._random.normal(-0.5 * 0.4**2, 0.4))
        return startup.mean_s

    def _becomes_ready(self, worker: _Worker, at_s: float, *, warm: bool = False) -> None:
        core, slot, startup = self.core, worker.slot, self.options.startup
        worker.state = READY
        cold = not warm and startup.cold_s > 0 and startup.cold_factor != 1.0
        self._set_pace(worker, startup.cold_factor if cold else 1.0, at_s)
        if cold:
            heapq.heappush(self._events, (at_s + startup.cold_s, worker.number, worker))
        if worker.role is Role.PREFILL:
            core.p_state[slot] = READY
            core.cells[events.IDLE_PREFILL] += 1
            events.start_prefill(core, at_s)
        else:
            core.d_state[slot] = READY
            core.d_at_s[slot] = at_s
            events.dispatch(core, at_s)

    def _set_pace(self, worker: _Worker, factor: float, at_s: float) -> None:
        if worker.role is Role.PREFILL:
            self.core.p_slow[worker.slot] = factor  # of batches that begin from now on
        else:
            events.slow_down(self.core, worker.slot, factor, at_s)

    def _remove_one(self, workers: _Workers) -> None:
        if workers.unscheduled:
            workers.unscheduled -= 1
            return
        if starting := workers.starting():
            self._leaves(workers, starting[-1], self.now_s)
            return
        states, _ = self._columns(workers.role)
        worker = min(workers.serving(), key=lambda each: (self._held(each), -each.number))
        if self._held(worker):
            worker.state = DRAINING
            states[worker.slot] = DRAINING
            workers.draining += 1
        else:
            if worker.role is Role.PREFILL:
                self.core.cells[events.IDLE_PREFILL] -= 1
            self._leaves(workers, worker, self.now_s)

    def _held(self, worker: _Worker) -> int:
        core = self.core
        if worker.role is Role.DECODE:
            return int(core.d_batch[worker.slot])
        return int(core.p_to[worker.slot] - core.p_from[worker.slot]) if core.p_until_s[worker.slot] < NEVER else 0

    def _leaves(self, workers: _Workers, worker: _Worker, at_s: float) -> None:
        states, _ = self._columns(workers.role)
        states[worker.slot] = ABSENT
        worker.state = GONE
        workers.alive.remove(worker)
        workers.free_slots.append(worker.slot)
        workers.past_gpu_seconds += workers.gpus * (at_s - worker.launched_s)

    def _place_unscheduled(self) -> None:
        for workers in self._roles.values():
            while workers.unscheduled and (self.options.max_gpus is None or self.gpus_held() + workers.gpus <= self.options.max_gpus):
                workers.unscheduled -= 1
                self._launch(workers)

    def _columns(self, role: Role) -> tuple[np.ndarray, np.ndarray]:
        core = self.core
        return (core.p_state, core.p_gone_s) if role is Role.PREFILL else (core.d_state, core.d_gone_s)

    def _grow(self, workers: _Workers) -> None:
        old, new = workers.slots, 2 * workers.slots
        prefix = ("p_",) if workers.role is Role.PREFILL else ("d_", "heap_")
        blank = _slots_of(workers.role, new)
        grown: dict[str, Any] = {}
        for name in (name for name in Core._fields if name.startswith(prefix)):
            blank[name][:old] = getattr(self.core, name)
            grown[name] = blank[name]
        self.core = self.core._replace(**grown)
        self.core.cells[events.PREFILL_SLOTS if workers.role is Role.PREFILL else events.DECODE_SLOTS] = new
        workers.slots = new
        workers.free_slots = list(range(old, new))[::-1]


def new_core(trace: Trace, engine: Engine, options: ClusterOptions) -> Core:
    """The state before the first arrival, without a worker."""
    requests = len(trace)
    isl = trace.isl_tokens.astype(np.int32)
    missed = np.maximum(np.ceil(isl * (1 - options.prefix_hits.share)), 1)
    computed = np.where(trace.arrival_s >= options.prefix_hits.from_s, missed, isl).astype(np.int32)
    law = np.zeros(events.LAW_CELLS)
    law[events.C0_S], law[events.C1_S], law[events.C2_S] = (
        value / 1000 * options.slowness for value in (engine.itl_law.c0_ms, engine.itl_law.c1_ms, engine.itl_law.c2_ms)
    )
    law[events.MAX_BATCHED], law[events.MAX_SEQUENCES], law[events.MAX_KV] = MAX_BATCHED_TOKENS, MAX_SEQUENCES, engine.decode.max_kv_tokens
    law[events.TRANSFER_S], law[events.TRANSFER_S_PER_TOKEN] = options.kv_transfer_s, options.kv_transfer_s_per_token
    index = np.zeros(events.INDEX_CELLS, np.int64)
    index[events.PREFILL_SLOTS] = index[events.DECODE_SLOTS] = FIRST_SLOTS
    transfers = requests if options.kv_transfer_s or options.kv_transfer_s_per_token else 1
    return Core(
        arrival_s=np.ascontiguousarray(trace.arrival_s, np.float64).copy(),
        isl=isl,
        osl=trace.osl_tokens.astype(np.int32),
        prefill_tokens=computed,
        first_token_s=np.full(requests, np.nan),
        finish_s=np.full(requests, np.nan),
        handover=np.zeros(requests, np.int32),
        transfer_s=np.zeros(transfers),
        transfer_request=np.zeros(transfers, np.int32),
        service_s=_service_s(engine, max(int(isl.max()), MAX_BATCHED_TOKENS)) * options.slowness,
        law=law,
        edges=_edges(),
        tally=np.zeros((events.HISTOGRAMS, _edges().shape[1] + 2)),
        cells=index,
        **_slots_of(Role.PREFILL, FIRST_SLOTS),
        **_slots_of(Role.DECODE, FIRST_SLOTS),
    )


def _slots_of(role: Role, slots: int) -> dict[str, np.ndarray]:
    if role is Role.PREFILL:
        return {
            "p_state": np.zeros(slots, np.int8),
            "p_until_s": np.full(slots, NEVER),
            "p_from": np.zeros(slots, np.int64),
            "p_to": np.zeros(slots, np.int64),
            "p_slow": np.ones(slots),
            "p_busy_s": np.zeros(slots),
            "p_gone_s": np.zeros(slots),
        }
    return {
        "d_state": np.zeros(slots, np.int8),
        "d_batch": np.zeros(slots, np.int64),
        "d_count": np.zeros(slots),
        "d_at_s": np.zeros(slots),
        "d_kv": np.zeros(slots),
        "d_reserved": np.zeros(slots),
        "d_next_s": np.full(slots, NEVER),
        "d_slow": np.ones(slots),
        "d_gone_s": np.zeros(slots),
        "heap_count": np.zeros((slots, MAX_SEQUENCES)),
        "heap_request": np.zeros((slots, MAX_SEQUENCES), np.int32),
    }


def _service_s(engine: Engine, longest: int) -> np.ndarray:
    """Seconds of a prefill batch of 0, 1, 2 ... tokens."""
    return np.array([0.0, *(engine.prefill.ttft_ms(tokens) / 1000 for tokens in range(1, longest + 1))])


def _edges() -> np.ndarray:
    """Upper bucket edges of the histograms of `events`, in their order."""
    edges = (TTFT_S, ITL_S, ISL_TOKENS, OSL_TOKENS, DURATION_S)
    longest = max(len(each) for each in edges)
    return np.array([[*each, *[math.inf] * (longest - len(each))] for each in edges])
