"""A fleet of simulated workers: one queue of prompts, routing, admission, scaling. No HTTP: requests come as objects, tokens go to their sinks.

    prompt --> waiting (FCFS) --> a prefill worker, in a batch --> first token
           --> handover (FCFS) --> the ready decode worker with the fewest requests that admits it --> one token per step

A request that no decode worker admits (KV full, sequence limit, none ready) waits in the handover, and those behind it wait too.
Scaling up launches workers, also while others drain: a worker that drains never comes back. Scaling down takes starting workers first, then those
with the fewest requests, then the newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from sla_planner.engines.simulated.options import FleetOptions, Mode, Role
from sla_planner.engines.simulated.roles import AggregatedWorker, DecodeWorker, PrefillWorker
from sla_planner.engines.simulated.timing import Durations
from sla_planner.engines.simulated.worker import Request, Shared, State, Worker

WORKER_TYPES: dict[Role, type[Worker]] = {Role.PREFILL: PrefillWorker, Role.DECODE: DecodeWorker, Role.AGG: AggregatedWorker}


class Fleet:
    """Lives on the running event loop. `start()` launches the initial workers, ready at once; `close()` ends all."""

    def __init__(self, options: FleetOptions) -> None:
        engine = options.law.engine
        self.options = options
        self.shared = Shared(options.law, Durations(options))
        self.handover: deque[Request] = deque()
        self.targets: dict[Role, int] = {}
        self._workers: dict[Role, list[Worker]] = {}
        self._gpus = {Role.PREFILL: engine.prefill.gpus, Role.DECODE: engine.decode.gpus, Role.AGG: engine.decode.gpus}
        self._launched: dict[Role, int] = {}
        self._past_gpu_seconds: dict[Role, float] = {}

    @property
    def waiting(self) -> deque[Request]:
        return self.shared.waiting

    @property
    def roles(self) -> tuple[Role, ...]:
        return tuple(self._workers)

    def workers(self, role: Role | None = None) -> Iterator[Worker]:
        """Workers from launch to exit, of one role or of all."""
        for each in (role,) if role else self.roles:
            yield from self._workers[each]

    def start(self) -> None:
        initial = {Role.PREFILL: self.options.prefill_workers, Role.DECODE: self.options.decode_workers}
        if self.options.mode is Mode.AGG:
            initial = {Role.AGG: 1}
        for role, count in initial.items():
            self._workers[role], self._launched[role], self._past_gpu_seconds[role] = [], 0, 0.0
            self.targets[role] = count
            for _ in range(count):
                self._launch(role, 0.0)

    def close(self) -> None:
        for worker in list(self.workers()):
            worker.stop()

    # requests

    def submit(self, request: Request) -> None:
        self.waiting.append(request)
        self._feed()

    def cancel(self, request: Request) -> None:
        """The client has gone: free what the request holds. Nothing happens for one that is over."""
        if request.worker is not None:
            request.worker.drop(request)
            self.slot_freed()
            return
        for queue in (self.waiting, self.handover):
            if request in queue:
                queue.remove(request)

    def _feed(self) -> None:
        """Idle workers that prefill look at the queue."""
        for worker in self.workers():
            if not self.waiting:
                return
            if worker.role is not Role.DECODE:
                worker.kick()

    # what workers report

    def prefilled(self, requests: Iterable[Request]) -> None:
        self.handover.extend(requests)
        self.slot_freed()

    def slot_freed(self) -> None:
        """Place what waits for decode."""
        joined: dict[Worker, None] = {}
        while self.handover:
            ready = (worker for worker in self.workers(Role.DECODE) if worker.state is State.READY)
            able = [worker for worker in ready if isinstance(worker, DecodeWorker) and worker.admits(self.handover[0])]
            if not able:
                break
            chosen = min(able, key=lambda worker: worker.load)
            chosen.join(self.handover.popleft())
            joined[chosen] = None
        for worker in joined:
            worker.kick()

    def has_ready_worker(self) -> None:
        self.slot_freed()
        self._feed()

    def is_gone(self, worker: Worker) -> None:
        self._workers[worker.role].remove(worker)
        self._past_gpu_seconds[worker.role] += worker.gpu_seconds()

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

    def serves(self) -> bool:
        """Whether a request that comes now would be worked on: a ready worker in every role."""
        return all(self._in_state(role, State.READY) for role in self.roles)
