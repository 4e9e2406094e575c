"""Facts gathered, checked, told."""

from __future__ import annotations

import json

import click

from sla_planner.cluster.api import connect
from sla_planner.cluster.preflight_reader import Reader
from sla_planner.config import Loaded
from sla_planner.errors import PlannerError, UnreachableError, UsageError
from sla_planner.logs import setup
from sla_planner.preflight.checks import NO_ANSWER, NOTHING_WRONG, exit_code_of, findings_of
from sla_planner.preflight_config import PreflightConfig
from sla_planner.stages.preflight_gather import gather
from sla_planner.stages.preflight_words import as_json, last_line, nothing_as_json, report
from sla_planner.termination import leave_word


def run(loaded: Loaded[PreflightConfig]) -> None:
    """Print the report. Raises `UsageError` (2) for a problem that a person must solve, `UnreachableError` (4) for a server that does not answer."""
    config = loaded.config
    setup(config.log_format)
    try:
        api = connect(namespace=config.namespace, context=config.context)
        facts = gather(config, Reader(api))
    except PlannerError as error:
        if config.json_output:
            click.echo(json.dumps(nothing_as_json(error, config.namespace or ""), indent=1))
        raise
    findings = findings_of(facts)
    place = f"namespace {api.namespace} at {api.configuration.host}"
    click.echo(json.dumps(as_json(findings, api.namespace), indent=1) if config.json_output else report(findings, place))
    code = exit_code_of(findings)
    if code == NOTHING_WRONG:
        leave_word(last_line(findings))
        return
    raise (UnreachableError if code == NO_ANSWER else UsageError)(f"preflight of {place}: {last_line(findings)}")
