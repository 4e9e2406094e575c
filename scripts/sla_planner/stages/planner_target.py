"""One target of the planner stage, between and during ticks: observe, decide, act, remember, explain.

A tick never raises for what can happen to one target alone: an unreachable source is an unknown observation, an unreachable scale target a decision
that could not be carried out (said, and tried again at the next tick). So one target cannot stop another.

Killed at any moment, nothing is applied twice and no decision is half remembered: what the target asks for is read anew every tick, and the memory is
written after acting, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sla_planner import __version__
from sla_planner.cluster.conditions import Account, Notice, conditions_in, conditions_of, notices_of, status_document
from sla_planner.cluster.state_store import StateStore, StateTaken
from sla_planner.cluster.target import Counts, Fleet, Hold, Outcome, ScaleTarget
from sla_planner.errors import ForbiddenError, PlannerError, UnreachableError, UsageError
from sla_planner.metrics.scrape import ScrapeSource
from sla_planner.plan.budget import MOST_WORKERS
from sla_planner.plan.decision import Decision
from sla_planner.plan.observation import Observation, TrafficWindow, WorkerCounts
from sla_planner.plan.planner import decide, warm_up, window_s
from sla_planner.plan.record import Carried, Terms, Tick
from sla_planner.plan.state import PlanState, new_state, state_from_json, state_to_json
from sla_planner.planner_config import TargetConfig
from sla_planner.stages.planner_basis import UNSAID, Basis, basis_of, mismatches, profile_stamp, warm_up_windows
from sla_planner.stages.planner_words import Voice, asked_for, untouched

NO_OPERATION = "--no-operation"


class TrafficSource(Protocol):
    def observe(self, at_s: float, window_s: float, ttft_ms: float, itl_ms: float) -> TrafficWindow: ...


class Announcer(Protocol):
    """Tells whoever looks at the target what is decided for it."""

    def announce(self, notices: tuple[Notice, ...]) -> str:
        """Why that could not be done; '' when it was."""
        ...


def may_act() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Ports:
    """What one target is connected with. `standing`: why it must not act now ('' = it may)."""

    source: TrafficSource
    scale_target: ScaleTarget
    store: StateStore | None = None
    announcer: Announcer | None = None
    standing: Callable[[], str] = may_act


@dataclass(slots=True)
class Memory:
    """What lasts from tick to tick, and with a store from run to run.

    `asked`: what the target asked for when we last wrote or looked. `status`: the last status document. `recalled`: the store has been read.
    """

    state: PlanState
    asked: Counts | None = None
    status: dict[str, Any] = field(default_factory=dict)
    recalled: bool = False


class PlannedTarget:
    """A target between ticks.

    Of the last tick: `failure` is why the target could not be read or written, `forgetful` why its memory could not, `words` the last line.
    """

    def __init__(self, config: TargetConfig, ports: Ports, voice: Voice) -> None:
        """Raises `PlannerError` when it can never work: no profile, bad limits, a memory that may not be read."""
        self.config = config
        self.voice = voice
        self.failure: PlannerError | None = None
        self.forgetful: PlannerError | None = None
        self.words = ""
        self._ports = ports
        self._complaint = ""  # of the announcer, said once
        self._warmed = False
        self._profile = profile_stamp(config)
        self.basis = basis_of(config)
        self._memory = self._new_memory()
        self._prepare()

    @property
    def state(self) -> PlanState:
        return self._memory.state

    def forget(self) -> None:
        """What is remembered may be old: another planner acts. The store is read again before the next tick."""
        self._memory.recalled = self._ports.store is None

    def tick(self, now_s: float) -> Tick:
        self.voice.say("New adjustment interval started!")
        self.failure = self.forgetful = None
        self._prepare()
        self._look_at_profile()
        observation, fleet = self._observe(now_s)
        decision, self._memory.state = decide(self.basis.settings, self.basis.engine, self.state, observation)
        self.voice.observed(observation, self.basis.settings.sla)
        if fleet is not None:
            self.voice.fleet_troubles(fleet)
        carried, self.words = self._act(decision, observation, fleet, now_s)
        self.voice.decided(decision, self.basis.settings, done=carried is Carried.APPLIED)
        tick = Tick(self.config.name, observation, decision, self.state.gpu_seconds / 3600, carried, terms=Terms.of(self.basis.settings))
        notices = self._account(tick, fleet)
        self._remember()
        self._announce(notices)
        self.voice.say(self.words, tick=tick.to_json())  # the last line of a tick carries all of it as data in the JSON format
        return tick

    def _observe(self, now_s: float) -> tuple[Observation, Fleet | None]:
        settings = self.basis.settings
        traffic = self._ports.source.observe(now_s, window_s(settings, self.state, now_s), settings.sla.ttft_ms, settings.sla.itl_ms)
        try:
            fleet = self._ports.scale_target.fleet(self._memory.asked if self._acts else None) or Fleet(WorkerCounts(0), WorkerCounts(0))
        except PlannerError as error:
            self.failure = error
            self.voice.warn(f"The number of workers is unknown: {error}")
            return Observation(traffic, None, None), None
        self._count_gpus((fleet.prefill_gpus, fleet.decode_gpus))
        return Observation(traffic, fleet.prefill, fleet.decode), fleet

    @property
    def _acts(self) -> bool:
        return self._ports.standing() != NO_OPERATION

    def _count_gpus(self, manifest_gpus: Counts) -> None:
        """Decide with the GPUs that workers have. Loads are in workers, so a state of other workers is of no use."""
        if manifest_gpus == self.basis.manifest_gpus:
            return
        for text in mismatches(self.config, manifest_gpus):
            self.voice.warn(text)
        self._decide_with(basis_of(self.config, manifest_gpus), "workers have another number of GPUs now")

    def _look_at_profile(self) -> None:
        """Take a new profile when a sweep has left one; keep the old one while it is being written, or when it is of no use."""
        stamp = profile_stamp(self.config)
        if stamp == self._profile:
            return
        self._profile = stamp
        try:
            basis = basis_of(self.config, self.basis.manifest_gpus)
        except UsageError as error:
            self.voice.warn(f"Going on with the profile of before: {error}")
            return
        self._decide_with(basis, "there is a new profile")

    def _decide_with(self, basis: Basis, why: str) -> None:
        before, self.basis = self.basis, basis
        if not basis.decides_like(before):
            if self.state.last_at_s is not None:
                self.voice.warn(f"{why}: starting afresh")
            self._memory.state = new_state(basis.settings)
            self._warm_up()

    def _act(self, decision: Decision, observation: Observation, fleet: Fleet | None, now_s: float) -> tuple[Carried, str]:
        """What became of the decision, and the line that says so."""
        asked = asked_for(decision)
        if fleet is not None:
            self._memory.asked = fleet.asked
            if fleet.hands_off is not None:
                rest = f"; not asked for {asked}" if decision.act else ""
                paused = fleet.hands_off.why is Hold.PAUSED
                return Carried.PAUSED if paused else Carried.CONTENDED, f"Hands off for this interval: {fleet.hands_off.text}{rest}"
        if not decision.act:
            return Carried.NOTHING, untouched(decision, observation)
        if why := self._ports.standing():
            return Carried.ADVISORY, f"Not asked for {asked}: {why}"
        try:
            applied = self._ports.scale_target.apply(decision.prefill.desired, decision.decode.desired, now_s=now_s)
        except PlannerError as error:
            self.failure = error
            self.voice.warn(f"The decision could not be carried out: {error}")
            return Carried.FAILED, f"Not asked for {asked}; tried again next interval"
        if applied.outcome is Outcome.APPLIED:
            self._memory.asked = (decision.prefill.desired, decision.decode.desired)
        elif applied.outcome is Outcome.CONTENDED:
            self._memory.asked = None  # we have stood back for it; what stands is where the next decision starts
        return _CARRIED[applied.outcome], applied.message

    def _account(self, tick: Tick, fleet: Fleet | None) -> tuple[Notice, ...]:
        contention = self.words if tick.carried is Carried.CONTENDED else ""
        account = Account(tick, fleet, self.failure, contention)
        before = conditions_in(self._memory.status)
        after = conditions_of(account, before)
        self._memory.status = status_document(account, after, self.words, self._memory.status)
        return notices_of(account, before, after)

    def _announce(self, notices: tuple[Notice, ...]) -> None:
        if self._ports.announcer is None or not notices:
            return
        complaint = self._ports.announcer.announce(notices)
        if complaint and complaint != self._complaint:
            self.voice.warn(f"Events cannot be posted: {complaint}")
        self._complaint = complaint

    def _remember(self) -> None:
        store, memory = self._ports.store, self._memory
        if store is None or not memory.recalled:  # what was never read must not be overwritten
            return
        document: dict[str, Any] = {
            "version": __version__,
            "target": self.config.name,
            "manifest_gpus": list(self.basis.manifest_gpus),
            "asked": memory.asked,
            "plan": state_to_json(memory.state, self.basis.settings, self.basis.engine),
            "status": memory.status,
        }
        if isinstance(self._ports.source, ScrapeSource):
            document["readings"] = self._ports.source.to_state()
        try:
            store.write(document)
        except PlannerError as error:
            self.forgetful = error
            self.voice.warn(f"The state could not be saved: {error}")
            if isinstance(error, StateTaken):
                self.forget()

    def _prepare(self) -> None:
        self._recall()
        if not self._warmed:
            self._warm_up()

    def _recall(self) -> None:
        """Read the store, unless that was done. One that does not answer, or that we may not read, is tried again at every tick."""
        store = self._ports.store
        if store is None or self._memory.recalled:
            return
        try:
            document, complaint = store.read()
            if document is not None:
                complaint = self._restore(store, document)
        except (UnreachableError, ForbiddenError) as error:
            self.forgetful = error
            self.voice.warn(f"The state could not be read: {error}")
            return
        self._memory.recalled = True
        if complaint:
            self.voice.warn(complaint)

    def _restore(self, store: StateStore, document: Mapping[str, Any]) -> str:
        """Go on from `document`; returns what there is to complain about."""
        try:
            self.basis = self._basis_for(_counts(document.get("manifest_gpus")) or UNSAID)
            state, complaint = state_from_json(document["plan"], self.basis.settings, self.basis.engine)
            asked = _counts(document.get("asked"))
            if isinstance(self._ports.source, ScrapeSource) and "readings" in document:
                self._ports.source.from_state(document["readings"])
        except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, UsageError) as error:
            self._memory = self._new_memory()
            return store.set_aside(f"is not a planner's state ({type(error).__name__}: {str(error)[:80]})")
        status = document.get("status")
        self._memory = Memory(state, asked, status if isinstance(status, dict) else {})
        self._warmed = state.last_at_s is not None
        return complaint

    def _basis_for(self, manifest_gpus: Counts) -> Basis:
        """With the GPUs that were counted last, if the settings still allow for them; the next look at the target says what is true now."""
        try:
            return basis_of(self.config, manifest_gpus)
        except UsageError:
            return self.basis

    def _new_memory(self) -> Memory:
        self._warmed = False
        return Memory(new_state(self.basis.settings), recalled=self._ports.store is None)

    def _warm_up(self) -> None:
        """Let a state that has seen nothing watch the configured traffic."""
        self._warmed = True
        if self.config.warmup_trace is None or self.state.last_at_s is not None:
            return
        windows = warm_up_windows(self.config, self.basis)
        self._memory.state = warm_up(self.basis.settings, self.basis.engine, self.state, windows)
        self.voice.say(f"Warmed up with {len(windows)} intervals of {self.config.warmup_trace}")


_CARRIED = {
    Outcome.APPLIED: Carried.APPLIED,
    Outcome.UNCHANGED: Carried.NOTHING,
    Outcome.WAITING: Carried.WAITING,
    Outcome.CONTENDED: Carried.CONTENDED,
}


def _counts(value: Any) -> Counts | None:
    """Raises ValueError or TypeError for what is no pair of counts."""
    if value is None:
        return None
    prefill, decode = (int(count) for count in value)
    if not 0 <= min(prefill, decode) <= max(prefill, decode) <= MOST_WORKERS:
        raise ValueError(f"{value!r} is no pair of counts")
    return prefill, decode
