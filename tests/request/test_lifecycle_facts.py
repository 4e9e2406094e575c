"""Whatever is seen, in whatever order: a step gives an answer, the status is one that the API takes, and what is over stays over."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sla_planner.request.lifecycle import AT_ONCE_S, refused, step
from sla_planner.request.phases import Case, spec_in_force
from sla_planner.request.seen import GpusSeen, GraphSeen, JobSeen, JobState, ProfileSeen, Progress, Seen
from sla_planner.request.spec import About

from .plain import BASE_KEY, NAMESPACE, SETTINGS, SPEC, Making, read
from .scenarios import SCENARIOS
from .world import Exists, Reconciler, World

STATES = {
    ("Pending", "Pending"),
    ("Profiling", "Profiling"),
    ("Ready", "Ready"),
    ("Deploying", "Deploying"),
    ("Ready", "Deployed"),
    ("DeploymentDeleted", "Failed"),
    ("Failed", "Failed"),
}
KINDS = ["Validation", "Profiling", "SpecGenerated", "DeploymentReady", "Succeeded"]
REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")  # as metav1.Condition has it
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CRD = yaml.safe_load((Path(__file__).parents[2] / "manifests/crds/dynamographdeploymentrequest.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}


def misfits(value, schema, path="status"):
    """What the API server would refuse or drop."""
    if not isinstance(value, TYPES.get(schema.get("type"), object)):
        return [f"{path}: {value!r}"]
    if isinstance(value, list):
        return [each for item in value for each in misfits(item, schema["items"], f"{path}[]")]
    if isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        known = schema["properties"]
        unknown = [f"{path}.{key}" for key in value if key not in known]
        return unknown + [each for key in value if key in known for each in misfits(value[key], known[key], f"{path}.{key}")]
    return []


def check(status):
    """A status that the resource's schema takes."""
    json.dumps(status, allow_nan=False)
    assert misfits(status, SCHEMA) == []
    assert (status["state"], status["phase"]) in STATES
    assert status["message"]
    kinds = [each["type"] for each in status["conditions"]]
    assert kinds == [kind for kind in KINDS if kind in kinds]
    assert kinds[-1] == "Succeeded"
    for each in status["conditions"]:
        assert set(each) == {"type", "status", "reason", "message", "lastTransitionTime"}
        assert each["status"] in ("True", "False", "Unknown")
        assert REASON.fullmatch(each["reason"])
        assert len(each["message"]) <= 4096
        assert TIME.fullmatch(each["lastTransitionTime"])


words = st.sampled_from(["", "0/3 nodes are available", "error: out of memory\nat TP:1.", "x" * 5000])
specs = st.sampled_from(
    [
        SPEC,
        {**SPEC, "autoApply": False},
        {**SPEC, "offline": True},
        {**SPEC, "dry_run": True},
        {**SPEC, "wrong": 1},
        {**SPEC, "min_gpus": 16},
        {**SPEC, "shape": "v1beta1", "notes": ["searchStrategy: rapid has no effect"]},
        {**SPEC, "model": "cannot be mapped"},
    ]
)
progress = st.builds(
    Progress,
    phase=st.sampled_from(["Initializing", "SweepingPrefill", "Done", "nonsense"]),
    mapping=st.sampled_from(["prefill TP:2", ""]),
    point=st.integers(0, 16),
    points=st.integers(0, 16),
    eta_s=st.none() | st.floats(0, 1e6),
)
jobs = st.none() | st.builds(
    JobSeen,
    name=st.just("profile-x"),
    ours=st.booleans(),
    state=st.sampled_from(JobState),
    verdict=words,
    exit_code=st.sampled_from([None, 0, 2, 3, 4, 75, 137]),
    trouble=words,
    trouble_reason=st.sampled_from(["", "Unschedulable", "ErrImagePull", "not a reason"]),
    waiting_s=st.sampled_from([0.0, 299.0, 301.0]),
    progress=st.none() | progress,
)
profiles = st.none() | st.builds(
    ProfileSeen,
    config_map=st.just("planner-profile-data-x"),
    feasible=st.booleans(),
    prefill=st.sampled_from(["TP2", ""]),
    decode=st.sampled_from(["TP1", ""]),
    digest=st.just("d"),
    files=st.just({"prefill_raw_data.json": "[1]"}),
    owners=st.sampled_from([(), ("u1", "g1")]),
)
graphs = st.none() | st.builds(
    GraphSeen,
    name=st.just("x"),
    namespace=st.sampled_from([NAMESPACE, "elsewhere"]),
    uid=st.just("g1"),
    ours=st.booleans(),
    ready=st.booleans(),
    state=st.sampled_from(["", "pending", "successful", "failed"]),
    replicas=st.integers(0, 4),
    available_replicas=st.integers(0, 4),
    trouble=words,
)
unknowns = st.dictionaries(
    st.sampled_from(["job", "profile", "frozen", "base", "graph", "graph_api", "gpus", "held"]), st.just("not allowed"), max_size=2
)
sights = st.builds(
    Seen,
    alone=st.booleans(),
    graph_api=st.sampled_from([True, True, False]),
    base=st.sampled_from([None, "kind: DynamoGraphDeployment", "kind: Deployment"]),
    base_trouble=st.sampled_from(["", "there is no ConfigMap dgd-base"]),
    job=jobs,
    profile=profiles,
    graph=graphs,
    gpus=st.none() | st.builds(GpusSeen, largest_node=st.integers(0, 8), total=st.integers(0, 16)),
    missing=st.sampled_from([(), ("there is no claim artefacts",)]),
    in_the_way=st.sampled_from([(), ("ConfigMap planner-profile-data-x",)]),
    shared_taken=st.booleans(),
    frozen=st.none() | specs,
    held=st.sampled_from([{}, {"dgdr-output-x": {BASE_KEY: "kind: DynamoGraphDeployment"}}]),
    unknown=unknowns,
)


@given(looks=st.lists(st.tuples(specs, sights, st.booleans(), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_facts_in_any_order(looks):
    status, generation, written_spec = {}, 1, looks[0][0]
    for number, (spec, seen, edited, denied) in enumerate(looks):
        if edited and spec != written_spec:
            generation, written_spec = generation + 1, spec
        about = About("x", NAMESPACE, "u1", generation, written_spec)
        counts = spec_in_force(about, status, seen.frozen, job=seen.job, published=seen.profile is not None)
        case = Case(about, read("x", "u1", generation, counts), seen, status, Making(), SETTINGS)
        taken = step(case, f"2026-01-01T00:00:{number:02}Z")
        for said in taken.events:
            assert REASON.fullmatch(said.reason)
            assert said.message
        assert taken.status is not None or not taken.events
        if denied := denied and bool(taken.actions):
            taken = refused(case, taken.actions[0], "configmaps is forbidden", "2026-01-01T00:00:59Z")
        if taken.status is None:
            continue
        check(taken.status)
        if status and status["state"] in ("Failed", "DeploymentDeleted") and taken.status["state"] != status["state"]:
            assert status["state"] == "Failed"
            assert status["conditions"][-1]["reason"] == "ValidationFailed"
            assert generation > status["observedGeneration"]
        if not (denied or taken.actions) and taken.again_s > AT_ONCE_S:
            again = step(replace(case, status=taken.status), "2026-01-01T00:01:00Z")
            assert (again.status, again.events) == (None, ())
        status = json.loads(json.dumps(taken.status))


MOVES = sorted({move for moves, _, _ in SCENARIOS.values() for move in moves}, key=repr)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_anything_may_happen_between_any_two_calls(data):
    """Whatever people and the cluster do meanwhile: at most one Job for a request, one more for each that was deleted before it was told of."""
    world = World()
    world.apply()
    reconciler, deleted, seen_failed = Reconciler(world), 0, {}
    running = reconciler.pass_over("x")
    for happening in data.draw(st.lists(st.none() | st.sampled_from(MOVES), max_size=60)):
        if happening is not None:
            before = set(world.jobs) | set(world.graphs)
            with suppress(KeyError, Exists):  # it may be that it cannot happen now
                happening(world)
            deleted += len(before - set(world.jobs) - set(world.graphs))
            continue
        try:
            next(running)
        except StopIteration:
            running = reconciler.pass_over("x")
        for name, found in world.requests.items():
            if status := found["status"]:
                check(status)
                key = found["metadata"]["uid"]
                last = seen_failed.get(key)
                if last is not None and last[1] != "ValidationFailed":
                    assert (status["state"], status["conditions"][-1]["reason"]) == last, name
                if status["state"] in ("Failed", "DeploymentDeleted"):
                    seen_failed[key] = (status["state"], status["conditions"][-1]["reason"])
    for what in ("job profile-x", "graph x"):
        assert world.made[what] <= 1 + deleted
