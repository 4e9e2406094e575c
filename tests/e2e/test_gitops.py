"""GitOps: a real Argo CD installs this tree, with self-heal and prune, and the planner scales what it has installed.

The Application is the shipped one but for the repository, the branch and the namespace. The tree is this one but for what its user sets in the
overlay that the Application names: images, engines that start at once and, where the cluster has such a class, a volume that waits for its first pod,
as in most clouds. Every test but the last leaves the Application in sync.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from tests.e2e.argocd.application import Application
from tests.e2e.argocd.argo_cd import ArgoCd, Missing
from tests.e2e.argocd.repository import BRANCH, TREE, Repository
from tests.e2e.conftest import Namespace
from tests.e2e.serving import Journal

pytestmark = pytest.mark.cluster

OVERLAY = Path("manifests/overlays/argocd")
PLANNER = Path("manifests/overlays/plain-deployments/planner.yaml")
INJECTED = Path("jobs/inject-config/disagg.yaml")
IMAGES = ("planner", "profile-sweep", "volume-tools", "engine-sim")
SCALED = ("prefill", "decode")
GRAPH = """
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata:
  name: chat
spec:
  services:
    Frontend: {componentType: frontend, replicas: 1}
    prefill: {componentType: worker, subComponentType: prefill, replicas: 1}
    decode: {componentType: worker, subComponentType: decode, replicas: 1}
"""
WRITTEN_AT_RUN_TIME = "sla-planner-status"  # by the planner
NOTED = "kubectl.kubernetes.io/last-applied-configuration"  # Argo CD notes there what it applied and the status that it saw; a Deployment counts that


@contextlib.contextmanager
def changed(file):
    """The YAML document in a file, written back when the block ends."""
    document = yaml.safe_load(file.read_text())
    yield document
    file.write_text(yaml.safe_dump(document, sort_keys=False))


def parts(reference):
    """An image as `images` of a kustomization has it."""
    name, _, tag = reference.rpartition(":")
    return {"newName": name, "newTag": tag}


def strategic(kind, name, **fields):
    """A patch for `patches` of a kustomization."""
    group = {"Deployment": "apps/v1", "PersistentVolumeClaim": "v1"}[kind]
    return {"patch": json.dumps({"apiVersion": group, "kind": kind, "metadata": {"name": name}, **fields})}


def run(namespace, cronjob, name, *arguments):
    """Runs a suspended CronJob's Job with other arguments, to its end; its log."""
    job = json.loads(namespace.kubectl("create", "job", name, f"--from=cronjob/{cronjob}", "--dry-run=client", "-o", "json"))
    job["spec"]["template"]["spec"]["containers"][0]["args"] = [cronjob, *arguments]
    namespace.apply(job)
    namespace.wait(f"job/{name}", "condition=Complete")
    return namespace.logs(f"job/{name}")


def generations(namespace, *deployments):
    """Each counts how often what is wanted of the Deployment was changed."""
    return {name: namespace.get(f"deployment/{name}")["metadata"]["generation"] for name in deployments}


@contextlib.contextmanager
def counts_asked_for(namespace):
    """Every number of workers that was asked for while the block ran, by role; a moment's too."""
    asked = {}
    journal = Journal(namespace)
    try:
        yield asked
    finally:
        asked |= {name: set(journal.of(name)) for name in SCALED}
        journal.close()


def pods(namespace, name):
    """Of a Deployment, as they are: none of them is another's successor if the same are there later."""
    return set(namespace.kubectl("get", "pods", f"--selector=slaplanner.io/role={name}", "--output=jsonpath={.items[*].metadata.uid}").split())


def replicas(namespace, *deployments):
    return {name: namespace.get(f"deployment/{name}")["spec"]["replicas"] for name in deployments}


def as_wanted(application, namespace):
    """Everything that Argo CD has installed, without what others note in it, and with the version of what has no status."""
    resources = [f"{each['kind']}.{each['version']}.{each.get('group', '')}/{each['name']}".lower() for each in application.installed()]
    found = json.loads(namespace.kubectl("get", *resources, "-o", "json"))["items"]
    assert len(found) == len(resources)
    for each in found:
        each["metadata"].get("annotations", {}).pop(NOTED, None)
        if "status" in each or each["metadata"]["name"] == WRITTEN_AT_RUN_TIME:
            for reported in ("status", "data"):
                each.pop(reported, None)
            for counted in ("resourceVersion", "generation"):
                each["metadata"].pop(counted, None)
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in found}


def config_of_planner(namespace):
    """Name of the ConfigMap that its Deployment mounts."""
    (name,) = [
        volume["configMap"]["name"]
        for volume in namespace.get("deployment/planner")["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "config"
    ]
    return name


def replicas_of_services(namespace):
    """Of the graph."""
    return {name: service["replicas"] for name, service in namespace.get("dynamographdeployment/chat")["spec"]["services"].items()}


def kinds(namespace):
    """Of every object that a namespace can hold, but events."""
    listed = namespace.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    return [kind for kind in listed if not kind.startswith("events")]


@pytest.fixture(scope="module")
def argo_cd(module_namespace, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("argocd")
    failed_before = request.session.testsfailed
    try:
        running = ArgoCd(module_namespace, folder)
    except Missing as missing:
        pytest.fail(str(missing), pytrace=False)
    with running:
        yield running
    if request.session.testsfailed > failed_before:
        shutil.copytree(running.logs, Path(os.environ.get("E2E_ARTIFACTS", "e2e-artifacts")) / "argocd", dirs_exist_ok=True)


@pytest.fixture(scope="module")
def repository(cluster, image, tmp_path_factory):
    fork = Repository(tmp_path_factory.mktemp("git"))
    classes = {found["metadata"]["name"] for found in cluster.get("storageclasses")["items"]}
    with changed(fork.files / OVERLAY / "kustomization.yaml") as overlay:
        overlay["images"] = [{"name": f"sla-planner/{name}", **parts(image(name))} for name in IMAGES]
        sooner = json.dumps([{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--startup-s=1"}])
        overlay["patches"] = [{"target": {"kind": "Deployment", "name": name}, "patch": sooner} for name in SCALED]
        if "first-consumer" in classes:
            overlay["patches"].append(strategic("PersistentVolumeClaim", "dynamo-pvc", spec={"storageClassName": "first-consumer"}))
    fork.commit("Our images, our storage, engines that start at once")
    return fork


@pytest.fixture(scope="module")
def target(module_namespace, cluster, request):
    """The namespace that Argo CD makes and fills."""
    namespace = Namespace(f"{module_namespace.name}-app")
    failed_before = request.session.testsfailed
    yield namespace
    if request.session.testsfailed > failed_before:
        namespace.dump(Path(os.environ.get("E2E_ARTIFACTS", "e2e-artifacts")) / "gitops")
    if cluster.kubectl("get", "namespace", namespace.name, "--ignore-not-found"):
        namespace.delete()


@pytest.fixture(scope="module")
def application(argo_cd, module_namespace, repository, target):
    """In sync and healthy. At the end it is forgotten, if no test has deleted it."""
    manifest = yaml.safe_load((TREE / OVERLAY / "application.yaml").read_text())
    manifest["spec"]["source"] |= {"repoURL": repository.url, "targetRevision": BRANCH}
    manifest["spec"]["destination"]["namespace"] = target.name
    created = Application.create(argo_cd, module_namespace, manifest)
    try:
        created.until_healthy(repository.head())
        yield created
    finally:
        created.abandon()


@pytest.fixture(scope="module")
def scaled(application, repository, target):
    """The planner has set both roles to two workers, for the first time."""
    with changed(repository.files / PLANNER) as settings:
        settings["min_endpoint"] = 2
    application.refresh_until_healthy(repository.commit("Two workers of each role, at least"))
    for name in SCALED:
        target.until(f"deployment/{name}", lambda found: found["spec"]["replicas"] == 2 == found["status"].get("readyReplicas"))
    application.until_healthy(repository.head())


@pytest.fixture(scope="module")
def graph_definition(cluster):
    """Graphs can be stored; nothing looks after them."""
    file = str(TREE / "tests/e2e/crds/dynamographdeployments.nvidia.com.yaml")
    cluster.kubectl("create", "-f", file)
    yield
    cluster.kubectl("delete", "-f", file)


def test_everything_is_in_sync_and_healthy(application, target, cluster):
    resources = application.installed()

    assert {resource["status"] for resource in resources} == {"Synced"}
    assert {resource.get("health", {}).get("status", "Healthy") for resource in resources} == {"Healthy"}
    assert {"PersistentVolumeClaim", "CronJob", "Deployment", "NetworkPolicy", "Role"} <= {resource["kind"] for resource in resources}
    assert {job["spec"]["suspend"] for job in target.get("cronjobs")["items"]} == {True}
    assert cluster.get(f"namespace/{target.name}")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_hook_has_put_the_manifest_of_git_onto_the_volume(application, target):
    (hook,) = [done for done in application.get()["status"]["operationState"]["syncResult"]["resources"] if done.get("hookType")]
    assert (hook["kind"], hook["name"], hook["hookPhase"]) == ("Job", "inject-config", "Succeeded")
    target.wait("job/inject-config", "delete")

    said = run(target, "download-results", "checksums", "--volume-path", "/data", "--folder", "/data/configs", "--checksums")

    assert hashlib.sha256((TREE / INJECTED).read_bytes()).hexdigest() in said


def test_what_the_planner_scales_is_not_put_back(application, repository, target, scaled):
    assert {event["involvedObject"]["name"] for event in target.get("events")["items"] if event["reason"] == "ScalingDecision"} == set(SCALED)
    before = generations(target, *SCALED)

    application.until_compared(times=3)
    application.refresh("hard")

    assert generations(target, *SCALED) == before  # nobody has touched them, be it only for a moment
    application.until_healthy(repository.head())


def test_what_others_scale_is_put_back(application, repository, target):
    before = generations(target, "frontend")
    target.kubectl("scale", "deployment/frontend", "--replicas=2")

    target.until("deployment/frontend", lambda found: found["metadata"]["generation"] >= before["frontend"] + 2)

    assert replicas(target, "frontend") == {"frontend": 1}
    application.until_healthy(repository.head())


def test_what_is_deleted_comes_back(application, repository, target):
    gone = target.get("networkpolicy/planner")["metadata"]["uid"]
    target.kubectl("delete", "networkpolicy", "planner")

    target.until("networkpolicy/planner", lambda found: found["metadata"]["uid"] != gone)

    application.until_healthy(repository.head())


def test_a_second_sync_changes_nothing(application, repository, target):
    before, running = as_wanted(application, target), {name: pods(target, name) for name in SCALED}

    with counts_asked_for(target) as asked:
        done = application.sync()
        application.until_compared(times=1)

    assert {each["kind"] for each in application.installed()} <= {each["kind"] for each in done}
    assert as_wanted(application, target) == before
    assert asked == {name: {count} for name, count in replicas(target, *SCALED).items()}
    assert {name: pods(target, name) for name in SCALED} == running
    application.until_healthy(repository.head())


def test_jobs_that_have_finished_do_not_put_it_out_of_sync(application, repository, target):
    target.kubectl("create", "job", "fails", "--from=cronjob/download-results")  # there are no results yet
    target.wait("job/fails", "condition=Failed")
    run(target, "download-results", "succeeds", "--volume-path", "/data", "--folder", "/data/configs", "--checksums")

    after = application.until_compared(times=2)["status"]

    assert (after["sync"]["status"], after["health"]["status"]) == ("Synced", "Healthy")
    assert {job["metadata"]["name"] for job in target.get("jobs")["items"]} >= {"fails", "succeeds"}


def test_a_change_in_git_is_rolled_out_and_the_planners_numbers_stay(application, repository, target, scaled):
    old = config_of_planner(target)
    prefill, decode = (pods(target, name) for name in SCALED)
    with changed(repository.files / PLANNER) as settings:
        settings["ttft"] = 900
    with changed(repository.files / OVERLAY / "kustomization.yaml") as overlay:
        template = {"metadata": {"annotations": {"example.com/owner": "platform"}}}
        overlay["patches"].append(strategic("Deployment", "decode", spec={"template": template}))

    with counts_asked_for(target) as asked:
        application.refresh_until_healthy(repository.commit("Another TTFT, and who owns the decode workers"))

    new = config_of_planner(target)
    assert yaml.safe_load(target.get(f"configmap/{new}")["data"]["planner.yaml"])["ttft"] == 900
    assert "NotFound" in target.refused("get", "configmap", old)
    assert "ttft=900" in target.logs("deployment/planner")
    assert asked == {"prefill": {2}, "decode": {2}}
    assert pods(target, "prefill") == prefill
    assert pods(target, "decode") != decode


def test_the_planners_number_wins_over_one_in_git(application, repository, target, scaled):
    with changed(repository.files / OVERLAY / "kustomization.yaml") as overlay:
        overlay["patches"].append(strategic("Deployment", "decode", spec={"replicas": 1}))
    application.refresh_until_healthy(repository.commit("A number that somebody has put into Git"))
    assert replicas(target, "decode") == {"decode": 2}
    with changed(repository.files / PLANNER) as settings:
        settings["min_decode_replicas"] = 3
    application.refresh_until_healthy(repository.commit("Three decode workers, at least"))
    target.until("deployment/decode", lambda found: found["spec"]["replicas"] == 3 == found["status"].get("readyReplicas"))

    with counts_asked_for(target) as asked:
        application.sync()
        application.until_compared(times=2)

    assert asked["decode"] == {3}
    application.until_healthy(repository.head())


def test_the_planners_number_in_a_graph_stays(application, repository, target, graph_definition):
    graph = yaml.safe_load(GRAPH)
    file = repository.files / OVERLAY / "graph.yaml"
    file.write_text(yaml.safe_dump(graph))
    with changed(repository.files / OVERLAY / "kustomization.yaml") as overlay:
        overlay["resources"].append(file.name)
    application.refresh_until_healthy(repository.commit("A graph"))
    scaled = [{"op": "replace", "path": "/spec/services/prefill/replicas", "value": 3}]
    target.kubectl("patch", "dynamographdeployment/chat", "--type=json", "--field-manager=sla-planner", "--patch", json.dumps(scaled))
    application.until_compared(times=2)
    assert replicas_of_services(target) == {"Frontend": 1, "prefill": 3, "decode": 1}

    graph["spec"]["services"]["decode"]["envs"] = [{"name": "EXAMPLE", "value": "1"}]
    file.write_text(yaml.safe_dump(graph))
    application.refresh_until_healthy(repository.commit("Something else about the graph"))

    assert target.get("dynamographdeployment/chat")["spec"]["services"]["decode"]["envs"] == [{"name": "EXAMPLE", "value": "1"}]
    assert replicas_of_services(target) == {"Frontend": 1, "prefill": 3, "decode": 1}


def test_deleting_the_application_leaves_nothing(application, target):
    application.delete()

    target.wait("lease/planner", "delete")  # which the planner has made; it goes with what it belongs to
    left = {kind: names for kind in kinds(target) if (names := target.kubectl("get", kind, "-o", "name").split())}
    assert left == {"configmaps": ["configmap/kube-root-ca.crt"], "serviceaccounts": ["serviceaccount/default"]}
