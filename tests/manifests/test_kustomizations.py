"""Every kustomization builds, every component does what it says, and a parameter reaches every place that it is for."""

from __future__ import annotations

import os
import re

import pytest
import yaml
from tests.manifests.objects import COMPONENTS, OVERLAYS, ROOT, build, job_spec, of_kind, overlay, pod_template

import sla_planner

FILES = sorted([ROOT / "kustomization.yaml", *ROOT.glob("jobs/**/kustomization.yaml"), *ROOT.glob("manifests/**/kustomization.yaml")])
ENTRY_POINTS = [ROOT, *OVERLAYS]
# Parameters that have no default because nobody else can know them.
NO_DEFAULT = {
    "storage-class": {"pvc-storage-class": "fast"},
    "kueue": {"kueue-queue": "gpu"},
    "deployment-requests-target-namespace": {"requests-namespace": "llm"},
}
DEPRECATED = {"bases", "commonLabels", "commonAnnotations", "imageTags", "patchesJson6902", "patchesStrategicMerge", "vars"}


def name_of(folder):
    return str(folder.relative_to(ROOT))


@pytest.mark.parametrize("folder", ENTRY_POINTS, ids=name_of)
def test_it_builds(folder):
    assert build(folder)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_older_kustomize_understands_it(file):
    """`select` takes exact names before kustomize 5.8: a pattern would match nothing there, silently. 5.4.2 and 5.6.0 were seen to build the same."""
    for replacement in yaml.safe_load(file.read_text()).get("replacements", []):
        for target in replacement["targets"]:
            assert re.fullmatch(r"[\w-]+", target["select"].get("name", "any"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_deprecated_field(file):
    assert not DEPRECATED & yaml.safe_load(file.read_text()).keys()
    assert "includeSelectors" not in file.read_text()  # false unless given: a selector of a Deployment cannot be changed later


def test_every_component_is_in_an_overlay_or_tested_here():
    listed = {name for file in OVERLAYS for name in re.findall(r"components/([\w-]+)", (file / "kustomization.yaml").read_text())}
    tested = set(re.findall(r'overlay\(tmp_path, "([\w-]+)"', (ROOT / "tests/manifests/test_kustomizations.py").read_text()))
    here = {file.name for file in COMPONENTS.iterdir()}
    assert here <= listed | tested


def test_the_root_installs_no_more_than_stands():
    """No pod starts, nothing outside of the namespace is touched."""
    objects = build(ROOT)
    kinds = {each["kind"] for each in objects}
    assert kinds == {"ConfigMap", "CronJob", "NetworkPolicy", "PersistentVolumeClaim", "Role", "RoleBinding", "ServiceAccount"}
    assert all(each["spec"]["suspend"] for each in of_kind(objects, "CronJob").values())
    assert of_kind(objects, "CronJob").keys() == {"inject-config", "profile-sweep", "download-results", "planner", "preflight"}


def test_one_version_everywhere():
    found = {each["metadata"]["labels"]["app.kubernetes.io/version"] for each in build(ROOT)}
    for each in build(ROOT):
        if template := pod_template(each):
            found |= {container["image"].partition(":")[2] for container in template["spec"]["containers"]}
    assert found == {sla_planner.__version__}


# ---- parameters ---------------------------------------------------------------------------------------------------------------------------


def test_parameters_reach_their_places(tmp_path):
    params = {"pvc-name": "profiles", "pvc-size": "7Gi", "api-server-port": "16443", "prometheus-port": "9999", "engine-port": "8888"}
    objects = overlay(tmp_path, "parameters", params=params)
    (claim,) = of_kind(objects, "PersistentVolumeClaim").values()
    assert (claim["metadata"]["name"], claim["spec"]["resources"]["requests"]["storage"]) == ("profiles", "7Gi")
    mounted = {
        name: [volume["persistentVolumeClaim"]["claimName"] for volume in pod_template(each)["spec"]["volumes"] if "persistentVolumeClaim" in volume]
        for name, each in of_kind(objects, "CronJob").items()
    }
    on_volume = ("inject-config", "profile-sweep", "download-results")
    assert mounted == {**{stage: ["profiles"] for stage in on_volume}, "planner": [], "preflight": []}
    policies = of_kind(objects, "NetworkPolicy")
    assert ports(policies["planner"]) == ports(policies["preflight"]) == {53, 443, 16443, 9999, 8888}
    assert ports(policies["profile-sweep"]) == {53, 443, 16443, 8888}


def ports(policy):
    return {port["port"] for rule in policy["spec"].get("egress", []) for port in rule["ports"]}


def test_a_parameter_can_be_set_over_another_overlay(tmp_path):
    (tmp_path / "first").mkdir()
    overlay(tmp_path / "first", "parameters", params={"pvc-name": "first", "pvc-size": "1Gi"})
    (tmp_path / "second").mkdir()
    objects = overlay(tmp_path / "second", "parameters", params={"pvc-name": "second"}, resources=["../first"])
    (claim,) = of_kind(objects, "PersistentVolumeClaim").values()
    assert (claim["metadata"]["name"], claim["spec"]["resources"]["requests"]["storage"]) == ("second", "1Gi")
    assert "first" not in yaml.safe_dump_all(objects)


@pytest.mark.parametrize("component", NO_DEFAULT)
def test_a_parameter_without_a_default_is_asked_for_by_name(tmp_path, component):
    (missing,) = NO_DEFAULT[component]
    with pytest.raises(ValueError, match=missing):
        overlay(tmp_path, component)


def test_a_namespace_reaches_the_subjects_of_bindings(tmp_path):
    objects = overlay(tmp_path, "gpu-view", namespace="llm")
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        assert {subject["namespace"] for each in of_kind(objects, kind).values() for subject in each["subjects"]} == {"llm"}


def test_new_settings_are_a_new_config_map(tmp_path):
    """So that a CronJob's next run has them, and a Deployment rolls."""
    (tmp_path / "planner.yaml").write_text("ttft: 1\n")
    settings = [{"name": "planner-config", "behavior": "replace", "files": ["planner.yaml"]}]
    objects = overlay(tmp_path, "planner-cronjob", configMapGenerator=settings)
    config = next(name for name in of_kind(objects, "ConfigMap") if name.startswith("planner-config-"))
    assert config not in of_kind(build(ROOT), "ConfigMap")
    assert config in used_config_maps(of_kind(objects, "CronJob")["planner"])


def used_config_maps(found):
    return [volume["configMap"]["name"] for volume in pod_template(found)["spec"]["volumes"] if "configMap" in volume]


def test_images_are_named_by_an_overlay(tmp_path):
    images = [
        {"name": f"sla-planner/{image}", "newName": f"registry/{image}", "newTag": "9"} for image in ("planner", "profile-sweep", "volume-tools")
    ]
    objects = overlay(tmp_path, "planner-deployment", "argocd", images=images)
    found = [container["image"] for each in objects if (template := pod_template(each)) for container in template["spec"]["containers"]]
    assert sorted(found) == [f"registry/{image}:9" for image in ("planner", "planner", "profile-sweep", "volume-tools", "volume-tools")]


# ---- components ---------------------------------------------------------------------------------------------------------------------------


def test_rwx(tmp_path):
    (claim,) = of_kind(overlay(tmp_path, "rwx"), "PersistentVolumeClaim").values()
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_storage_class(tmp_path):
    (claim,) = of_kind(overlay(tmp_path, "storage-class", params={"pvc-storage-class": "fast"}), "PersistentVolumeClaim").values()
    assert claim["spec"]["storageClassName"] == "fast"


def test_target_namespace(tmp_path):
    """Who may deploy there is the reconciler of the namespace of the requests, whatever is called alike in this one."""
    reconciler = f"{os.path.relpath(ROOT, tmp_path.resolve())}/jobs/reconcile-requests"
    base = f"{os.path.relpath(ROOT, tmp_path.resolve())}/manifests/base"
    params = {"requests-namespace": "llm"}
    objects = overlay(tmp_path, "deployment-requests-target-namespace", params=params, namespace="chat", resources=[base, reconciler])
    binding = of_kind(objects, "RoleBinding")["reconcile-requests-target"]
    assert binding["metadata"]["namespace"] == "chat"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "reconcile-requests", "namespace": "llm"}]


def test_existing_pvc(tmp_path):
    objects = overlay(tmp_path, "existing-pvc", "parameters", params={"pvc-name": "theirs"})
    assert not of_kind(objects, "PersistentVolumeClaim")
    sweep = pod_template(of_kind(objects, "CronJob")["profile-sweep"])
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "theirs"}} in sweep["spec"]["volumes"]


def test_no_network_policies(tmp_path):
    assert not of_kind(overlay(tmp_path, "no-network-policies"), "NetworkPolicy")


def test_planner_cronjob(tmp_path):
    suspended = {name: each["spec"]["suspend"] for name, each in of_kind(overlay(tmp_path, "planner-cronjob"), "CronJob").items()}
    assert suspended == {"planner": False} | dict.fromkeys(("profile-sweep", "inject-config", "download-results", "preflight"), True)


def test_planner_deployment(tmp_path):
    objects = overlay(tmp_path, "planner-deployment")
    assert "planner" not in of_kind(objects, "CronJob")
    spec = of_kind(objects, "Deployment")["planner"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    (container,) = spec["template"]["spec"]["containers"]
    assert [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")] == [
        {"path": "/healthz", "port": "metrics"},
        {"path": "/healthz", "port": "metrics"},
        {"path": "/readyz", "port": "metrics"},
    ]


def test_pod_monitor(tmp_path):
    objects = overlay(tmp_path, "pod-monitor", "planner-deployment", params={"prometheus-release": "mine"})
    monitor = of_kind(objects, "PodMonitor")["planner"]
    pod = pod_template(of_kind(objects, "Deployment")["planner"])
    assert monitor["metadata"]["labels"]["release"] == "mine"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_named_graph(tmp_path):
    role = of_kind(overlay(tmp_path, "named-graph", params={"graph-deployment": "mine"}), "Role")["planner"]
    named = {tuple(rule["resources"]): rule.get("resourceNames") for rule in role["rules"] if rule["apiGroups"] == ["nvidia.com"]}
    assert named[("dynamographdeployments",)] == ["mine"]


def test_plain_workloads(tmp_path):
    objects = overlay(tmp_path, "plain-workloads", params={"prefill-workload": "p", "decode-workload": "d"})
    assert {tuple(rule["resourceNames"]) for rule in of_kind(objects, "Role")["planner-workloads"]["rules"]} == {("p", "d")}
    assert of_kind(objects, "RoleBinding")["profile-sweep-workloads"]["subjects"] == [{"kind": "ServiceAccount", "name": "profile-sweep"}]


def test_volume_access_is_bound_to_nobody(tmp_path):
    objects = overlay(tmp_path, "volume-access")
    assert "volume-access" in of_kind(objects, "Role")
    assert "volume-access" not in {binding["roleRef"]["name"] for binding in of_kind(objects, "RoleBinding").values()}


def test_moe(tmp_path):
    dense, moe = (of_kind(objects, "CronJob")["profile-sweep"] for objects in (build(ROOT), overlay(tmp_path, "moe")))
    (container,) = pod_template(moe)["spec"]["containers"]
    assert {"name": "SLA_PLANNER_IS_MOE_MODEL", "value": "true"} in container["env"]
    assert {variable["name"] for variable in pod_template(dense)["spec"]["containers"][0]["env"]} < {each["name"] for each in container["env"]}
    assert job_spec(moe)["activeDeadlineSeconds"] > job_spec(dense)["activeDeadlineSeconds"]


def test_kueue(tmp_path):
    sweep = of_kind(overlay(tmp_path, "kueue", params={"kueue-queue": "gpu"}), "CronJob")["profile-sweep"]
    labels = sweep["spec"]["jobTemplate"]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpu"
    assert labels["app.kubernetes.io/component"] == "profile-sweep"  # what was there is there


def test_argocd(tmp_path):
    objects = overlay(tmp_path, "argocd", params={"pvc-name": "mine"})
    assert "inject-config" not in of_kind(objects, "CronJob")
    hook = of_kind(objects, "Job")["inject-config"]
    assert hook["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "Sync"
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}} in hook["spec"]["template"]["spec"]["volumes"]
    assert {config.rpartition("-")[0] for config in used_config_maps(hook)} == {"graph-config"}


def test_who_looks_out_of_the_namespace(tmp_path):
    cluster_wide = {"ClusterRole", "ClusterRoleBinding"}
    lookers = ("gpu-view", "deployment-requests-cluster")
    for looker in lookers:
        assert cluster_wide <= {each["kind"] for each in overlay(tmp_path, looker)}
    for folder in OVERLAYS:
        used = any(looker in (folder / "kustomization.yaml").read_text() for looker in lookers)
        assert bool(cluster_wide & {each["kind"] for each in build(folder)}) == used


def test_deployment_requests_once_a_minute_or_all_the_time(tmp_path):
    resources = [os.path.relpath(ROOT / place, tmp_path.resolve()) for place in ("manifests/base", "jobs/reconcile-requests")]
    periodic = overlay(tmp_path, "deployment-requests", params={"api-server-port": "16443"}, resources=resources)
    cron_job = of_kind(periodic, "CronJob")["reconcile-requests"]
    assert (cron_job["spec"]["suspend"], cron_job["spec"]["schedule"]) == (False, "* * * * *")
    assert of_kind(periodic, "Deployment") == {}
    assert ports(of_kind(periodic, "NetworkPolicy")["reconcile-requests"]) == {53, 443, 16443}

    continuous = overlay(tmp_path, "deployment-requests", "deployment-requests-continuous", resources=resources)
    assert "reconcile-requests" not in of_kind(continuous, "CronJob")
    pods = [pod_template(found)["spec"] for found in (cron_job, of_kind(continuous, "Deployment")["reconcile-requests"])]
    (once,), (always,) = (pod["containers"] for pod in pods)
    assert [arg for arg in once["args"] if arg != "--once"] == always["args"][:-2]
    assert always["args"][-2:] == ["--health-port", str(always["ports"][0]["containerPort"])]
    for key in ("image", "env", "resources", "volumeMounts"):
        assert once[key] == always[key]
    assert pods[0]["volumes"] == pods[1]["volumes"]


# ---- Argo CD ------------------------------------------------------------------------------------------------------------------------------


def test_the_application_syncs_this_overlay_and_leaves_the_planner_its_numbers():
    spec = yaml.safe_load((ROOT / "manifests/overlays/argocd/application.yaml").read_text())["spec"]
    assert (ROOT / spec["source"]["path"] / "application.yaml").exists()
    assert spec["source"]["targetRevision"] == f"v{sla_planner.__version__}"
    assert {"RespectIgnoreDifferences=true", "CreateNamespace=true"} <= set(spec["syncPolicy"]["syncOptions"])
    ignored = {(each.get("group"), each["kind"]) for each in spec["ignoreDifferences"]}
    assert ignored == {  # a missing group means the core group, silently
        ("apps", "Deployment"),
        ("apps", "StatefulSet"),
        ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"),
        ("nvidia.com", "DynamoGraphDeployment"),
        ("nvidia.com", "DynamoGraphDeploymentScalingAdapter"),
    }


def test_what_is_scaled_has_no_number_in_git():
    scaled = of_kind(build(ROOT / "manifests/overlays/plain-deployments"), "Deployment")
    assert {name for name, each in scaled.items() if "replicas" not in each["spec"]} == {"prefill", "decode"}
