"""What holds for every object that is delivered: labels, restricted Pod Security, resources, how Jobs end, who may be talked to."""

from __future__ import annotations

import functools

import kubernetes_validate
import kubernetes_validate.utils
import pytest
import yaml
from tests.manifests.objects import ONE_OFF_JOBS, ROOT, build, delivered, job_spec, of_kind, pod_template

import sla_planner
from sla_planner.cli import STAGES

EVERYTHING = delivered()
OBJECTS = [pytest.param(each, id=source) for source, each in EVERYTHING]
PODS = [pytest.param(template, id=source) for source, each in EVERYTHING if (template := pod_template(each))]
JOBS = [pytest.param(each, spec, id=source) for source, each in EVERYTHING if (spec := job_spec(each))]
MINORS = ("1.35", "1.36", "1.37")
CUSTOM = {"PodMonitor", "PrometheusRule"}  # of the Prometheus Operator; test_kustomizations.py, test_monitoring.py
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}
WITH_BLAS = {"planner", "profile-sweep", "engine-sim"}  # images with numpy
WITH_THE_API = {"planner", "profile-sweep"}


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", functools.cache(kubernetes_validate.utils.schema_contents))
        yield


def image_of(container):
    return container["image"].rpartition("/")[2].partition(":")[0]


@pytest.mark.parametrize("found", OBJECTS)
def test_three_minors_of_kubernetes_know_every_field(found):
    if found["kind"] in CUSTOM:
        return
    for minor in MINORS:
        kubernetes_validate.validate(found, minor, strict=True)


def test_a_wrong_field_is_noticed():
    cron_job = of_kind(build(ROOT), "CronJob")["planner"]
    wrong = cron_job | {"spec": cron_job["spec"] | {"timezone": "Etc/UTC"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="timezone"):
        kubernetes_validate.validate(wrong, MINORS[0], strict=True)


@pytest.mark.parametrize("found", OBJECTS)
def test_labels(found):
    labels = found["metadata"]["labels"]
    own = {key.removeprefix("app.kubernetes.io/"): value for key, value in labels.items() if key.startswith("app.kubernetes.io/")}
    one_off = found["kind"] == "Job" and "annotations" not in found["metadata"]
    component = own.pop("component")
    assert component in STAGES or component in ("parameters", "storage")
    assert own == {
        "name": "sla-planner",
        "part-of": "sla-planner",
        "version": sla_planner.__version__,
        "managed-by": "kubectl" if one_off else "kustomize",
    }
    if template := pod_template(found):
        assert template["metadata"]["labels"].items() >= {key: value for key, value in labels.items() if "kubernetes.io" in key}.items()
        account = template["spec"].get("serviceAccountName")
        assert account in (component, None)


@pytest.mark.parametrize("found", OBJECTS)
def test_it_goes_where_kubectl_is_told_to(found):
    assert found["metadata"].get("namespace") in (None, "llm")  # one overlay names one, and so do the variables of one-off Jobs


def test_names_of_cron_jobs_leave_room_for_the_controllers_suffix():
    assert all(len(found["metadata"]["name"]) <= 52 for _, found in EVERYTHING if found["kind"] == "CronJob")


# ---- selectors ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [".", "plain-deployments", "dynamo"])
def test_selectors_select(source):
    objects = [found for name, found in EVERYTHING if name.startswith((f"{source}: ", ".: "))]
    pods = [template["metadata"]["labels"] for found in objects if (template := pod_template(found))]
    for found in objects:
        spec = found.get("spec", {})
        selectors = {
            "Deployment": lambda spec=spec: spec["selector"]["matchLabels"],
            "Service": lambda spec=spec: spec["selector"],
            "NetworkPolicy": lambda spec=spec: spec["podSelector"]["matchLabels"],
        }
        if select := selectors.get(found["kind"]):
            assert any(select().items() <= labels.items() for labels in pods), found["metadata"]["name"]
            assert "app.kubernetes.io/version" not in select()  # the next version's pods are meant as well


def test_every_stages_pods_have_a_network_policy():
    selected = [found["spec"]["podSelector"]["matchLabels"].items() for _, found in EVERYTHING if found["kind"] == "NetworkPolicy"]
    for source, found in EVERYTHING:
        template = pod_template(found)
        if template and "engine-sim" not in found["metadata"]["labels"].values():
            assert any(select <= template["metadata"]["labels"].items() for select in selected), source


# ---- pods ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", PODS)
def test_restricted_pod_security(template):
    spec = template["spec"]
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 65532, 65532)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
    for volume in spec["volumes"]:
        assert len(volume) == 2
        assert volume.keys() & {"emptyDir", "configMap", "persistentVolumeClaim"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("template", PODS)
def test_pods(template):
    spec = template["spec"]
    (container,) = spec["containers"]
    assert container["name"] in (container["args"][0], template["metadata"]["labels"].get("slaplanner.io/role"))
    assert "command" not in container  # the entry point of the image
    assert container.get("imagePullPolicy", "IfNotPresent") == "IfNotPresent"
    assert not container["image"].endswith(":latest")
    assert {"mountPath": "/tmp", "name": "tmp"} in container["volumeMounts"]
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is (image_of(container) in WITH_THE_API)
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize("template", PODS)
def test_resources(template):
    (container,) = template["spec"]["containers"]
    requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
    assert requests.keys() == limits.keys() == {"cpu", "memory"}
    if image_of(container) == "planner":
        assert requests["memory"] == limits["memory"] == "128Mi"
    for volume in template["spec"]["volumes"]:
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]


@pytest.mark.parametrize("template", PODS)
def test_environment(template):
    (container,) = template["spec"]["containers"]
    variables = {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}
    if image_of(container) in WITH_BLAS:
        assert (variables["OPENBLAS_NUM_THREADS"], variables["OMP_NUM_THREADS"]) == ("1", "1")
    if image_of(container) in WITH_THE_API:
        paths = [variables[name]["fieldRef"]["fieldPath"] for name in ("POD_NAME", "POD_NAMESPACE")]
        assert paths == ["metadata.name", "metadata.namespace"]
    for name, value in variables.items():
        assert not (isinstance(value, str) and ("TOKEN" in name or "SECRET" in name or "PASSWORD" in name))


# ---- Jobs ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "spec"), JOBS)
def test_jobs_end(found, spec):
    pod = spec["template"]["spec"]
    stage = pod["containers"][0]["args"][0]
    assert pod["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] > pod["terminationGracePeriodSeconds"]
    assert spec["backoffLimit"] == (0 if stage == "planner" else 2)
    assert pod["terminationGracePeriodSeconds"] == (120 if stage == "profile-sweep" else 30)
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore", "FailJob"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]  # without the default every `kubectl apply` is a change
    assert rules[1]["onExitCodes"] == {"operator": "In", "values": [75]}
    assert rules[2]["onExitCodes"] == {"operator": "In", "values": [2, 3]}


@pytest.mark.parametrize(("found", "spec"), JOBS)
def test_a_job_that_git_holds_is_not_removed_by_the_cluster(found, spec):
    """Argo CD would make it again, for ever. Logs of the others stay for a day at least."""
    tracked = "annotations" in found["metadata"]
    assert ("ttlSecondsAfterFinished" not in spec) == tracked
    assert tracked or spec["ttlSecondsAfterFinished"] >= 86400


@pytest.mark.parametrize("found", [pytest.param(each, id=source) for source, each in EVERYTHING if each["kind"] == "CronJob"])
def test_cron_jobs(found):
    spec = found["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] == 60
    assert spec["timeZone"] == "Etc/UTC"
    assert (spec["successfulJobsHistoryLimit"], spec["failedJobsHistoryLimit"]) == (3, 5)


def test_the_planners_schedule_is_its_interval():
    settings = yaml.safe_load((ROOT / "jobs/planner/planner.yaml").read_text())
    assert (of_kind(build(ROOT), "CronJob")["planner"]["spec"]["schedule"], settings["adjustment_interval"]) == ("* * * * *", 60)


def test_service_accounts_bring_no_token():
    accounts = of_kind(build(ROOT), "ServiceAccount")
    assert accounts.keys() == {"planner", "profile-sweep", "inject-config", "download-results", "preflight"}
    assert not any(each["automountServiceAccountToken"] for each in accounts.values())


def test_one_off_jobs_differ_from_cron_jobs_in_what_they_run_only():
    """One pod, two ways to start it: what keeps it safe is the same."""
    cron_jobs = of_kind(build(ROOT), "CronJob")
    assert {file.parent.name for file in ONE_OFF_JOBS} == cron_jobs.keys()
    for source, found in EVERYTHING:
        if found["kind"] == "Job" and "job.yaml" in source and "moe" not in source:
            one_off, periodic = found["spec"], job_spec(cron_jobs[found["metadata"]["name"]])
            pods = [spec["template"]["spec"] for spec in (one_off, periodic)]
            assert {**one_off, "template": None} == {**periodic, "template": None}
            assert without(pods[0], "containers", "volumes") == without(pods[1], "containers", "volumes")
            kept = [without(pod["containers"][0], "args", "image", "volumeMounts") for pod in pods]
            assert kept[0] == kept[1]


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}
