"""Network policies let through what the settings need, and nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import yaml
from tests.manifests.objects import OVERLAYS, ROOT, build, of_kind, pod_template

from sla_planner.config import load
from sla_planner.engines.metric_names import FAMILIES
from sla_planner.planner_config import PlannerConfig

DNS = {("UDP", 53), ("TCP", 53)}
API_SERVER = {("TCP", 443), ("TCP", 6443)}


def egress(policy):
    return {(port["protocol"], port["port"]) for rule in policy["spec"].get("egress", []) for port in rule["ports"]}


def ingress(policy):
    return {(port["protocol"], port["port"]) for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}


@pytest.mark.parametrize("source", [ROOT, *OVERLAYS], ids=lambda folder: folder.name)
def test_the_planner_reaches_where_its_settings_point(source, tmp_path):
    objects = build(source)
    (text,) = [each["data"]["planner.yaml"] for name, each in of_kind(objects, "ConfigMap").items() if name.startswith("planner-config-")]
    (tmp_path / "planner.yaml").write_text(text)
    needed = set()
    for target in load(PlannerConfig, {"config": str(tmp_path / "planner.yaml")}, {}).config.targets:
        for url in filter(None, [target.prometheus_url, *target.scrape_url]):
            parts = urlsplit(url)
            needed.add(("TCP", parts.port or {"http": 80, "https": 443}[parts.scheme]))
    policy = of_kind(objects, "NetworkPolicy")["planner"]
    assert DNS | API_SERVER | needed <= egress(policy)


def test_the_planner_reaches_nothing_else():
    params = of_kind(build(ROOT), "ConfigMap")["sla-params"]["data"]
    known = {("TCP", int(params[name])) for name in ("api-server-port", "prometheus-port", "engine-port")}
    assert egress(of_kind(build(ROOT), "NetworkPolicy")["planner"]) == DNS | API_SERVER | known


def test_preflight_reaches_what_the_planner_reaches():
    policies = of_kind(build(ROOT), "NetworkPolicy")
    assert egress(policies["preflight"]) == egress(policies["planner"])
    assert ingress(policies["preflight"]) == set()


def test_prometheus_reaches_the_port_that_the_planner_listens_on():
    objects = build(ROOT / "manifests/overlays/dynamo")
    (container,) = pod_template(of_kind(objects, "Deployment")["planner"])["spec"]["containers"]
    (port,) = container["ports"]
    assert ingress(of_kind(objects, "NetworkPolicy")["planner"]) == {("TCP", port["containerPort"])}
    assert container["args"][container["args"].index("--prometheus-port") + 1] == str(port["containerPort"])


def test_the_sweep_reaches_engines_and_nobody_reaches_it():
    policy = of_kind(build(ROOT), "NetworkPolicy")["profile-sweep"]
    (frontend,) = of_kind(build(ROOT / "manifests/overlays/plain-deployments"), "Service")["frontend"]["spec"]["ports"]
    assert egress(policy) == DNS | API_SERVER | {("TCP", frontend["port"])}
    assert ingress(policy) == set()


def test_the_reconciler_reaches_the_api_server_and_nobody_reaches_it():
    policy = of_kind(build(ROOT / "manifests/overlays/deployment-requests"), "NetworkPolicy")["reconcile-requests"]
    assert egress(policy) == DNS | API_SERVER
    assert ingress(policy) == set()


@pytest.mark.parametrize("stage", ["inject-config", "download-results"])
def test_pods_with_the_volume_alone_talk_to_nobody(stage):
    policy = of_kind(build(ROOT), "NetworkPolicy")[stage]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert egress(policy) == ingress(policy) == set()


def test_the_scrape_configuration_finds_the_planners_port():
    jobs = yaml.safe_load((ROOT / "manifests/prometheus/scrape.yaml").read_text())["scrape_configs"]
    (planner,) = [job for job in jobs if job["job_name"] == "sla-planner"]
    kept = {tuple(rule["source_labels"]): rule["regex"] for rule in planner["relabel_configs"] if rule["action"] == "keep"}
    objects = build(ROOT / "manifests/overlays/dynamo")
    pod = pod_template(of_kind(objects, "Deployment")["planner"])
    labels = pod["metadata"]["labels"]
    names = ("__meta_kubernetes_pod_label_app_kubernetes_io_name", "__meta_kubernetes_pod_label_app_kubernetes_io_component")
    assert kept[names] == f"{labels['app.kubernetes.io/name']};{labels['app.kubernetes.io/component']}"
    assert kept[("__meta_kubernetes_pod_container_port_name",)] == pod["spec"]["containers"][0]["ports"][0]["name"]


def test_the_scrape_configuration_says_whose_a_frontend_is():
    """The planner of a graph asks for series of its own Dynamo namespace, and a frontend does not say which it is in."""
    jobs = yaml.safe_load((ROOT / "manifests/prometheus/scrape.yaml").read_text())["scrape_configs"]
    (frontends,) = [job for job in jobs if job["job_name"] == "llm-frontends"]
    sources = {rule["target_label"]: rule["source_labels"] for rule in frontends["relabel_configs"] if rule["action"] == "replace"}
    assert sources[FAMILIES["dynamo"].namespace_label] == ["__meta_kubernetes_pod_label_nvidia_com_dynamo_namespace"]
