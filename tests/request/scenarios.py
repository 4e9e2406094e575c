"""How requests fare, from beginning to end: what happens around the reconciler, move by move. Between two moves it does what there is to do."""

from __future__ import annotations

from sla_planner.request.seen import JobState, Progress

from .world import Move, World, settle

TOO_LARGE = "error: the profile has 1,200,000 bytes, a ConfigMap holds 1,000,000; mount the results folder, or measure fewer points"
NEAREST = "error: no mapping keeps TTFT 5 ms for 99 % of requests of 3,000 tokens in and 150 out: nearest TP4 with 61 ms; ask for 70 ms"


def apply(**spec: object) -> Move:
    return lambda world: world.apply(**spec)


def runs(world: World) -> None:
    world.job(JobState.RUNNING, progress=Progress("SweepingPrefill", "prefill TP:2", 3, 16, 720.0))


def fails(exit_code: int | None, verdict: str) -> Move:
    return lambda world: world.job(JobState.FAILED, exit_code=exit_code, verdict=verdict)


def no_image(waiting_s: float, passed_s: int = 0) -> Move:
    """The pod waits for so long, for whatever; so much time has passed since the last look."""
    trouble = 'Back-off pulling image "nowhere/profiler:1": not found'

    def move(world: World) -> None:
        world.passed_s += passed_s
        world.job(JobState.WAITING, trouble=trouble, trouble_reason="ImagePullBackOff", no_image=True, waiting_s=waiting_s)

    return move


def unschedulable(world: World) -> None:
    world.job(JobState.WAITING, trouble="0/3 nodes are available: 3 Insufficient cpu", trouble_reason="Unschedulable", waiting_s=9000.0)


def ready(world: World) -> None:
    world.graph(ready=True, state="successful")


def degraded(world: World) -> None:
    world.graph(ready=False, state="pending", available=1, trouble="x-decode-0: out of memory")


def scaled_up(world: World) -> None:
    world.graph(ready=False, state="pending", available=3)


def nothing_available(world: World) -> None:
    world.graph(ready=False, state="pending", available=0)


def given_up(world: World) -> None:
    world.graph(ready=False, state="failed", available=3)


def profiled(world: World) -> None:
    world.profiled()


def too_large(world: World) -> None:
    """The sweep deletes what it cannot fill."""
    del world.config_maps["planner-profile-data-x"]
    fails(2, TOO_LARGE)(world)


def base_without_key(world: World) -> None:
    world.base(key="other.yaml")


def second(world: World) -> None:
    world.apply("y")


def second_runs(world: World) -> None:
    world.job(JobState.RUNNING, "y")


def second_profiled(world: World) -> None:
    world.profiled("y")


def remove(kind: str, name: str) -> Move:
    return lambda world: getattr(world, kind).pop(name, None)


def put(**values: object) -> Move:
    def move(world: World) -> None:
        for key, value in values.items():
            setattr(world, key, value)

    return move


def call(name: str, *arguments: str) -> Move:
    return lambda world: getattr(world, name)(*arguments)


# name -> moves, state of v1alpha1 and v1beta1 of request x in the end (None: the request is gone), reason of Succeeded
SCENARIOS: dict[str, tuple[list[Move], tuple[str, str] | None, str]] = {
    "online": ([apply(), runs, profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "offline": ([apply(offline=True), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "not applied": ([apply(autoApply=False), runs, profiled], ("Ready", "Ready"), "Ready"),
    "applied by hand": ([apply(autoApply=False), profiled, call("apply_generated"), ready], ("Ready", "Deployed"), "Deployed"),
    "applied by hand and deleted": (
        [apply(autoApply=False), profiled, call("apply_generated"), ready, call("delete_graph")],
        ("DeploymentDeleted", "Failed"),
        "DeploymentDeleted",
    ),
    "infeasible": ([apply(), runs, fails(3, NEAREST)], ("Failed", "Failed"), "SLAInfeasible"),
    "infeasible, Job gone": (
        [apply(), runs, lambda world: (world.publish(feasible=False), world.delete_job())],
        ("Failed", "Failed"),
        "SLAInfeasible",
    ),
    "Job failed": ([apply(), runs, fails(2, "error: out of memory at TP:1")], ("Failed", "Failed"), "ProfilingJobFailed"),
    "Job failed without a word": ([apply(), runs, fails(None, "")], ("Failed", "Failed"), "ProfilingJobFailed"),
    "AI Configurator failed": ([apply(offline=True), fails(2, "error: no data for m")], ("Failed", "Failed"), "AIConfiguratorFailed"),
    "image not pulled": ([apply(), no_image(20.0), no_image(322.0, 302)], ("Failed", "Failed"), "ImagePullFailed"),
    "image pulled in the end": ([apply(), no_image(20.0), runs, profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "unschedulable": ([apply(), unschedulable], ("Profiling", "Profiling"), "Profiling"),
    "unschedulable, then placed": ([apply(), unschedulable, runs, profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "base missing": ([remove("config_maps", "dgd-base"), apply()], ("Pending", "Pending"), "BaseManifestMissing"),
    "base missing, then there": (
        [remove("config_maps", "dgd-base"), apply(), call("base"), profiled, ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "key missing, then there": ([base_without_key, apply(), call("base"), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "claim missing, then there": ([put(claims=set()), apply(), put(claims={"artefacts"}), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "no operator": ([put(graph_api=False), apply()], ("Pending", "Pending"), "DeploymentAPIMissing"),
    "no operator, offline and not applied": (
        [put(graph_api=False), apply(offline=True, autoApply=False), profiled],
        ("Ready", "Ready"),
        "Ready",
    ),
    "operator gone before deploying": (
        [apply(), lambda world: (world.profiled(), put(graph_api=False)(world))],
        ("Deploying", "Deploying"),
        "Deploying",
    ),
    "operator gone and back": (
        [apply(), lambda world: (world.profiled(), put(graph_api=False)(world)), put(graph_api=True), ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "an engine over two nodes": ([apply(min_gpus=16), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "too few GPUs": ([apply(min_gpus=32)], ("Pending", "Pending"), "GPUsMissing"),
    "too few GPUs, nodes come": ([apply(min_gpus=32, gpus_per_node=16), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "name of somebody's deployment": ([call("somebodys_graph"), apply()], ("Pending", "Pending"), "DeploymentConflict"),
    "somebody's deployment goes": (
        [call("somebodys_graph"), apply(), call("delete_graph"), profiled, ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "somebody's deployment comes": (
        [apply(), lambda world: (world.somebodys_graph(), world.profiled())],
        ("Failed", "Failed"),
        "DeploymentConflict",
    ),
    "somebody's deployment, not applied": ([call("somebodys_graph"), apply(autoApply=False), profiled], ("Ready", "Ready"), "Ready"),
    "wrong spec": ([apply(wrong=-1)], ("Failed", "Failed"), "ValidationFailed"),
    "wrong spec put right": ([apply(wrong=-1), apply(), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "wrong spec, wrong again": ([apply(wrong=-1), apply(wrong=-2)], ("Failed", "Failed"), "ValidationFailed"),
    "unusable overrides": ([apply(unusable_overrides="no decode worker")], ("Failed", "Failed"), "ValidationFailed"),
    "unusable overrides put right": (
        [apply(unusable_overrides="no decode worker"), apply(), profiled, ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "spec edited while pending": (
        [apply(base="elsewhere"), apply(model="other"), profiled, ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "spec edited while profiling": ([apply(), runs, apply(model="other"), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "spec made wrong while profiling": ([apply(), runs, apply(wrong=1), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "spec edited when deployed": ([apply(), profiled, ready, apply(model="other")], ("Ready", "Deployed"), "Deployed"),
    "spec edited when failed": ([apply(), fails(2, "error: x"), apply(model="other")], ("Failed", "Failed"), "ProfilingJobFailed"),
    "Job deleted": ([apply(), runs, call("delete_job")], ("Failed", "Failed"), "ProfilingJobGone"),
    "Job deleted after it had published": (
        [apply(), runs, lambda world: (world.publish(), world.delete_job()), ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "profile too large": ([apply(), runs, too_large], ("Failed", "Failed"), "ProfilingJobFailed"),
    "profile emptied": (
        [apply(), runs, lambda world: world.job(JobState.SUCCEEDED, exit_code=0)],
        ("Failed", "Failed"),
        "ProfileMissing",
    ),
    "dry run": ([apply(dry_run=True), lambda world: world.job(JobState.SUCCEEDED, verdict="4 mappings, 64 points")], ("Ready", "Ready"), "DryRun"),
    "dry run, Job gone": (
        [apply(dry_run=True), lambda world: world.job(JobState.SUCCEEDED, verdict="4 mappings, 64 points"), call("delete_job")],
        ("Ready", "Ready"),
        "DryRun",
    ),
    "no deployment of it": ([apply(model="cannot be mapped"), profiled], ("Failed", "Failed"), "MappingRefused"),
    "deployment deleted": ([apply(), profiled, ready, call("delete_graph")], ("DeploymentDeleted", "Failed"), "DeploymentDeleted"),
    "deployment deleted and applied by hand": (
        [apply(), profiled, ready, call("delete_graph"), call("apply_generated"), ready],
        ("DeploymentDeleted", "Failed"),
        "DeploymentDeleted",
    ),
    "deployment deleted before it was ready": (
        [apply(), profiled, call("delete_graph")],
        ("DeploymentDeleted", "Failed"),
        "DeploymentDeleted",
    ),
    "degraded": ([apply(), profiled, ready, degraded], ("Deploying", "Deploying"), "Deploying"),
    "degraded and back": ([apply(), profiled, ready, degraded, ready], ("Ready", "Deployed"), "Deployed"),
    "scaled up": ([apply(), profiled, ready, scaled_up], ("Ready", "Deployed"), "Deployed"),
    "scaled up, then in trouble, then back": ([apply(), profiled, ready, scaled_up, degraded, scaled_up, ready], ("Ready", "Deployed"), "Deployed"),
    "in trouble, then on the way back": ([apply(), profiled, ready, degraded, scaled_up], ("Deploying", "Deploying"), "Deploying"),
    "nothing available": ([apply(), profiled, ready, nothing_available], ("Deploying", "Deploying"), "Deploying"),
    "given up by the operator": ([apply(), profiled, ready, given_up], ("Deploying", "Deploying"), "Deploying"),
    "somebody's Job in the way": (
        [lambda world: world.create(world.jobs, "job", {"metadata": {"name": "profile-x"}, "facts": {"state": JobState.RUNNING}}), apply()],
        ("Pending", "Pending"),
        "NameTaken",
    ),
    "two requests": ([apply(), second, runs, second_runs, profiled, second_profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "the first is profiled, then there is another": ([apply(), profiled, second, second_profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "deleted while pending": ([put(claims=set()), apply(), call("delete_request")], None, ""),
    "deleted while profiling": ([apply(), runs, call("delete_request")], None, ""),
    "deleted when generated": ([apply(autoApply=False), profiled, call("delete_request")], None, ""),
    "deleted while deploying": ([apply(), profiled, call("delete_request")], None, ""),
    "deleted when deployed": ([apply(), profiled, ready, call("delete_request")], None, ""),
    "deleted when failed": ([apply(), fails(3, NEAREST), call("delete_request")], None, ""),
    "deleted and made anew while its deployment serves": (
        [apply(), profiled, ready, call("delete_request"), apply(autoApply=False)],
        ("Pending", "Pending"),
        "DeploymentConflict",
    ),
    "deleted and made anew for another deployment while its own serves": (
        [apply(), profiled, ready, call("delete_request"), apply(graph="z")],
        ("Pending", "Pending"),
        "NameTaken",
    ),
    "elsewhere": ([apply(there="chat"), profiled, ready], ("Ready", "Deployed"), "Deployed"),
    "elsewhere, no rights": ([put(no_rights_in={"chat"}), apply(there="chat")], ("Pending", "Pending"), "RightsMissing"),
    "elsewhere, rights granted late": (
        [put(no_rights_in={"chat"}), apply(there="chat"), put(no_rights_in=set()), profiled, ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "elsewhere, applied by hand": (
        [apply(there="chat", autoApply=False), profiled, call("apply_generated"), ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "elsewhere, not applied": ([apply(there="chat", autoApply=False), profiled], ("Ready", "Ready"), "Ready"),
    "elsewhere, somebody's profile in the way": ([call("somebodys_copy"), apply(there="chat")], ("Pending", "Pending"), "NameTaken"),
    "elsewhere, somebody's profile comes meanwhile": (
        [apply(there="chat"), call("somebodys_copy"), profiled],
        ("Deploying", "Deploying"),
        "Deploying",
    ),
    "elsewhere, somebody's profile comes meanwhile and goes": (
        [apply(there="chat"), call("somebodys_copy"), profiled, call("delete_copy"), ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
    "elsewhere, profile deleted": ([apply(there="chat"), profiled, ready, call("delete_copy"), ready], ("Ready", "Deployed"), "Deployed"),
    "elsewhere, deployment deleted": (
        [apply(there="chat"), profiled, ready, call("delete_graph")],
        ("DeploymentDeleted", "Failed"),
        "DeploymentDeleted",
    ),
    "elsewhere, deployment deleted and applied by hand": (
        [apply(there="chat"), profiled, ready, call("delete_graph"), call("apply_generated"), ready],
        ("DeploymentDeleted", "Failed"),
        "DeploymentDeleted",
    ),
    "elsewhere, deleted when generated": ([apply(there="chat", autoApply=False), profiled, call("delete_request")], None, ""),
    "elsewhere, deleted when deployed": ([apply(there="chat"), profiled, ready, call("delete_request")], None, ""),
    "elsewhere, deleted with its deployment": (
        [apply(there="chat"), profiled, ready, call("delete_request"), call("delete_graph")],
        None,
        "",
    ),
    "deleted and made anew": (
        [apply(), profiled, ready, call("delete_request"), apply(), call("delete_graph"), profiled, ready],
        ("Ready", "Deployed"),
        "Deployed",
    ),
}


def played(name):
    """The world after all moves; the reconciler has come to rest after each."""
    return moved(*SCENARIOS[name][0])


def moved(*moves):
    world, reconciler = World(), None
    for move in moves:
        move(world)
        reconciler = settle(world, reconciler)
    return world
