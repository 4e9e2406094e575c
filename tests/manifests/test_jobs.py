"""What the manifests run: arguments that the stages take, settings that load, variables of one-off Jobs; Job and CronJob mean the same."""

from __future__ import annotations

import re
import subprocess

import click
import pytest
import yaml
from tests.manifests.objects import CHOSEN, ONE_OFF_JOBS, ROOT, build, defaults, delivered, of_kind, one_off, pod_template, substituted

from sla_planner.cli import group
from sla_planner.config import Loaded, load
from sla_planner.errors import UsageError
from sla_planner.flag_reference import STAGES as SETTINGS
from sla_planner.planner_config import PlannerConfig
from sla_planner.sweep_config import SweepConfig

COMMANDS = [
    pytest.param(source.partition(":")[0], container, id=source)
    for source, found in delivered()
    if (template := pod_template(found))
    for container in template["spec"]["containers"]
]
HEADER = re.compile(r"^#   ([A-Z_]+)=(.*)$", re.MULTILINE)
MOUNTED = re.compile(r"^/config/(\S+)$")


def name_of(file):
    return str(file.relative_to(ROOT))


def loaded(args, config_maps, folder) -> Loaded | None:
    """What the stage makes of its arguments, with the settings files that are mounted."""
    for name, text in config_maps.items():
        (folder / name).write_text(text)
    stage_name, *flags = [str(folder / MOUNTED.match(arg)[1]) if MOUNTED.match(arg) else arg for arg in args]
    context = click.Context(group, info_name="sla-planner")
    _, stage, rest = group.resolve_command(context, [stage_name, *flags])
    context = stage.make_context(stage_name, rest, parent=context)
    return load(SETTINGS[stage_name], context.params, {}) if stage_name in SETTINGS else None


def mounted_files(source):
    objects = build(ROOT) if source == "." or source.startswith("jobs/") else build(ROOT / "manifests/overlays" / source)
    return {key: text for name, each in of_kind(objects, "ConfigMap").items() for key, text in (each.get("data") or {}).items() if "-config-" in name}


@pytest.mark.parametrize(("source", "container"), COMMANDS)
def test_the_stage_takes_these_arguments(source, container, tmp_path):
    loaded(container["args"], mounted_files(source), tmp_path)


def settings_of(file, tmp_path):
    (container,) = one_off(file)["spec"]["template"]["spec"]["containers"]
    return loaded(container["args"], {}, tmp_path).config


def test_the_sweep_is_the_same_as_a_job_and_as_a_cron_job(tmp_path):
    periodic = load(SweepConfig, {"config": str(ROOT / "jobs/profile-sweep/sweep.yaml")}, {}).config
    job = settings_of(ROOT / "jobs/profile-sweep/job.yaml", tmp_path)
    assert job.model_copy(update={"image": None}) == periodic
    moe = settings_of(ROOT / "jobs/profile-sweep/moe-job.yaml", tmp_path)
    assert moe.model_copy(update={"is_moe_model": None, "max_num_gpus": None}) == job
    assert (moe.is_moe_model, moe.max_num_gpus) == (True, 32)


def test_the_planner_as_a_job_says_what_the_cron_job_would_do(tmp_path):
    periodic = load(PlannerConfig, {"config": str(ROOT / "jobs/planner/planner.yaml")}, {}).config
    job = settings_of(ROOT / "jobs/planner/job.yaml", tmp_path)
    assert (job.no_operation, periodic.no_operation) == (True, False)
    assert job.targets[0].model_copy(update={"adjustment_interval": 60.0}) == periodic.targets[0]


# ---- variables ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ONE_OFF_JOBS, ids=name_of)
def test_the_variables_are_listed_at_the_top_with_their_defaults(file):
    text = file.read_text()
    listed = dict(HEADER.findall(text))
    assert listed.keys() == set(re.findall(r"\$\{(\w+)\}", text))
    assert listed == {name: defaults()[name] for name in listed}
    assert text.count("$") == text.count("${")  # plain envsubst would take a $word as well


def test_env_sh_knows_no_other_variables_and_changes_none_that_is_set():
    assert defaults().keys() == {name for file in ONE_OFF_JOBS for name in dict(HEADER.findall(file.read_text()))}
    command = ["sh", "-c", '. "$0" && echo "$PVC_NAME"', str(ROOT / "jobs/env.sh")]
    assert subprocess.run(command, env={"PVC_NAME": "mine"}, capture_output=True, text=True, check=True).stdout == "mine\n"


@pytest.mark.parametrize("file", ONE_OFF_JOBS, ids=name_of)
def test_the_namespace_is_kubectls_unless_it_is_named(file):
    unnamed = yaml.safe_load(substituted(file.read_text(), defaults()))
    assert unnamed["metadata"]["namespace"] is None
    assert one_off(file)["metadata"]["namespace"] == CHOSEN["NAMESPACE"]


@pytest.mark.parametrize("file", ONE_OFF_JOBS, ids=name_of)
def test_with_nothing_set_kubernetes_refuses_the_job(file):
    """`spec.template.spec.containers[0].image: Required value`, as tried on a real API server."""
    (container,) = yaml.safe_load(substituted(file.read_text(), {}))["spec"]["template"]["spec"]["containers"]
    assert container["image"] is None


@pytest.mark.parametrize(
    ("file", "variable"),
    [(file, name) for file in ONE_OFF_JOBS for name in dict(HEADER.findall(file.read_text())) if f'"${{{name}}}"' in file.read_text()],
    ids=lambda each: each if isinstance(each, str) else name_of(each),
)
def test_an_empty_flag_is_refused_by_the_stage(file, variable, tmp_path):
    text = substituted(file.read_text(), {**defaults(), **CHOSEN, variable: ""})
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    with pytest.raises((UsageError, click.UsageError)):
        loaded(container["args"], {}, tmp_path)
