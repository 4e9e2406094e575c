"""One target of the planner stage, wired: where its traffic is read, what decides, where decisions go, what is remembered, what is said.

A tick never raises for what can happen to one target alone: an unreachable source is an unknown observation, an unreachable scale target a decision
that could not be carried out (said, and tried again at the next tick). So one target cannot stop another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from sla_planner import __version__
from sla_planner.cluster.target import Fleet, Outcome, ScaleTarget
from sla_planner.cluster.virtual import open_virtual_target
from sla_planner.cluster.virtual_protocol import DEFAULT_NAMESPACE
from sla_planner.engines.metric_names import metric_family
from sla_planner.errors import PlannerError, ProfileError, UsageError
from sla_planner.metrics.scrape import ScrapeSource
from sla_planner.model.engine import Engine, Interpolation, engine_of
from sla_planner.plan.decision import Decision, Reason, RoleDecision
from sla_planner.plan.forecast import check_available
from sla_planner.plan.history import observed_windows
from sla_planner.plan.observation import Observation, Quantity, TrafficWindow, WorkerCounts
from sla_planner.plan.planner import decide, warm_up
from sla_planner.plan.record import Carried, Tick
from sla_planner.plan.settings import PlanSettings
from sla_planner.plan.state import PlanState, new_state, state_from_json, state_to_json
from sla_planner.planner_config import TargetConfig
from sla_planner.store.profile_files import read_profile
from sla_planner.store.state_file import StateFile
from sla_planner.traffic.trace import read_trace

LOG = logging.getLogger("sla_planner.planner")
LONGEST_WINDOW = 4  # intervals; after a pause the planner looks at the recent past only


class TrafficSource(Protocol):
    def observe(self, at_s: float, window_s: float, ttft_ms: float, itl_ms: float) -> TrafficWindow: ...


@dataclass(frozen=True, slots=True)
class Voice:
    """Log lines of one target; named in the text only where there are several."""

    target: str
    alone: bool

    def say(self, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
        LOG.log(level, message if self.alone else f"[{self.target}] {message}", extra={"target": self.target, **fields})


@dataclass(slots=True)
class PlannedTarget:
    """A target between ticks. `acts` is False for --no-operation."""

    config: TargetConfig
    settings: PlanSettings
    engine: Engine
    source: TrafficSource
    scale_target: ScaleTarget
    state: PlanState
    state_file: StateFile | None
    acts: bool
    voice: Voice

    def tick(self, now_s: float) -> Tick:
        """Observe, decide, act, remember, explain."""
        self.voice.say("New adjustment interval started!")
        observation = self._observe(now_s)
        decision, self.state = decide(self.settings, self.engine, self.state, observation)
        self._say_observed(observation)
        carried, words = self._act(decision, observation, now_s)
        self._say_decided(decision, done=carried is Carried.APPLIED)
        self._remember()
        tick = Tick(self.config.name, observation, decision, self.state.gpu_seconds / 3600, carried)
        self.voice.say(words, tick=tick.to_json())  # the last line of a tick carries all of it as data in the JSON format
        return tick

    def _observe(self, now_s: float) -> Observation:
        last_s, interval_s = self.state.last_at_s, self.settings.interval_s
        window_s = interval_s if last_s is None else min(max(now_s - last_s, 1e-3), LONGEST_WINDOW * interval_s)
        traffic = self.source.observe(now_s, window_s, self.settings.sla.ttft_ms, self.settings.sla.itl_ms)
        try:
            fleet = self.scale_target.fleet() or Fleet(WorkerCounts(0), WorkerCounts(0))
        except PlannerError as error:
            self.voice.say(f"The number of workers is unknown: {error}", level=logging.WARNING)
            return Observation(traffic, None, None)
        return Observation(traffic, fleet.prefill, fleet.decode)

    def _act(self, decision: Decision, observation: Observation, now_s: float) -> tuple[Carried, str]:
        """What became of the decision, and the line that says so."""
        asked = f"prefill={decision.prefill.desired}, decode={decision.decode.desired}"
        if not decision.act:
            return Carried.NOTHING, _untouched(decision, observation, asked)
        if not self.acts:
            return Carried.ADVISORY, f"Not asked for {asked}: --no-operation"
        try:
            applied = self.scale_target.apply(decision.prefill.desired, decision.decode.desired, now_s=now_s)
        except PlannerError as error:
            self.voice.say(f"The decision could not be carried out: {error}", level=logging.WARNING)
            return Carried.FAILED, f"Not asked for {asked}; tried again next interval"
        return _CARRIED[applied.outcome], applied.message

    def _remember(self) -> None:
        if self.state_file is None:
            return
        document = {"version": __version__, "target": self.config.name, "plan": state_to_json(self.state, self.settings, self.engine)}
        if isinstance(self.source, ScrapeSource):
            document["readings"] = self.source.to_state()
        try:
            self.state_file.write(document)
        except PlannerError as error:
            self.voice.say(f"The state could not be saved: {error}", level=logging.WARNING)

    def _say_observed(self, observation: Observation) -> None:
        traffic, sla = observation.traffic, self.settings.sla
        if not traffic.request_rate_rps.known:
            self.voice.say(f"Traffic is unknown: {traffic.request_rate_rps.why}", level=logging.WARNING)
        else:
            requests = Quantity.of(traffic.request_rate_rps.value * traffic.window_s)
            self.voice.say(f"Observed num_req: {_shown(requests)} isl: {_shown(traffic.isl_tokens)} osl: {_shown(traffic.osl_tokens)}")
            self.voice.say(f"Observed ttft: {_shown(traffic.ttft_ms, 1e-3, 's')} itl: {_shown(traffic.itl_ms, 1e-3, 's')}")
        for label, seen, target in (("TTFT", traffic.ttft_ms, sla.ttft_ms), ("ITL", traffic.itl_ms, sla.itl_ms)):
            if seen.known and seen.value > target:
                self.voice.say(f"Current {label}: {seen.value:.0f}ms, Target: {target:g}ms (exceeding SLA)", level=logging.WARNING)
        if observation.prefill and observation.decode:
            prefill, decode = observation.prefill, observation.decode
            coming = f" ({prefill.starting} prefill and {decode.starting} decode starting)" if prefill.starting or decode.starting else ""
            self.voice.say(f"Number of prefill workers: {prefill.ready}, number of decode workers: {decode.ready}{coming}")

    def _say_decided(self, decision: Decision, *, done: bool) -> None:
        if decision.prediction is not None:
            predicted = decision.prediction
            self.voice.say(f"Correction factors: TTFT: {decision.prefill_correction:.3f}, ITL: {decision.decode_correction:.3f}")
            requests = predicted.request_rate_rps * self.settings.interval_s
            note = f" ({predicted.note})" if predicted.note else ""
            self.voice.say(f"Predicted load: num_req={requests:.3f}, isl={predicted.isl_tokens:.3f}, osl={predicted.osl_tokens:.3f}{note}")
        for text in decision.verdicts:
            self.voice.say(text, level=logging.WARNING)
        scaling = "Scaling" if done else "Would be scaling"
        for role in (decision.prefill, decision.decode):
            change = f"{scaling} {role.role} workers: {role.current} -> {role.desired}" if role.changed else _kept(role)
            self.voice.say(f"{change} ({role.explanation})")


def _kept(role: RoleDecision) -> str:
    return f"Keeping {role.current} {role.role} worker{'' if role.current == 1 else 's'}"


_CARRIED = {Outcome.APPLIED: Carried.APPLIED, Outcome.UNCHANGED: Carried.NOTHING, Outcome.WAITING: Carried.WAITING}


def _untouched(decision: Decision, observation: Observation, asked: str) -> str:
    if observation.prefill is None or observation.decode is None:
        return "Nothing decided: the number of workers is unknown"
    if Reason.UNKNOWN in (decision.prefill.reason, decision.decode.reason):
        return f"Nothing decided, holding {asked}"
    return f"No scaling needed ({asked})"


def _shown(quantity: Quantity, scale: float = 1.0, unit: str = "") -> str:
    return f"{quantity.value * scale:.3f}{unit}" if quantity.known else quantity.kind.value


def open_target(config: TargetConfig, *, state_file: StateFile | None, acts: bool, alone: bool) -> PlannedTarget:
    """Everything that `config` names, opened. Raises `PlannerError` when a target can never work: no profile, bad limits, no such environment."""
    if config.environment == "kubernetes":
        raise UsageError(
            f"target {config.name}: this version scales virtual targets only",
            hint="set environment: virtual and --virtual-target file:PATH or etcd://HOST:PORT",
        )
    assert config.virtual_target is not None
    check_available(config.load_predictor)
    try:
        engine = _engine(str(config.profile_results_dir), config.interpolation, config.prefill_engine_num_gpu, config.decode_engine_num_gpu)
    except ProfileError as error:
        raise UsageError(f"target {config.name}: the profile {error}", hint="name it with --profile-results-dir") from None
    settings = config.plan_settings(engine.prefill.gpus, engine.decode.gpus)
    voice = Voice(config.name, alone)
    source = _open_source(config)
    state = new_state(settings)
    if state_file is not None:
        document, complaint = state_file.read()
        if document is not None:
            state, complaint = _restored(document, settings, engine, source, state_file)
        if complaint:
            voice.say(complaint, level=logging.WARNING)
    if config.warmup_trace is not None and state.last_at_s is None:
        trace = read_trace(config.warmup_trace)
        windows = list(observed_windows(trace.arrival_s, trace.isl_tokens, trace.osl_tokens, settings.interval_s))
        state = warm_up(settings, engine, state, windows)
        voice.say(f"Warmed up with {len(windows)} intervals of {config.warmup_trace}")
    scale_target = open_virtual_target(config.virtual_target, config.namespace or DEFAULT_NAMESPACE, config.name)
    return PlannedTarget(config, settings, engine, source, scale_target, state, state_file, acts, voice)


def _restored(
    document: Mapping[str, Any], settings: PlanSettings, engine: Engine, source: TrafficSource, state_file: StateFile
) -> tuple[PlanState, str]:
    try:
        state, complaint = state_from_json(document["plan"], settings, engine)
        if isinstance(source, ScrapeSource) and "readings" in document:
            source.from_state(document["readings"])
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError, UsageError) as error:
        return new_state(settings), state_file.set_aside(f"is not a planner's state ({type(error).__name__}: {str(error)[:80]})")
    return state, complaint


@lru_cache(maxsize=64)
def _engine(directory: str, interpolation: Interpolation, prefill_gpus: int | None, decode_gpus: int | None) -> Engine:
    """Targets that share a profile share the engine."""
    return engine_of(read_profile(Path(directory)), interpolation=interpolation, prefill_gpus=prefill_gpus, decode_gpus=decode_gpus)


def _open_source(config: TargetConfig) -> TrafficSource:
    family = metric_family(config.metrics)
    if config.scrape_url:
        return ScrapeSource(config.scrape_url, family, model=config.model_name, namespace=config.namespace)
    from sla_planner.metrics.prometheus import PrometheusAccess, PrometheusSource

    assert config.prometheus_url is not None
    access = PrometheusAccess(
        config.prometheus_url,
        timeout_s=config.prometheus_timeout_s,
        token_file=config.prometheus_bearer_token_file,
        ca_file=config.prometheus_ca_file,
        verify_tls=config.prometheus_tls_verify,
    )
    return PrometheusSource(access, family, model=config.model_name, namespace=config.namespace)
