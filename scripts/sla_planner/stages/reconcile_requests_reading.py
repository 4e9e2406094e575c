"""What a request may set of the planner that is generated for it: its settings, each checked as the planner itself would check it.

Settings that follow from the request are not for it to set twice; neither are those of where the planner runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from sla_planner.cluster.requests_seen import Reading
from sla_planner.cluster.resources import Object
from sla_planner.config import all_entries, load
from sla_planner.engines.ai_configurator_systems import SYSTEMS
from sla_planner.errors import UsageError
from sla_planner.planner_config import PlannerConfig
from sla_planner.request.read import Allowed, InvalidRequestError, read
from sla_planner.request.spec import Fault
from sla_planner.stages.planner import command as planner_command

_SLA, _DEPLOYMENT, _INSTALLED = "the request's SLA", "the deployment that is generated", "whoever installed the reconciler"
_FIXED = {
    **dict.fromkeys(("ttft", "ttft_target", "itl", "itl_target", "isl", "osl"), _SLA),
    "backend": "the request's backend",
    "model_name": "the request's model",
    **dict.fromkeys(
        ("name", "environment", "graph_deployment", "prefill_target", "decode_target", "virtual_target", "target_namespace"), _DEPLOYMENT
    ),
    **dict.fromkeys(("namespace", "metrics", "profile_results_dir", "state", "lease", "once", "prometheus_port", "log_format"), _DEPLOYMENT),
    **dict.fromkeys(("scrape_url", "prometheus_bearer_token_file", "prometheus_ca_file", "warmup_trace"), _INSTALLED),
}
_ENOUGH = {"environment": "kubernetes", "graph_deployment": "any", "profile_results_dir": "/profile", "prometheus_url": "http://prometheus:9090"}


def allowed() -> Allowed:
    """For reading requests."""
    entries = all_entries(PlannerConfig)
    names = {flag.removeprefix("--").replace("-", "_") for entry in entries.values() for flag in entry.flags}
    return Allowed(frozenset(names), planner_fixed=_FIXED, check_planner=faults_of, aic_systems=SYSTEMS)


def reading(found: Object, rules: Allowed) -> Reading:
    """The request, or what is wrong with it."""
    try:
        return read(found, rules)
    except InvalidRequestError as error:
        return error.faults


def faults_of(settings: Mapping[str, Any]) -> tuple[Fault, ...]:
    """What the planner would not take: each setting by itself; where each may be, all together."""
    faults = tuple(fault for name, value in settings.items() if (fault := _fault({name: value}, name)))
    together = None if faults else _fault(settings, next(iter(settings), ""))
    return faults or ((together,) if together else ())


def check_planner_args(arguments: Sequence[str]) -> None:
    """Those of every generated planner. Raises `UsageError` for what it would end with at its start."""
    try:
        flags = planner_command.make_context("planner", list(arguments)).params
        load(PlannerConfig, {**flags, **{name: value for name, value in _ENOUGH.items() if not flags.get(name)}}, {})
    except click.ClickException as error:
        raise UsageError(f"--planner-arg: {error.format_message().rstrip('.')}", hint="sla-planner planner --help lists all flags") from None
    except UsageError as error:
        raise UsageError(f"--planner-arg: {error.message}", hint=error.hint) from None


def _fault(settings: Mapping[str, Any], name: str) -> Fault | None:
    switches = {entry for entry, declared in all_entries(PlannerConfig).items() if declared.switch}
    given: dict[str, Any] = {}
    for key, value in settings.items():
        if (key in switches) != isinstance(value, bool):
            what = "must be true or false" if key in switches else "is a switch's value"
            return Fault(name, f"{value!r} {what}", "write true or false" if key in switches else "write its value")
        given[key] = value if isinstance(value, bool) else str(value)
    try:
        load(PlannerConfig, {**_ENOUGH, **given}, {})
    except UsageError as error:
        return Fault(name, error.message, error.hint or "see the planner's settings")
    return None
