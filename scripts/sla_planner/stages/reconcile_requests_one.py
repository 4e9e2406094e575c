"""One look at one request: see, decide (`request.lifecycle`), act, post Events, write the status on the version that was read; in this order.

the request changed meanwhile    looked at again at once
an object is in the way          looked at again, since the next look may tell more; where it does not, told as a refusal
a right is missing, or the cluster refuses   told in the status and as an Event, tried again
the cluster does not answer      nothing is told, tried again
the status would not be kept     told as an Event, and nothing is made: what is not remembered would be made again and again
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import click

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound, connect
from sla_planner.cluster.conditions import Notice, timestamp
from sla_planner.cluster.events import EventBook
from sla_planner.cluster.requests import Requests, is_alive
from sla_planner.cluster.requests_actions import Hands, Occupied, planned
from sla_planner.cluster.requests_seen import Sight, about_of
from sla_planner.cluster.resources import Object
from sla_planner.engines.dgd_requests import base_manifest, request_manifests
from sla_planner.errors import PlannerError, UnreachableError, UsageError
from sla_planner.request.actions import Said, Step
from sla_planner.request.lifecycle import refused, step
from sla_planner.request.made import Maker
from sla_planner.request.makers import Makers
from sla_planner.request.phases import Case
from sla_planner.requests_config import RequestsConfig
from sla_planner.stages.reconcile_requests_reading import allowed, check_planner_args, reading

LOG = logging.getLogger("sla_planner.requests")
RETRY_S = 5.0
REFUSED_S = 30.0  # a person has to do something
UNKEPT_S = 300.0
UNKEPT_REASON = "StatusNotKept"


@dataclass(frozen=True, slots=True)
class Look:
    """What came of it. `words`: its state; `again_now`: something happened, so more may be possible; `gone`: there is no such request of ours."""

    name: str
    words: str
    again_s: float
    again_now: bool = False
    gone: bool = False
    trouble: PlannerError | None = None


@dataclass(slots=True)
class Reconciler:
    """Of one namespace. Safe for several threads, as long as no two look at the same request. `clock`: epoch seconds.

    `standing`: why another reconciler acts now and this one does not, or ''. It is asked before each action: a look may take longer than a Lease.
    """

    requests: Requests
    sight: Sight
    makers: Makers
    book: EventBook
    dry_run: bool = False
    standing: Callable[[], str] = lambda: ""
    clock: Callable[[], float] = time.time
    _said: dict[str, str] = field(default_factory=dict)  # the last trouble of each request, so that it is logged once
    _unowned: str = ""

    @property
    def api(self) -> KubernetesApi:
        return self.requests.api

    def survey(self) -> list[str]:
        """The names of the requests that are ours. Raises `PlannerError` where they cannot be listed."""
        self.requests.look_whose()
        found = [each for each in self.requests.all() if is_alive(each)]
        ours = [each["metadata"]["name"] for each in found if self.requests.is_ours(each)]
        if (why := self.requests.unowned) != self._unowned:
            LOG.info(
                f"Only requests with the annotation slaplanner.io/request-class: sla-planner are taken: {why}" if why else "All requests are taken"
            )
            self._unowned = why
        return ours

    def look(self, name: str) -> Look:
        """Never raises what the cluster is the cause of."""
        try:
            look = self._look(name)
        except NotFound:
            look = Look(name, "gone", RETRY_S, gone=True)
        except Conflict:  # with what we would have written
            look = Look(name, "changed meanwhile", 0.0, again_now=True)
        except PlannerError as error:
            look = Look(name, f"not known: {error.message}", RETRY_S, trouble=error)
        self._tell_trouble(look)
        return look

    def _look(self, name: str) -> Look:
        alive = {each["metadata"]["name"]: each for each in self.requests.all() if is_alive(each)}
        found = alive.get(name)
        if found is None or not self.requests.is_ours(found):
            return Look(name, "gone", 0.0, gone=True)
        request, seen = self.sight.of(found, alone=len(alive) == 1)
        case = Case(about_of(found), request, seen, found.get("status") or {}, self.makers, self.sight.settings)
        wanted = step(case, self._now())
        if self.dry_run:
            return self._rehearsed(found, case, wanted)
        if case.before.state is None and (why := self.requests.unkept(found)):
            return self._left(found, why)
        return self._done(found, case, wanted)

    def _left(self, found: Object, why: str) -> Look:
        """Alone: its status cannot be told, so an Event is. Once, as long as this process lives."""
        name = found["metadata"]["name"]
        hint = "install ours (component deployment-requests-crd), or leave the request to the operator whose definition it is"
        trouble = UsageError(f"{why}, so this request cannot be followed", hint=hint)
        if self._said.get(name) != str(trouble):
            self._tell(found, [Said("Warning", UNKEPT_REASON, str(trouble))])
        return Look(name, f"left alone: {why}", UNKEPT_S, trouble=trouble)

    def _done(self, found: Object, case: Case, wanted: Step) -> Look:
        name, done = case.about.name, []

        def say(words: str) -> None:
            done.append(words)
            LOG.info(f"{name}: {words}", extra={"request": name})

        for action in wanted.actions:
            if why := self.standing():
                return Look(name, f"left to another: {why}", RETRY_S, trouble=UnreachableError(f"left to another: {why}", hint="look again"))
            try:
                Hands(self.api, case.about, say).carry_out(action)
            except (UnreachableError, Conflict):
                raise
            except PlannerError as error:
                if isinstance(error, Occupied) and self._said.get(name) != str(error):
                    return Look(name, f"waits: {error.message}", RETRY_S, again_now=True, trouble=error)
                told = refused(case, action, str(error), self._now())
                self._write(found, told)
                return Look(name, _state(told.status or found.get("status") or {}), REFUSED_S, trouble=error)
        self._write(found, wanted)
        status = wanted.status or found.get("status") or {}
        return Look(name, _state(status), wanted.again_s, again_now=bool(done) or wanted.status is not None)

    def _write(self, found: Object, wanted: Step) -> None:
        """Events before the status that makes them known: who is killed in between says them twice, which counts one up, and never not at all."""
        self._tell(found, wanted.events)
        if wanted.status is not None:
            self.requests.write_status(found, wanted.status)

    def _tell(self, found: Object, events: Sequence[Said]) -> None:
        name = found["metadata"]["name"]
        for said in events:
            log = LOG.warning if said.severity == "Warning" else LOG.info
            log(f"{name}: {said.reason}: {said.message}", extra={"request": name, "reason": said.reason})
        if events and (why := self.book.post([found], map(_notice, events))):
            LOG.warning(f"{name}: Events cannot be posted: {why}", extra={"request": name})

    def _rehearsed(self, found: Object, case: Case, wanted: Step) -> Look:
        name = case.about.name
        for action in wanted.actions:
            click.echo(f"{name}: would {planned(action)}")
        for said in wanted.events:
            click.echo(f"{name}: would tell {said.reason}: {said.message}")
        if not wanted.actions and wanted.status is None:
            click.echo(f"{name}: nothing to do, it is {_state(found.get('status') or {})}")
        return Look(name, _state(wanted.status or found.get("status") or {}), wanted.again_s)

    def _tell_trouble(self, look: Look) -> None:
        words = str(look.trouble or "")
        if words and self._said.get(look.name) != words:
            LOG.warning(f"{look.name}: {words}", extra={"request": look.name})
        if words:
            self._said[look.name] = words
        else:
            self._said.pop(look.name, None)

    def _now(self) -> str:
        return timestamp(self.clock())


def open_reconciler(config: RequestsConfig) -> Reconciler:
    """Nothing is sent yet. Raises `UsageError` when there is no cluster to talk to, and for settings that no planner could be made with."""
    check_planner_args(config.planner_arg)
    api = connect(namespace=config.namespace, context=config.context)
    rules, settings = allowed(), config.settings()
    sight = Sight(api, settings, lambda found: reading(found, rules), base_manifest)
    book = EventBook(api, stage="reconcile-requests", action="Reconcile", quiet_s=0.0)
    return Reconciler(Requests(api), sight, Maker(settings, request_manifests()), book, config.dry_run)


def _notice(said: Said) -> Notice:
    return Notice(said.severity, said.reason, said.message)


def _state(status: Object) -> str:
    state, phase = str(status.get("state", "")), str(status.get("phase", ""))
    return (state if state == phase else f"{state}/{phase}").strip("/") or "new"
