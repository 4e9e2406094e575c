"""A fleet of simulated workers in this process: launch, start-up, scaling. Which request goes where: routing.py.

Scaling up launches workers, also while others drain: a worker that drains never comes back. Scaling down takes starting workers first, then those
with the fewest requests, then the newest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from sla_planner.engines.simulated.options import FleetOptions, Role
from sla_planner.engines.simulated.roles import AggregatedWorker, DecodeWorker, PrefillWorker
from sla_planner.engines.simulated.routing import Routing, State
from sla_planner.engines.simulated.timing import Durations
from sla_planner.engines.simulated.worker import Shared, Worker

WORKER_TYPES: dict[Role, type[Worker]] = {Role.PREFILL: PrefillWorker, Role.DECODE: DecodeWorker, Role.AGG: AggregatedWorker}


class Fleet(Routing):
    """Lives on the running event loop. `start()` launches the initial workers; `close()` ends all. `watcher` hears of every change of a state."""

    def __init__(self, options: FleetOptions) -> None:
        super().__init__()
        engine = options.law.engine
        self.options = options
        self.shared = Shared(options.law, Durations(options), self.waiting)
        self.targets: dict[Role, int] = {}
        self.watcher: Callable[[Worker], None] | None = None
        self._workers: dict[Role, list[Worker]] = {}
        self._gpus = {Role.PREFILL: engine.prefill.gpus, Role.DECODE: engine.decode.gpus, Role.AGG: engine.decode.gpus}
        self._launched: dict[Role, int] = {}
        self._past_gpu_seconds: dict[Role, float] = {}

    @property
    def roles(self) -> tuple[Role, ...]:
        return tuple(self._workers)

    @property
    def max_kv_tokens(self) -> int:
        return self.options.law.engine.decode.max_kv_tokens

    def workers(self, role: Role | None = None) -> Iterator[Worker]:
        for each in (role,) if role else self.roles:
            yield from self._workers[each]

    def decoding(self) -> Iterator[DecodeWorker]:
        return (worker for worker in self.workers(Role.DECODE) if isinstance(worker, DecodeWorker))

    def start(self) -> None:
        startup_s = self.shared.durations.startup_s() if self.options.mode.worker_role else 0.0
        for role, count in self.options.initial_workers().items():
            self._workers[role], self._launched[role], self._past_gpu_seconds[role] = [], 0, 0.0
            self.targets[role] = count
            for _ in range(count):
                self._launch(role, startup_s)

    def close(self) -> None:
        for worker in list(self.workers()):
            worker.stop()

    def state_changed(self, worker: Worker) -> None:
        if worker.state is State.READY:
            self.has_ready_worker()
        elif worker.state is State.GONE:
            self._workers[worker.role].remove(worker)
            self._past_gpu_seconds[worker.role] += worker.gpu_seconds()
        if self.watcher is not None:
            self.watcher(worker)

    # scaling

    def scale(self, prefill: int, decode: int) -> None:
        """Ask for these many workers of each role (disaggregated fleets only)."""
        for role, count in ((Role.PREFILL, prefill), (Role.DECODE, decode)):
            self.targets[role] = count
            active = [worker for worker in self.workers(role) if worker.state in (State.STARTING, State.READY)]
            for _ in range(count - len(active)):
                self._launch(role, self.shared.durations.startup_s())
            newest_first = reversed(active)
            leaving = sorted(newest_first, key=lambda worker: (worker.state is State.READY, worker.load))
            for worker in leaving[: max(len(active) - count, 0)]:
                worker.drain()

    @property
    def settled(self) -> bool:
        """Every asked-for worker is ready and none beyond them is in rotation."""
        return all(self._in_state(role, State.READY) == count and not self._in_state(role, State.STARTING) for role, count in self.targets.items())

    def _in_state(self, role: Role, state: State) -> int:
        return sum(worker.state is state for worker in self.workers(role))

    def _launch(self, role: Role, startup_s: float) -> None:
        worker = WORKER_TYPES[role](f"{role}-{self._launched[role]}", self._gpus[role], self)
        self._launched[role] += 1
        self._workers[role].append(worker)
        worker.launch(startup_s)

    # what an observer may know

    def gpu_seconds(self, role: Role) -> float:
        """Wall-clock seconds times GPUs, from launch to exit, over all workers this role has had."""
        return self._past_gpu_seconds[role] + sum(worker.gpu_seconds() for worker in self.workers(role))

    def describe(self) -> dict[str, Any]:
        """`gpu_seconds`: wall-clock seconds times GPUs, from launch to exit, start-up and drain included. `max_kv_tokens`: of one worker that
        decodes, as /metrics states it."""
        statistics = self.shared.statistics
        p50, p95 = statistics.error_percentiles()
        return super().describe() | {
            "targets": {role: self.targets[role] for role in self.roles},
            "settled": self.settled,
            "gpu_seconds": {role: self.gpu_seconds(role) for role in self.roles},
            "max_kv_tokens": self.options.stated_kv_tokens,
            "max_sequences": self.options.law.max_sequences,
            "timing": {
                "steps": statistics.steps,
                "late_steps": statistics.late_steps,
                "late_share": statistics.late_share,
                "step_error_p50": p50,
                "step_error_p95": p95,
                "keeps_up": statistics.keeps_up,
                "cpu_s": time.process_time(),
            },
        }
