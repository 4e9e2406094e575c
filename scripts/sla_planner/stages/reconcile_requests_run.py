"""The reconciler: once, or until a signal. Both do the same with a request (`reconcile_requests_one.py`); what differs is when.

    once         every request until nothing more can be done for it now; Jobs and deployments are not waited for
    continuous   a request is looked at when it, its Job or its deployment changes, when its last look asks for it, and every `resync_s`

Several are looked at side by side: one that hangs delays no other, a fault of one is its own. With a Lease only its holder acts.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sla_planner.cluster.api import KubernetesApi, Selector
from sla_planner.cluster.lease import DURATION_S, Leadership
from sla_planner.cluster.requests_seen import graph_resource
from sla_planner.cluster.resources import JOBS, Object, labels_of
from sla_planner.config import Loaded
from sla_planner.errors import PlannerError, UnreachableError, UsageError
from sla_planner.logs import setup
from sla_planner.request.spec import NAME_LABEL, UID_LABEL
from sla_planner.requests_config import RequestsConfig
from sla_planner.stages.reconcile_requests_agenda import Agenda
from sla_planner.stages.reconcile_requests_health import Health
from sla_planner.stages.reconcile_requests_one import LOG, Look, Reconciler, open_reconciler
from sla_planner.termination import leave_word

STAGE = "reconcile-requests"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_LIMIT_S = 5.0
WORKERS = 8
ROUNDS = 12  # of one request in one run: more than there are steps between two waits
LOOK_S = 0.5  # at the Lease
RETRY_S = 5.0  # after the list or a watch could not be had
TAKE_OVER_S = DURATION_S + 5.0  # by then a Lease whose holder was killed is free


def run(loaded: Loaded[RequestsConfig]) -> None:
    """Raises `PlannerError`: where requests cannot be looked at at all, or with --once for what could not be done."""
    config = loaded.config
    setup(config.log_format)
    for line in loaded.describe():
        LOG.info(line)
    reconciler = open_reconciler(config)
    lease = Leadership(reconciler.api, config.lease, stage=STAGE) if config.lease else None
    reconciler.standing = lambda: _standing(lease)
    if config.once or config.dry_run:
        _once(reconciler, lease)
        return
    loop = Loop(reconciler, lease, config.resync_s)
    health = Health(config.health_port, loop.unhealthy, loop.unready) if config.health_port else None
    try:
        loop.until_stopped()
    finally:
        if health:
            health.close()


def _standing(lease: Leadership | None) -> str:
    """Why it is another's turn; '' when it is ours."""
    return "" if lease is None or lease.held else lease.words


# ---- once -----------------------------------------------------------------------------------------------------------------------------------


def _once(reconciler: Reconciler, lease: Leadership | None) -> None:
    if lease is not None:
        lease.start()
    try:
        if lease is not None and not _held_within(lease, TAKE_OVER_S):
            if lease.trouble:
                raise UsageError(lease.words, hint="grant it in the Role of that service account, or leave --lease out")
            LOG.info(f"Nothing is done: {lease.words}")
            leave_word(f"nothing is done: {lease.words}")
            return
        _settle_all(reconciler)
    finally:
        if lease is not None:
            lease.release()


def _held_within(lease: Leadership, limit_s: float) -> bool:
    give_up_s = time.monotonic() + limit_s
    while not lease.held and not lease.trouble and time.monotonic() < give_up_s:
        time.sleep(LOOK_S)
    return lease.held


def _settle_all(reconciler: Reconciler) -> None:
    names = reconciler.survey()
    with ThreadPoolExecutor(min(WORKERS, len(names)) or 1) as pool:
        looks = list(pool.map(lambda name: _settled(reconciler, name), names))
    words = "; ".join(f"{look.name}: {look.words}" for look in looks) or "there are no requests"
    leave_word(words)
    LOG.info(f"Done for now: {words}")
    troubles = [(look.name, look.trouble) for look in looks if look.trouble is not None]
    if troubles:
        name, first = troubles[0]
        more = f"; {len(troubles) - 1} more requests could not be brought on either" if len(troubles) > 1 else ""
        first.message = f"request {name}: {first.message}{more}"
        raise first


def _settled(reconciler: Reconciler, name: str) -> Look:
    """Until nothing more happens."""
    look = _looked(reconciler, name)
    for _ in range(ROUNDS):
        if not look.again_now:
            break
        look = _looked(reconciler, name)
    return look


def _looked(reconciler: Reconciler, name: str) -> Look:
    try:
        return reconciler.look(name)
    except Exception:  # noqa: BLE001 - the isolation that several requests are promised
        LOG.exception(f"{name}: a fault of ours; it is tried again", extra={"request": name})
        return Look(name, "a fault of ours, see the log", RETRY_S, trouble=UnreachableError("a fault of ours, see the log", hint="report it"))


# ---- continuous -----------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Loop:
    """`survey` lists and plans, workers look, watchers say what has changed. `clock`: monotonic seconds."""

    reconciler: Reconciler
    lease: Leadership | None
    resync_s: float
    clock: Callable[[], float] = time.monotonic
    agenda: Agenda = field(default_factory=Agenda)
    stop: threading.Event = field(default_factory=threading.Event)
    _listed_s: float = 0.0
    _trouble: str = "it has not listed the requests yet"
    _threads: list[threading.Thread] = field(default_factory=list)

    def until_stopped(self) -> None:
        """Signals are waited for, not handled: a handler could interrupt this thread while it holds a lock that the handler needs."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self.start()
            signal.sigwait(STOP_SIGNALS)
        finally:
            late = self.end()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        LOG.info(f"Stopped; {late} looks were still under way, the next reconciler goes on from there" if late else "Stopped")

    def start(self) -> None:
        self._listed_s = self.clock()
        if self.lease:
            self.lease.start()
        api = self.reconciler.api
        tasks: list[tuple[str, Callable[[], None]]] = [
            ("survey", self._survey),
            ("watch-requests", lambda: self._watch("requests", lambda: self.reconciler.requests.watch(self.resync_s), "")),
            ("watch-jobs", lambda: self._watch("Jobs", lambda: api.watch(JOBS, Selector(labels=UID_LABEL), timeout_s=self.resync_s), NAME_LABEL)),
            ("watch-deployments", lambda: self._watch("deployments", lambda: _graphs(api, self.resync_s), NAME_LABEL)),
        ]
        tasks += [(f"look-{number}", self._work) for number in range(WORKERS)]
        self._threads = [threading.Thread(target=task, name=name, daemon=True) for name, task in tasks]
        for thread in self._threads:
            thread.start()

    def end(self) -> int:
        """How many looks were under way and are given up."""
        self.stop.set()
        self.agenda.stop()
        deadline_s = time.monotonic() + STOP_LIMIT_S
        workers = [thread for thread in self._threads if thread.name.startswith("look-")]
        for thread in workers:
            thread.join(max(deadline_s - time.monotonic(), 0.0))
        if self.lease:
            self.lease.release()
        return sum(thread.is_alive() for thread in workers)

    def unhealthy(self) -> str:
        """Why it should be started anew."""
        silent_s = self.clock() - self._listed_s
        return f"it has not tried to list the requests for {silent_s:.0f} s" if silent_s > 3 * self.resync_s + 60 else ""

    def unready(self) -> str:
        return self._trouble

    def _standing(self) -> str:
        return _standing(self.lease)

    def _survey(self) -> None:
        said = ""
        while not self.stop.is_set():
            self._listed_s, why = self.clock(), self._standing()
            if why:
                self._trouble = ""
            else:
                why = self._plan_all()
            if why and why != said:
                LOG.info(f"Standing by: {why}") if self._standing() else LOG.warning(f"Requests cannot be listed: {why}")
            said = why
            self._pause(LOOK_S if self._standing() else RETRY_S if why else self.resync_s)

    def _plan_all(self) -> str:
        """Why it could not be done."""
        try:
            for name in self.reconciler.survey():
                self.agenda.add(name)
        except PlannerError as error:
            self._trouble = str(error)
        except Exception:  # noqa: BLE001 - the next try may go well, and the log has it
            LOG.exception("A fault of ours while requests were listed")
            self._trouble = "a fault of ours, see the log"
        else:
            self._trouble = ""
        return self._trouble

    def _pause(self, for_s: float) -> None:
        """Or until the Lease is lost, or had."""
        end_s, before = self.clock() + for_s, bool(self._standing())
        while (left_s := end_s - self.clock()) > 0 and bool(self._standing()) == before:
            if self.stop.wait(min(left_s, LOOK_S) if self.lease else left_s):
                return

    def _work(self) -> None:
        while (name := self.agenda.take()) is not None:
            if self._standing():
                self.agenda.done(name, None)  # the survey asks for it when it is our turn
                continue
            look = _looked(self.reconciler, name)
            at_once = look.again_now and look.trouble is None
            self.agenda.done(name, None if look.gone else 0.0 if at_once else min(look.again_s, self.resync_s))

    def _watch(self, what: str, watch: Callable[[], Iterator[tuple[str, Object]]], label: str) -> None:
        """`label`: has the name of the request. What may not be watched is found by the next survey."""
        said = ""
        while not self.stop.is_set():
            try:
                for _, found in watch():
                    if self.stop.is_set():
                        return
                    if name := labels_of(found).get(label) if label else found["metadata"]["name"]:
                        self.agenda.add(name)
                said = ""
                self.stop.wait(LOOK_S)  # a server may end every watch at once
            except PlannerError as error:
                if str(error) != said:
                    LOG.info(f"Changes of {what} are seen only every {self.resync_s:g} s: {error.message}")
                said = str(error)
                self.stop.wait(self.resync_s if not isinstance(error, UnreachableError) else RETRY_S)
            except Exception:  # noqa: BLE001 - the next try may go well, and the log has it
                LOG.exception(f"A fault of ours while {what} were watched")
                self.stop.wait(RETRY_S)


def _graphs(api: KubernetesApi, timeout_s: float) -> Iterator[tuple[str, Object]]:
    served = graph_resource(api)
    if served is None:
        raise UsageError("this cluster has no DynamoGraphDeployment", hint="install Dynamo's operator")
    return api.watch(served, Selector(labels=NAME_LABEL), timeout_s=timeout_s)
