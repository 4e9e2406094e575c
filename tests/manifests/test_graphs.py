"""The graph manifests: the names that the quick start promises, pods that a restricted namespace admits, and what our own reader makes of them."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

import sla_planner
from sla_planner.cli import group
from sla_planner.config import Loaded, load
from sla_planner.engines.backends import backend
from sla_planner.engines.dgd import derive, gpus_per_engine, read_dgd
from sla_planner.engines.dgd_services import Service, read_services
from sla_planner.model.profile import ParallelMapping
from sla_planner.planner_config import PlannerConfig
from sla_planner.rendering import Template
from sla_planner.sweep.port import Deployment, Phase

ROOT = Path(__file__).parents[2]
GRAPHS = ROOT / "manifests" / "graphs"
BASES = Path(sla_planner.__file__).parent / "graphs"
BACKENDS = ("vllm", "sglang", "trtllm")
VERSIONS = ("v1alpha1", "v1beta1")
PLANNED = sorted(GRAPHS.rglob("*.yaml"))
OWN_PROMETHEUS = [file for file in PLANNED if file.stem in ("disagg_planner_prometheus", "sla-planner")]
MINORS = ("1.35", "1.36", "1.37")

Document = dict[str, Any]


def documents(file: Path) -> list[Document]:
    return list(yaml.safe_load_all(file.read_text()))


def rendered(template: str, **values: Any) -> list[Document]:
    return list(yaml.safe_load_all(Template(ROOT / "templates", template).render(values=values)))


def only(found: list[Any]) -> Any:
    assert len(found) == 1, found
    return found[0]


def of_kind(file: Path, kind: str, end: str = "") -> Document:
    return only([one for one in documents(file) if one["kind"] == kind and one["metadata"]["name"].endswith(end)])


def pods(graph: Document) -> dict[str, Document]:
    """By service, the pod that the operator would start, in either API version."""
    if graph["apiVersion"] == "nvidia.com/v1beta1":
        return {one["name"]: {"metadata": {"labels": {}}, **one["podTemplate"]} for one in graph["spec"]["components"]}
    found = {}
    for name, service in graph["spec"]["services"].items():
        spec = copy.deepcopy(service["extraPodSpec"])
        spec["containers"] = [{"name": "main", "env": service["envs"], **spec.pop("mainContainer")}]
        found[name] = {"metadata": {"labels": service.get("labels", {})}, "spec": spec}
    return found


def every_pod() -> list[Any]:
    graphs = [(f"{name} {version}", rendered("disagg_planner", backend=name, api_version=version)[0]) for name in BACKENDS for version in VERSIONS]
    found = [(f"{label} {service}", pod) for label, graph in graphs for service, pod in pods(graph).items()]
    found.append(("Prometheus", of_kind(GRAPHS / "sla-planner.yaml", "Deployment")["spec"]["template"]))
    return [pytest.param(pod, id=label) for label, pod in found]


def planner_settings(graph: Document, **environment: str) -> Loaded[PlannerConfig]:
    """What the planner of `graph` would run with; the operator tells it the graph's name."""
    container = pods(graph)["Planner"]["spec"]["containers"][0]
    context = click.Context(group, info_name="sla-planner")
    name, stage, rest = group.resolve_command(context, list(container["args"]))
    assert name == "planner"
    assert stage is not None
    given = {one["name"]: one["value"] for one in container["env"]} | {"DYN_PARENT_DGD_K8S_NAME": graph["metadata"]["name"]}
    return load(PlannerConfig, stage.make_context(name, rest, parent=context).params, environment | given)


class TestNames:
    @pytest.mark.parametrize("name", BACKENDS)
    def test_the_pods_are_those_of_the_quick_start(self, name: str) -> None:
        graph = read_dgd((GRAPHS / name / "disagg_planner.yaml").read_text())
        assert graph["metadata"]["name"] == f"{name}-disagg-planner"
        named = {f"{name}-disagg-planner-{service.lower()}" for service in graph["spec"]["services"]}
        assert named == {f"{name}-disagg-planner-{end}" for end in ("frontend", "planner", "backend", "prefill")}

    @pytest.mark.parametrize("name", BACKENDS)
    def test_with_a_prometheus_there_is_one_pod_more_and_the_rest_is_the_same(self, name: str) -> None:
        file = GRAPHS / name / "disagg_planner_prometheus.yaml"
        assert of_kind(file, "Deployment")["metadata"]["name"] == f"{name}-disagg-planner-prometheus"
        graph, without = of_kind(file, "DynamoGraphDeployment"), only(documents(GRAPHS / name / "disagg_planner.yaml"))
        for one in (graph, without):
            planner = one["spec"]["services"]["Planner"]
            del planner["envs"]
            arguments = planner["extraPodSpec"]["mainContainer"]["args"]
            arguments[:] = [argument for argument in arguments if argument != "--namespace="]
        assert graph == without

    def test_the_demonstration_can_be_watched_by_its_labels(self) -> None:
        labels = {name: pod["metadata"]["labels"]["app"] for name, pod in pods(of_kind(GRAPHS / "sla-planner.yaml", "DynamoGraphDeployment")).items()}
        assert labels == {"Frontend": "sla-planner", "prefill": "sla-planner", "decode": "sla-planner", "Planner": "sla-planner-planner"}

    @pytest.mark.parametrize("file", PLANNED, ids=lambda file: f"{file.parent.name}/{file.stem}")
    def test_every_object_is_labelled_and_in_no_namespace(self, file: Path) -> None:
        for document in documents(file):
            assert "namespace" not in document["metadata"]
            labels = document["metadata"]["labels"]
            assert {key.removeprefix("app.kubernetes.io/") for key in labels} == {"name", "component", "part-of", "version", "managed-by"}
            assert labels["app.kubernetes.io/version"] == sla_planner.__version__

    def test_nothing_is_defined_twice(self) -> None:
        for file in PLANNED:
            names = [(one["kind"], one["metadata"]["name"]) for one in documents(file)]
            assert len(names) == len(set(names))


class TestPlannerService:
    @pytest.mark.parametrize("name", BACKENDS)
    def test_it_runs_with_the_flags_of_the_quick_start(self, name: str) -> None:
        graph = read_dgd((GRAPHS / name / "disagg_planner.yaml").read_text())
        settings = planner_settings(graph)
        target = only(list(settings.config.targets))
        assert (target.environment, target.backend, target.adjustment_interval) == ("kubernetes", name, 60)
        assert str(target.profile_results_dir) == "/data/profiling_results"
        assert target.prometheus_url == "http://prometheus-kube-prometheus-prometheus.monitoring.svc.cluster.local:9090"
        assert target.model_name == "Qwen/Qwen3-0.6B"
        assert target.namespace is None

    def test_the_demonstration_promises_and_limits_what_its_guide_says(self) -> None:
        graph = of_kind(GRAPHS / "sla-planner.yaml", "DynamoGraphDeployment")
        target = only(list(planner_settings(graph).config.targets))
        assert (target.ttft, target.itl, target.adjustment_interval, target.load_predictor) == (2000, 100, 60, "arima")
        assert (target.min_prefill_replicas, target.max_prefill_replicas) == (1, 5)
        assert (target.min_decode_replicas, target.max_decode_replicas) == (2, 8)
        assert str(target.profile_results_dir) == "sample"
        assert {service.role: service.body["replicas"] for service in read_services(graph) if service.role} == {"prefill": 1, "decode": 2}
        assert pods(graph)["Planner"]["spec"]["volumes"] == [{"name": "tmp", "emptyDir": {}}]

    @pytest.mark.parametrize("version", VERSIONS)
    def test_the_profile_is_read_from_the_volume_and_cannot_be_written(self, version: str) -> None:
        pod = pods(rendered("disagg_planner", api_version=version)[0])["Planner"]["spec"]
        assert pod["serviceAccountName"] == "planner"
        assert pod["automountServiceAccountToken"] is True
        volume = only([one for one in pod["volumes"] if "persistentVolumeClaim" in one])
        assert volume["persistentVolumeClaim"] == {"claimName": "dynamo-pvc", "readOnly": True}
        mount = only([one for one in pod["containers"][0]["volumeMounts"] if one["name"] == volume["name"]])
        assert mount == {"name": volume["name"], "mountPath": "/data", "readOnly": True}

    @pytest.mark.parametrize("version", VERSIONS)
    def test_its_probes_and_metrics_are_on_the_port_that_it_serves(self, version: str) -> None:
        graph = rendered("disagg_planner", api_version=version, planner_metrics_port=9999)[0]
        container = pods(graph)["Planner"]["spec"]["containers"][0]
        assert container["ports"] == [{"name": "metrics", "containerPort": 9999}]
        assert {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe")} == {"metrics"}
        assert planner_settings(graph).config.prometheus_port == 9999

    def test_its_memory_is_limited_to_what_it_asks_for(self) -> None:
        planner = rendered("disagg_planner")[0]["spec"]["services"]["Planner"]
        assert planner["resources"]["limits"]["memory"] == planner["resources"]["requests"]["memory"] == "128Mi"


class TestOwnPrometheus:
    @pytest.mark.parametrize("file", OWN_PROMETHEUS, ids=lambda file: f"{file.parent.name}/{file.stem}")
    def test_the_planner_asks_it_and_only_it(self, file: Path) -> None:
        service, deployment = of_kind(file, "Service", "-prometheus"), of_kind(file, "Deployment")
        target = only(list(planner_settings(of_kind(file, "DynamoGraphDeployment"), SLA_PLANNER_NAMESPACE="of-the-operator").config.targets))
        assert target.prometheus_url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
        assert not target.namespace, "what it scrapes carries no dynamo_namespace"
        pod = deployment["spec"]["template"]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        container = only(pod["spec"]["containers"])
        assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
        assert (container["ports"][0]["containerPort"], "--web.listen-address=:8000" in container["args"]) == (8000, True)

    @pytest.mark.parametrize("file", OWN_PROMETHEUS, ids=lambda file: f"{file.parent.name}/{file.stem}")
    def test_it_scrapes_every_frontend_and_the_planner_every_5_s(self, file: Path) -> None:
        graph = of_kind(file, "DynamoGraphDeployment")
        config = yaml.safe_load(of_kind(file, "ConfigMap")["data"]["prometheus.yml"])
        assert config["global"]["scrape_interval"] == "5s"
        found = {}
        for job in config["scrape_configs"]:
            lookup = only(job["dns_sd_configs"])
            service = of_kind(file, "Service", only(lookup["names"]))
            assert service["spec"]["clusterIP"] == "None", "one address per pod"
            assert lookup["port"] == service["spec"]["ports"][0]["port"]
            found[job["job_name"]] = service["spec"]["selector"], lookup["port"]
        name = graph["metadata"]["name"]
        assert found["frontend"] == ({"nvidia.com/dynamo-graph-deployment-name": name, "nvidia.com/dynamo-component-type": "frontend"}, 8000)
        planner = pods(graph)["Planner"]
        assert found["planner"][0].items() <= planner["metadata"]["labels"].items()
        assert found["planner"][1] == planner["spec"]["containers"][0]["ports"][0]["containerPort"]

    @pytest.mark.parametrize("file", OWN_PROMETHEUS, ids=lambda file: f"{file.parent.name}/{file.stem}")
    def test_its_configuration_is_mounted(self, file: Path) -> None:
        spec = of_kind(file, "Deployment")["spec"]["template"]["spec"]
        volumes = {one["name"]: one for one in spec["volumes"]}
        mounts = {one["mountPath"]: volumes[one["name"]] for one in spec["containers"][0]["volumeMounts"]}
        assert mounts["/etc/prometheus"]["configMap"] == {"name": of_kind(file, "ConfigMap")["metadata"]["name"]}
        assert "emptyDir" in mounts["/prometheus"]
        assert spec["automountServiceAccountToken"] is False

    @pytest.mark.e2e
    def test_prometheus_takes_the_configuration(self, tmp_path: Path) -> None:
        for file in OWN_PROMETHEUS:
            config = tmp_path / "prometheus.yml"
            config.write_text(of_kind(file, "ConfigMap")["data"]["prometheus.yml"])
            subprocess.run(["promtool", "check", "config", config], check=True, capture_output=True)


class TestPods:
    @pytest.mark.parametrize("pod", every_pod())
    def test_a_restricted_namespace_admits_it(self, pod: Document) -> None:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert {key for volume in spec.get("volumes", []) for key in volume} <= {"name", "emptyDir", "configMap", "persistentVolumeClaim"}
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    @pytest.mark.parametrize("pod", [pod for pod in every_pod() if str(pod.id).endswith(("Planner", "Prometheus"))])
    def test_ours_cannot_write_but_to_volumes(self, pod: Document) -> None:
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in pod["spec"]["containers"])

    @pytest.mark.parametrize("minor", MINORS)
    @pytest.mark.parametrize("pod", every_pod())
    def test_its_fields_exist(self, pod: Document, minor: str) -> None:
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(pod)}, minor, strict=True)

    @pytest.mark.parametrize("minor", MINORS)
    def test_the_objects_of_the_prometheus_are_valid(self, minor: str) -> None:
        for document in documents(GRAPHS / "sla-planner.yaml")[1:]:
            kubernetes_validate.validate(document, minor, strict=True)


class TestBases:
    @pytest.mark.parametrize("name", BACKENDS)
    def test_the_committed_one_is_read(self, name: str) -> None:
        graph = read_dgd((BASES / name / "disagg.yaml").read_text())
        assert [service.name for service in read_services(graph)] == ["Frontend", "prefill", "backend"]
        assert (gpus_per_engine(graph, "prefill"), gpus_per_engine(graph, "decode")) == (1, 1)

    @pytest.mark.parametrize("tp", [1, 2, 4])
    @pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("name", BACKENDS)
    def test_an_engine_is_derived_at_every_size(self, name: str, version: str, phase: Phase, tp: int) -> None:
        graph = rendered("disagg", backend=name, api_version=version)[0]
        alone = derive(graph, backend(name), Deployment(ParallelMapping(tp=tp), phase), name="probe")
        frontend, engine = read_services(alone)
        assert (frontend.is_frontend, engine.name, engine.role) == (True, "backend", "decode")
        assert (engine.gpus_per_node, engine.nodes) == (tp, 1)
        line = engine.container["args"]
        assert not any("disaggregation" in argument for argument in line)
        flag = {"vllm": "--tensor-parallel-size", "sglang": "--tp", "trtllm": "--tensor-parallel-size"}[name]
        assert line[line.index(flag) + 1] == str(tp)
        assert line[1] == "Qwen/Qwen3-0.6B"

    @pytest.mark.parametrize("name", BACKENDS)
    def test_both_api_versions_say_the_same(self, name: str) -> None:
        def told(service: Service) -> tuple[Any, ...]:
            container = {key: value for key, value in service.container.items() if key not in ("name", "env", "resources")}
            return service.name, service.is_frontend, service.role, service.gpus_per_node, service.body["replicas"], container

        values = {"backend": name, "decode_gpus": 2, "prefill_replicas": 3, "image_pull_secrets": ["a"]}
        alpha, beta = ([told(service) for service in read_services(rendered("disagg", api_version=one, **values)[0])] for one in VERSIONS)
        assert alpha == beta

    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_planner_changes_nothing_but_labels(self, version: str) -> None:
        with_planner = pods(rendered("disagg_planner", api_version=version)[0])
        without = pods(rendered("disagg", api_version=version)[0])
        assert {name: pod["spec"] for name, pod in with_planner.items() if name != "Planner"} == {name: pod["spec"] for name, pod in without.items()}


class TestValues:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_a_model_of_ones_own(self, version: str) -> None:
        graph = rendered(
            "disagg_planner",
            backend="sglang",
            api_version=version,
            name="chat",
            model="/models/chat",
            served_model="chat-70b",
            image="registry.example/engine:2",
            image_pull_secrets=["pull"],
            hf_token_secret="my-token",
            hf_token_key="token",
            prefill_gpus=2,
            decode_gpus=4,
            decode_args=["--context-length", "8192"],
            worker_requests={"memory": "64Gi"},
        )[0]
        services = {service.name: service for service in read_services(graph)}
        assert graph["metadata"]["name"] == "chat"
        assert {service.image for name, service in services.items() if name != "Planner"} == {"registry.example/engine:2"}
        assert (services["prefill"].gpus_per_node, services["backend"].gpus_per_node) == (2, 4)
        line = services["backend"].container["args"]
        assert line[:6] == ["--model-path", "/models/chat", "--served-model-name", "chat-70b", "--tp", "4"]
        assert line[-2:] == ["--context-length", "8192"]
        assert only(list(planner_settings(graph, PROMETHEUS_ENDPOINT="http://p").config.targets)).model_name == "chat-70b"
        for name, pod in pods(graph).items():
            assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}], name
            for variable in pod["spec"]["containers"][0]["env"]:
                if variable["name"] == "HF_TOKEN":
                    assert variable["valueFrom"] == {"secretKeyRef": {"name": "my-token", "key": "token", "optional": True}}

    def test_what_an_engine_must_not_have_can_be_left_out(self) -> None:
        graph = rendered("disagg", engine_container_security={}, engine_pod_security={}, frontend_requests={})[0]
        for service in graph["spec"]["services"].values():
            assert "securityContext" not in service["extraPodSpec"]
            assert "securityContext" not in service["extraPodSpec"]["mainContainer"]

    def test_no_secret_is_written_into_a_manifest(self) -> None:
        for file in [*PLANNED, *BASES.rglob("*.yaml")]:
            for document in documents(file):
                assert document["kind"] != "Secret"
                if document["kind"] == "DynamoGraphDeployment":
                    variables = [one for pod in pods(document).values() for one in pod["spec"]["containers"][0]["env"]]
                    assert {one["name"] for one in variables if "value" in one} <= {"PROMETHEUS_ENDPOINT"}


@pytest.mark.parametrize("file", [*PLANNED, *sorted(BASES.rglob("*.yaml"))], ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_kustomize_takes_it_and_sets_the_namespace(file: Path, tmp_path: Path) -> None:
    (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": "chat", "resources": [file.name]}))
    built = subprocess.run([Path(sys.executable).with_name("kubectl"), "kustomize", tmp_path], check=True, capture_output=True, text=True).stdout
    assert {one["metadata"]["namespace"] for one in yaml.safe_load_all(built)} == {"chat"}
