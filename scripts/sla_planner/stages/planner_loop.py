"""The planner's loop: every target has a thread of its own, so that one that hangs delays nobody else.

next due = last due + interval; ticks that were missed while one took too long are skipped, not made up for

With a Lease only its holder ticks; the others say whom they wait for, and read the memory anew before they act.

SIGTERM and SIGINT let running ticks end, which saves their states, for at most `STOP_LIMIT_S`: a source that hangs must not outlast the patience of
whoever sent the signal. Then the Lease is given back.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from sla_planner.config import Loaded
from sla_planner.errors import InfeasibleError, PlannerError, UnreachableError, UsageError
from sla_planner.logs import setup
from sla_planner.metrics.exporter import Exporter
from sla_planner.plan.decision import Reason
from sla_planner.plan.record import Tick
from sla_planner.planner_config import PlannerConfig
from sla_planner.stages.planner_open import open_targets
from sla_planner.stages.planner_target import PlannedTarget, may_act
from sla_planner.stages.planner_words import LOG
from sla_planner.termination import leave_word

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_LIMIT_S = 5.0
LOOK_S = 0.5  # at the Lease, while another planner has it
LOST = "the interval is lost, see the log"


class Lease(Protocol):
    """Of several planners one acts (`cluster.lease`)."""

    @property
    def held(self) -> bool: ...

    @property
    def words(self) -> str: ...

    def start(self) -> None: ...

    def release(self) -> None: ...


def run(loaded: Loaded[PlannerConfig]) -> None:
    """Run until a signal, or once. Raises `PlannerError` when a target can never work, before any target is touched."""
    config = loaded.config
    setup(config.log_format)
    for line in loaded.describe():
        LOG.info(line)
    _check_once(config)
    lease = _open_lease(config)
    targets = open_targets(config, may_act if lease is None else lambda: "" if lease.held else lease.words)
    exporter = Exporter(config.prometheus_port, interval_s=max(t.basis.settings.interval_s for t in targets)) if config.prometheus_port else None
    loop = _Loop(targets, exporter, lease)
    try:
        if config.once:
            loop.once()
        else:
            loop.until_stopped()
    finally:
        if exporter:
            exporter.close()


def _check_once(config: PlannerConfig) -> None:
    if config.once and config.state is None and any(target.scrape_url for target in config.targets):
        raise UsageError("--once forgets the pages it read, and a window needs two readings", hint="add --state FILE, or read from --prometheus-url")


def _open_lease(config: PlannerConfig) -> Lease | None:
    if config.lease is None:
        return None
    from sla_planner.stages.planner_kubernetes import open_lease

    return open_lease(config.lease, config.state or "")


@dataclass(slots=True)
class _Loop:
    targets: list[PlannedTarget]
    exporter: Exporter | None
    lease: Lease | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def once(self) -> None:
        """One tick of every target. Raises what kept all of them from coming through (`UnreachableError` where a retry may help), and
        `InfeasibleError` when a promise cannot be kept: the best effort is made, and a person should look."""
        with ThreadPoolExecutor(len(self.targets)) as pool:
            ticks = list(pool.map(self._tick, self.targets))
        alone = len(self.targets) == 1
        leave_word("; ".join(target.words if alone else f"{target.config.name}: {target.words}" for target in self.targets))
        troubles = [_trouble(target, tick) for target, tick in zip(self.targets, ticks, strict=True)]
        found = [trouble for trouble in troubles if trouble is not None]
        if len(found) == len(self.targets):
            raise _joined(found, "" if alone else f"target {self.targets[0].config.name}: ")
        for tick in ticks:
            if tick and Reason.INFEASIBLE in (tick.decision.prefill.reason, tick.decision.decode.reason):
                raise InfeasibleError(
                    f"target {tick.target}: {'; '.join(tick.decision.verdicts)}", hint="the decision is a best effort; promise less"
                )

    def until_stopped(self) -> None:
        """Signals are waited for, not handled: a handler could interrupt this thread while it holds a lock that the handler needs."""
        followers = [threading.Thread(target=self._follow, args=(target,), name=target.config.name, daemon=True) for target in self.targets]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            if self.lease:
                self.lease.start()
            for follower in followers:
                follower.start()
            signal.sigwait(STOP_SIGNALS)
        finally:
            self.stop.set()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # a second signal does not wait for anything
        deadline_s = time.monotonic() + STOP_LIMIT_S
        for follower in followers:
            follower.join(max(deadline_s - time.monotonic(), 0.0))
        if self.lease:
            self.lease.release()
        late = [follower.name for follower in followers if follower.is_alive()]
        if late:
            LOG.warning(f"Stopped; the last interval of {', '.join(late)} did not end within {STOP_LIMIT_S:g} s and is given up")
        else:
            LOG.info("Stopped")

    def _follow(self, target: PlannedTarget) -> None:
        interval_s, due_s = target.basis.settings.interval_s, time.monotonic()
        while self._goes_on_at(due_s):
            due_s = min(due_s, time.monotonic())
            if self.lease is None or self.lease.held:
                self._tick(target)
            else:
                self._stand_by(target, self.lease.words)
            missed = max(int((time.monotonic() - due_s) / interval_s), 0)
            due_s += (missed + 1) * interval_s

    def _goes_on_at(self, due_s: float) -> bool:
        """At `due_s`, or as soon as we have become the one that acts: whoever was it may be gone. False: we are to stop."""
        while (left_s := due_s - time.monotonic()) > 0:
            stands_by = self.lease is not None and not self.lease.held
            if self.stop.wait(min(left_s, LOOK_S) if stands_by else left_s):
                return False
            if stands_by and self.lease is not None and self.lease.held:
                return True
        return not self.stop.is_set()

    def _stand_by(self, target: PlannedTarget, why: str) -> None:
        target.forget()
        target.voice.say(f"Standing by: {why}")
        if self.exporter:
            self.exporter.stand_by(target.config.name)

    def _tick(self, target: PlannedTarget) -> Tick | None:
        """None: the tick failed, which is logged and must not stop the other targets."""
        target.words = LOST
        try:
            tick = target.tick(time.time())
            if self.exporter:
                self.exporter.update(tick)
            return tick
        except PlannerError as error:
            target.failure = error
            target.voice.lost(error)
        except Exception:  # noqa: BLE001 - the isolation that several targets are promised
            name = target.config.name
            LOG.exception(f"A fault of ours with target {name}, which is tried again next interval", extra={"target": name})
        if self.exporter:
            self.exporter.fail(target.config.name)
        return None


def _trouble(target: PlannedTarget, tick: Tick | None) -> PlannerError | None:
    """Why nothing could be decided or done for a target, or why the next run will not know of it; None when all went well."""
    if target.failure is not None or target.forgetful is not None:
        return target.failure or target.forgetful
    if tick is None:
        return UnreachableError(LOST, hint="run it again")
    traffic = tick.observation.traffic
    if not traffic.answered:  # what answers and does not tell (no request yet, the first of two readings) is held on and said, and no failure
        return UnreachableError(f"traffic is unknown: {traffic.request_rate_rps.why}", hint="run it again")
    return None


def _joined(troubles: Sequence[PlannerError], place: str) -> PlannerError:
    """The first one, with how many more there are."""
    first = troubles[0]
    first.message = f"{place}{first.message}" + (f"; {len(troubles) - 1} more could not be planned for either" if len(troubles) > 1 else "")
    return first
