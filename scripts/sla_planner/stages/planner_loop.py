"""The planner's loop: every target has a thread of its own, so that one that hangs delays nobody else.

next due = last due + interval; ticks that were missed while one took too long are skipped, not made up for

SIGTERM and SIGINT let running ticks end, which saves their states, for at most `STOP_LIMIT_S`: a source that hangs must not outlast the patience of
whoever sent the signal.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sla_planner.config import Loaded
from sla_planner.errors import InfeasibleError, PlannerError, UnreachableError, UsageError
from sla_planner.logs import setup
from sla_planner.metrics.exporter import Exporter
from sla_planner.metrics.scrape import FIRST_READING
from sla_planner.plan.decision import Reason
from sla_planner.plan.record import Carried, Tick
from sla_planner.planner_config import PlannerConfig
from sla_planner.stages.planner_target import LOG, PlannedTarget, open_target
from sla_planner.store.state_file import StateFile, state_path

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_LIMIT_S = 5.0


def run(loaded: Loaded[PlannerConfig]) -> None:
    """Run until a signal, or once. Raises `PlannerError` when a target can never work, before any target is touched."""
    config = loaded.config
    setup(config.log_format)
    for line in loaded.describe():
        LOG.info(line)
    _check_once(config)
    targets = [_opened(config, index) for index in range(len(config.targets))]
    exporter = Exporter(config.prometheus_port, interval_s=max(t.settings.interval_s for t in targets)) if config.prometheus_port else None
    loop = _Loop(targets, exporter)
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


def _opened(config: PlannerConfig, index: int) -> PlannedTarget:
    target, alone = config.targets[index], len(config.targets) == 1
    file = None if config.state is None else StateFile(state_path(config.state, target.name, alone=alone))
    return open_target(target, state_file=file, acts=not config.no_operation, alone=alone)


@dataclass(slots=True)
class _Loop:
    targets: list[PlannedTarget]
    exporter: Exporter | None
    stop: threading.Event = field(default_factory=threading.Event)

    def once(self) -> None:
        """One tick of every target. Raises `UnreachableError` when none of them came through, so that the Job is tried again, and `InfeasibleError`
        when a promise cannot be kept: the best effort is made, and a person should look."""
        with ThreadPoolExecutor(len(self.targets)) as pool:
            ticks = list(pool.map(self._tick, self.targets))
        troubles = [_trouble(tick) for tick in ticks]
        if all(troubles):
            place = "" if len(self.targets) == 1 else f"target {self.targets[0].config.name}: "
            others = f"; {len(troubles) - 1} more could not be planned for either" if len(troubles) > 1 else ""
            raise UnreachableError(f"{place}{troubles[0]}{others}", hint="run it again")
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
            for follower in followers:
                follower.start()
            signal.sigwait(STOP_SIGNALS)
        finally:
            self.stop.set()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # a second signal does not wait for anything
        deadline_s = time.monotonic() + STOP_LIMIT_S
        for follower in followers:
            follower.join(max(deadline_s - time.monotonic(), 0.0))
        late = [follower.name for follower in followers if follower.is_alive()]
        if late:
            LOG.warning(f"Stopped; the last interval of {', '.join(late)} did not end within {STOP_LIMIT_S:g} s and is given up")
        else:
            LOG.info("Stopped")

    def _follow(self, target: PlannedTarget) -> None:
        interval_s, due_s = target.settings.interval_s, time.monotonic()
        while not self.stop.wait(max(due_s - time.monotonic(), 0.0)):
            self._tick(target)
            missed = max(int((time.monotonic() - due_s) / interval_s), 0)
            due_s += (missed + 1) * interval_s

    def _tick(self, target: PlannedTarget) -> Tick | None:
        """None: the tick failed, which is logged and must not stop the other targets."""
        try:
            tick = target.tick(time.time())
            if self.exporter:
                self.exporter.update(tick)
            return tick
        except PlannerError as error:
            target.voice.say(f"This interval is lost: {error}", level=logging.ERROR)
        except Exception:  # noqa: BLE001 - the isolation that several targets are promised
            name = target.config.name
            LOG.exception(f"A fault of ours with target {name}, which is tried again next interval", extra={"target": name})
        if self.exporter:
            self.exporter.fail(target.config.name)
        return None


def _trouble(tick: Tick | None) -> str:
    """Why nothing could be decided or done for a target; empty when all went well."""
    if tick is None:
        return "the interval is lost, see the log"
    seen = tick.observation
    rate = seen.traffic.request_rate_rps
    if not rate.known and rate.why != FIRST_READING:  # which the first run must have; the next one has two
        return f"traffic is unknown: {rate.why}"
    if seen.prefill is None or seen.decode is None:
        return "the number of workers is unknown, see the log"
    return "the decision could not be carried out, see the log" if tick.carried is Carried.FAILED else ""
