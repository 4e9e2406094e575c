"""What a request is told, what keeps it waiting, and what it does about what cannot be seen or is refused."""

from __future__ import annotations

import copy

import pytest

from sla_planner.request.actions import StopProfiling
from sla_planner.request.lifecycle import AT_ONCE_S, MISSING_S, MOVING_S, SETTLED_S, step
from sla_planner.request.phases import Case, spec_in_force
from sla_planner.request.seen import JobSeen, JobState, Progress
from sla_planner.request.spec import About

from .plain import NAMESPACE, SETTINGS, Making
from .scenarios import NEAREST, SCENARIOS, moved, no_image, played, unschedulable
from .world import Reconciler, World, finished, settle


def case_of(world, name="x"):
    looking = Reconciler(world).look(name)
    return finished(looking)[0]


def test_how_far_the_sweep_is():
    world = moved(SCENARIOS["online"][0][0], lambda world: world.job(JobState.RUNNING))
    status = world.requests["x"]["status"]
    assert (status["profilingPhase"], status["message"]) == ("Initializing", "Job profile-x runs")
    world.job(JobState.RUNNING, progress=Progress("SweepingDecode", "decode TP:4", 11, 24, 5460.4))
    settle(world)
    status = world.requests["x"]["status"]
    assert status["progress"] == {"mapping": "decode TP:4", "point": 11, "points": 24, "etaSeconds": 5460}
    assert status["profilingPhase"] == world.condition("Profiling")["reason"] == "SweepingDecode"
    assert status["message"] == "decode TP:4: point 11 of 24, about 1.5 h left"
    world.job(JobState.RUNNING)  # the end of the log has no progress in it
    settle(world)
    assert world.requests["x"]["status"] == status
    world.job(JobState.WAITING)  # a new pod
    settle(world)
    assert "progress" not in world.requests["x"]["status"]
    assert world.requests["x"]["status"]["profilingPhase"] == "Initializing"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("infeasible", [NEAREST.removeprefix("error: "), "nothing was relaxed", "kubectl delete dgdr x -n serving"]),
        ("Job failed", ["profile-x", "(exit code 2)", "out of memory at TP:1"]),
        ("Job failed without a word", ["kubectl describe job/profile-x -n serving"]),
        ("AI Configurator failed", ["AI Configurator", "no data for m"]),
        ("image not pulled", ['"nowhere/profiler:1": not found', "spec.profilingConfig.profilerImage", "pull secret"]),
        ("unschedulable", ["3 Insufficient cpu", "as soon as a node has room"]),
        ("base missing", ["dgd-base", "kubectl create configmap dgd-base"]),
        ("too few GPUs", ["32 GPUs", "the nodes have 16 in all, the largest 8", "min_num_gpus_per_engine", "num_gpus_per_node"]),
        ("no operator", ["install the Dynamo operator"]),
        ("name of somebody's deployment", ["kubectl delete dynamographdeployment x -n serving", "spec.deploymentOverrides.name"]),
        ("somebody's deployment comes", ["not applied", "kubectl delete dynamographdeployment x -n serving", "kubectl apply -f -"]),
        ("somebody's Job in the way", ["Job profile-x", "another name"]),
        ("deleted and made anew while its deployment serves", ["kubectl delete dynamographdeployment x -n serving", "give the request another name"]),
        ("deleted and made anew for another deployment while its own serves", ["leave planner-profile-data-x", "give the request another name"]),
        ("wrong spec", ["spec.profilingConfig.config.sla.ttft", "not -1", "milliseconds"]),
        ("Job deleted", ["profile-x is gone", "create it anew"]),
        ("profile too large", ["1,200,000 bytes", "measure fewer points"]),
        ("profile emptied", ["holds no profile", "kubectl logs job/profile-x"]),
        ("no deployment of it", ["take no --tp", "create it anew"]),
        ("deployment deleted", ["not made again", "kubectl get dgdr x -n serving -o jsonpath='{.status.generatedDeployment}' | kubectl apply -f -"]),
        ("not applied", ["autoApply is false", "kubectl get dgdr x -n serving -o jsonpath='{.status.generatedDeployment}' | kubectl apply -f -"]),
        ("degraded", ["1 of 4 replicas", "x-decode-0: out of memory", "kubectl describe dynamographdeployment x"]),
    ],
)
def test_says_what_was_wrong_and_what_to_do(name, words):
    message = played(name).requests["x"]["status"]["message"]
    assert [each for each in words if each not in message] == []


def test_every_fault_has_its_event_and_the_condition_has_all():
    world = World()
    world.apply(wrong=-1)
    case = case_of(world)
    twice = Case(case.about, case.request * 2, case.seen, {}, case.makers, case.settings)
    taken = step(twice, "2026-01-01T00:00:00Z")
    assert [said.reason for said in taken.events] == ["ValidationFailed"] * 2
    assert taken.status["message"].startswith("2 faults: spec.profilingConfig.config.sla.ttft: must be")


def test_all_that_is_missing_is_told_at_once():
    world = World(claims=set(), graph_api=False)
    world.apply(base="elsewhere")
    settle(world)
    assert world.reasons() == ["Initialized", "DeploymentAPIMissing", "BaseManifestMissing", "ObjectsMissing"]
    message = world.condition("Validation")["message"]
    assert all(word in message for word in ("Dynamo operator", "elsewhere", "artefacts"))
    world.claims.add("artefacts")
    settle(world)
    assert world.reasons()[4:] == ["DeploymentAPIMissing", "BaseManifestMissing"]


def test_a_base_manifest_that_is_none_waits_for_a_better_one():
    world = World()
    world.config_maps["dgd-base"]["data"]["disagg.yaml"] = "kind: Deployment"
    world.apply()
    settle(world)
    assert world.state() == ("Pending", "Pending")
    assert world.condition("Validation")["reason"] == "BaseManifestUnusable"
    world.base()
    settle(world)
    assert world.state() == ("Profiling", "Profiling")


@pytest.mark.parametrize(
    ("largest", "spec", "state"),
    [
        (0, {}, "Pending"),
        (0, {"offline": True}, "Profiling"),
        (1, {}, "Profiling"),
        (8, {"min_gpus": 8}, "Profiling"),
        (8, {"min_gpus": 16}, "Profiling"),
        (8, {"min_gpus": 17}, "Pending"),
        (8, {"min_gpus": 17, "gpus_per_node": 16}, "Profiling"),
        (0, {"gpus_per_node": 8}, "Profiling"),
    ],
)
def test_gpus_that_the_nodes_do_not_have(largest, spec, state):
    world = World()
    world.gpus = type(world.gpus)(largest_node=largest, total=2 * largest)
    world.apply(**spec)
    settle(world)
    assert world.state()[0] == state


def test_gpus_that_may_not_be_looked_at_are_no_obstacle():
    world = World(gpus=None, hidden={"gpus": "nodes is forbidden"})
    world.apply(min_gpus=64)
    settle(world)
    assert world.state()[0] == "Profiling"


@pytest.mark.parametrize("hidden", ["job", "profile", "base", "graph_api"])
def test_what_cannot_be_looked_at_is_not_guessed(hidden):
    world = World(hidden={hidden: "jobs is forbidden: give the reconciler get on jobs"})
    world.apply()
    settle(world)
    assert world.state() == ("Pending", "Pending")
    assert (world.condition("Validation")["status"], world.condition("Validation")["reason"]) == ("Unknown", "CannotBeSeen")
    assert world.reasons() == ["Initialized", "CannotBeSeen"]
    assert not world.made
    world.hidden.clear()
    settle(world)
    assert world.state() == ("Profiling", "Profiling")


@pytest.mark.parametrize(
    ("moves", "hidden", "state"),
    [
        (["online", 1], "job", ("Profiling", "Profiling")),
        (["online", 2], "profile", ("Profiling", "Profiling")),
        (["online", 2], "frozen", ("Profiling", "Profiling")),
        (["online", 4], "graph", ("Ready", "Deployed")),
    ],
)
def test_what_has_begun_stays_while_it_cannot_be_seen(moves, hidden, state):
    name, count = moves
    world = moved(*SCENARIOS[name][0][:count])
    world.hidden[hidden] = "forbidden"
    settle(world)
    assert world.state() == state
    assert world.reasons()[-1] == "CannotBeSeen"
    assert f"{hidden}: forbidden" in world.requests["x"]["status"]["message"]
    world.hidden.clear()
    settle(world)
    assert world.state() == state
    assert "forbidden" not in world.requests["x"]["status"]["message"]


@pytest.mark.parametrize(("what", "named"), [("job", "Job profile-x"), ("config map", "ConfigMap dgdr-output-x")])
def test_a_refusal_is_told_and_healed(what, named):
    world = World(refusing={what: "exceeded quota: count/jobs.batch=0"})
    world.apply()
    settle_refused(world)
    assert world.state() == ("Pending", "Pending")
    assert world.reasons() == ["Initialized", "Refused"]
    assert named in world.said("Refused")
    assert "exceeded quota: count/jobs.batch=0" in world.said("Refused")
    world.refusing.clear()
    settle(world)
    assert world.state() == ("Profiling", "Profiling")
    assert (world.condition("Validation")["status"], world.made["job profile-x"]) == ("True", 1)


def test_a_refused_deployment_can_be_read_in_the_status():
    world = World()
    world.apply()
    settle(world)
    world.profiled()
    world.refusing["graph"] = "spec.services: Invalid value"
    settle_refused(world)
    assert world.state() == ("Deploying", "Deploying")
    assert "spec.services: Invalid value" in world.requests["x"]["status"]["message"]
    assert world.requests["x"]["status"]["generatedDeployment"]["kind"] == "DynamoGraphDeployment"
    assert "deployment" not in world.requests["x"]["status"]


def settle_refused(world):
    """A refused action is tried for ever, so there is no rest: a few rounds, after which nothing changes any more."""
    reconciler = Reconciler(world)
    for _ in range(6):
        finished(reconciler.pass_over("x"))
    before = copy.deepcopy(world.requests)
    finished(reconciler.pass_over("x"))
    assert world.requests == before


def test_a_spec_that_was_put_right_waits_like_any_other():
    world = moved(lambda world: world.apply(wrong=-1))
    world.apply()
    world.refusing["job"] = "exceeded quota"
    settle_refused(world)
    assert world.state() == ("Pending", "Pending")
    world.refusing.clear()
    settle(world)
    assert world.state() == ("Profiling", "Profiling")


def test_a_job_whose_image_is_nowhere_is_stopped_after_the_end_is_told():
    world = World()
    for move in SCENARIOS["image not pulled"][0]:
        move(world)
        settle(world)
    assert not world.jobs
    assert world.condition("Succeeded")["reason"] == "ImagePullFailed"
    alive = World()
    alive.apply()
    settle(alive)
    SCENARIOS["image not pulled"][0][1](alive)
    settle(alive)
    SCENARIOS["image not pulled"][0][2](alive)
    first = step(case_of(alive), "2026-01-01T00:06:00Z")
    assert (first.actions, first.status["state"], first.again_s) == ((), "Failed", AT_ONCE_S)
    case = case_of(alive)
    second = step(Case(case.about, case.request, case.seen, first.status, Making(), SETTINGS), "2026-01-01T00:06:01Z")
    assert (second.actions, second.status) == ((StopProfiling("profile-x"),), None)


def test_looks_again_soon_only_while_something_moves():
    def wait(name, count):
        return step(case_of(moved(*SCENARIOS[name][0][:count])), "2026-01-01T00:00:00Z").again_s

    assert wait("base missing", 2) == MISSING_S
    assert wait("online", 2) == MOVING_S
    assert wait("online", 3) == MOVING_S
    assert wait("online", 4) == SETTLED_S
    assert wait("not applied", 3) == SETTLED_S
    assert wait("Job failed", 3) == SETTLED_S


def test_the_spec_in_force():
    about, frozen = About("x", NAMESPACE, "u1", 2, {"model": "new"}), {"model": "old"}
    own = JobSeen("profile-x", True, JobState.RUNNING)
    assert spec_in_force(about, {}, None, job=None, published=False) == {"model": "new"}
    assert spec_in_force(about, {}, frozen, job=None, published=False) == {"model": "new"}  # put by, and then killed: nothing has begun
    assert spec_in_force(about, {}, frozen, job=own, published=False) == frozen
    assert spec_in_force(about, {}, frozen, job=JobSeen("profile-x", False, JobState.RUNNING), published=False) == {"model": "new"}
    assert spec_in_force(about, {}, frozen, job=None, published=True) == frozen
    assert spec_in_force(about, {"profilingJobName": "profile-x"}, frozen, job=None, published=False) == frozen
    assert spec_in_force(about, {"generatedDeployment": {}}, None, job=None, published=False) == {"model": "new"}


def test_notes_of_the_reader_are_told():
    world = World()
    world.apply(notes=["spec.searchStrategy: rapid has no effect"])
    settle(world)
    assert "spec.searchStrategy: rapid has no effect" in world.condition("Validation")["message"]


def test_a_beta_request_is_told_in_its_own_words():
    world = World()
    world.apply(shape="v1beta1", min_gpus=32)
    settle(world)
    assert "spec.hardware.numGpusPerNode" in world.requests["x"]["status"]["message"]
    assert "min_num_gpus_per_engine" not in world.requests["x"]["status"]["message"]


def test_the_same_trouble_in_other_words_is_no_new_event():
    world = moved(SCENARIOS["unschedulable"][0][0], unschedulable)
    world.job(JobState.WAITING, trouble="0/4 nodes are available: 4 Insufficient cpu", trouble_reason="Unschedulable")
    settle(world)
    assert world.reasons().count("Unschedulable") == 1
    assert "0/4 nodes" in world.requests["x"]["status"]["message"]


def test_an_edit_that_leaves_the_same_thing_missing_is_no_new_event():
    world = moved(*SCENARIOS["base missing"][0])
    world.apply(model="other")
    settle(world)
    assert world.requests["x"]["status"]["observedGeneration"] == 2
    assert world.reasons() == ["Initialized", "BaseManifestMissing"]


def test_pods_of_the_deployment_that_do_not_start_are_told():
    world = moved(*SCENARIOS["online"][0][:3])
    world.graph(trouble="x-prefill-0: no such image")
    settle(world)
    assert world.reasons()[-1] == "DeploymentNotStarting"
    assert (
        world.said("DeploymentNotStarting") == "DynamoGraphDeployment x is not ready yet, 0 of 4 replicas are available: x-prefill-0: no such image"
    )
    assert world.state() == ("Deploying", "Deploying")


def test_a_deployment_to_which_replicas_are_added_goes_on_serving():
    world = moved(*SCENARIOS["scaled up"][0])
    assert (world.condition("DeploymentReady")["status"], world.condition("Succeeded")["status"]) == ("True", "True")
    assert "3 of 4 replicas" in world.condition("DeploymentReady")["message"]


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("deleted and made anew ")])
def test_a_profile_that_a_deployment_serves_with_is_never_to_be_deleted(name):
    message = played(name).requests["x"]["status"]["message"]
    assert "else delete it" not in message
    assert "delete configmap" not in message
    assert "deploymentOverrides" not in message  # the name of the profile would be the same


def test_nodes_that_are_not_there_yet_are_told_of_and_it_stays_so():
    world = World()
    world.apply(gpus_per_node=16)
    settle(world)
    said = "num_gpus_per_node is 16 and the nodes have 16 in all, the largest 8 now"
    assert said in world.condition("Validation")["message"]
    world.gpus = None  # nodes are looked at only in the beginning
    world.profiled()
    settle(world)
    assert world.condition("Validation")["status"] == "True"
    assert said in world.condition("Validation")["message"]


def test_an_image_has_its_time_from_when_it_was_first_not_pulled():
    world = moved(SCENARIOS["online"][0][0], unschedulable, no_image(9000.0))  # the node came after hours
    assert world.state() == ("Profiling", "Profiling")
    moves = [no_image(200.0, 180), SCENARIOS["online"][0][1], no_image(10.0, 9000), no_image(9000.0), no_image(9000.0, 200)]
    world = moved(SCENARIOS["online"][0][0], *moves)  # a second pod, after the first has run
    assert world.condition("Profiling")["reason"] == "ImagePullBackOff"
