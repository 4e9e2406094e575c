"""The planner's loop over targets: who is due, in which thread, until when.

next due = last due + interval; ticks that were missed while one took too long are skipped, not made up for
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from sla_planner.config import Loaded
from sla_planner.errors import PlannerError, UnreachableError
from sla_planner.logs import setup
from sla_planner.metrics.exporter import Exporter
from sla_planner.plan.record import Tick
from sla_planner.planner_config import PlannerConfig
from sla_planner.stages.planner_target import LOG, PlannedTarget, open_target
from sla_planner.store.state_file import StateFile, state_path

MOST_THREADS = 32


def run(loaded: Loaded[PlannerConfig]) -> None:
    """Run until a signal, or once. Raises `PlannerError` when a target can never work, before any target is touched."""
    config = loaded.config
    setup(config.log_format)
    for line in loaded.describe():
        LOG.info(line)
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
        """One tick of every target. Raises `UnreachableError` when none of them could be observed, so that the Job is tried again."""
        with ThreadPoolExecutor(min(MOST_THREADS, len(self.targets))) as pool:
            ticks = list(pool.map(self._tick, self.targets))
        unknown = [tick for tick in ticks if tick is None or not tick.observation.traffic.request_rate_rps.known]
        first = next((tick.observation.traffic.request_rate_rps.why for tick in unknown if tick), "a fault of ours, see above")
        if len(unknown) == len(ticks):
            raise UnreachableError(f"traffic is unknown: {first}", hint="nothing was changed; run it again")

    def until_stopped(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        due = {id(target): time.monotonic() for target in self.targets}
        running: dict[int, Future[Tick | None]] = {}
        with ThreadPoolExecutor(min(MOST_THREADS, len(self.targets))) as pool:
            while not self.stop.is_set():
                now = time.monotonic()
                for target in self.targets:
                    key = id(target)
                    if now < due[key] or (key in running and not running[key].done()):
                        continue
                    running[key] = pool.submit(self._tick, target)
                    missed = int((now - due[key]) / target.settings.interval_s)
                    due[key] += (missed + 1) * target.settings.interval_s
                self.stop.wait(max(min(due.values()) - time.monotonic(), 0.01))
        LOG.info("Stopped; every target's state is saved")

    def _tick(self, target: PlannedTarget) -> Tick | None:
        """None: a fault in our own code, which is logged with its traceback and must not stop the other targets."""
        try:
            tick = target.tick(time.time())
        except PlannerError as error:
            target.voice.say(f"This interval is lost: {error}", level=logging.ERROR)
            return None
        except Exception:  # noqa: BLE001 - the isolation that several targets are promised
            LOG.exception("A fault of ours; the target is tried again next interval", extra={"target": target.config.name})
            return None
        if self.exporter:
            self.exporter.update(tick)
        return tick
