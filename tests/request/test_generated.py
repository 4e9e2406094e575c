"""The deployment of a request: its workers, its planner, what a user lays over it; and the ConfigMaps beside it.

What the profiler of Dynamo 0.6 generated for a real run (Qwen3-32B, TensorRT-LLM, AI Configurator: prefill TP1, decode TP2; its repository,
benchmarks/profiler/comparison) is a case here: which services, which sizes, which flags of the planner. The words are ours.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import click
import pytest
import yaml
from tests.e2e.operator.stand_in.graph import read_graph
from tests.e2e.operator.stand_in.objects import SimulatedEngine, objects_of
from tests.e2e.operator.stand_in.versions import BETA, converted

from sla_planner import __version__
from sla_planner.cli import group
from sla_planner.config import load
from sla_planner.engines.dgd import read_dgd, to_yaml
from sla_planner.engines.dgd_requests import base_manifest
from sla_planner.engines.dgd_roles import role_services
from sla_planner.model.profile import ParallelMapping
from sla_planner.planner_config import PlannerConfig, TargetConfig
from sla_planner.rendering import Template
from sla_planner.request.makers import CannotBeMadeError
from sla_planner.request.seen import GpusSeen
from sla_planner.request.settings import Settings

from .samples import ALL, GOLDEN, MOE, OFFLINE, ONLINE, ROOT, SETTINGS, Sample, beta, maker, published, request_of, seen, text_of

Document = dict[str, Any]
TP1, TP2, TP4 = (ParallelMapping(tp=tp) for tp in (1, 2, 4))
REAL_FLAGS = {
    "adjustment_interval": 180,
    "load_predictor": "arima",
    "load_prediction_window_size": 50,
    "max_gpu_budget": 8,
    "min_endpoint": 1,
    "prefill_engine_num_gpu": 1,
    "decode_engine_num_gpu": 2,
}
DGDS = ROOT / "tests" / "data" / "dgd"


def graph(document: Document, settings: Settings = SETTINGS, *, base: str = "", sample: Sample = ONLINE, **more: Any) -> Document:
    looked = seen(sample, **({"base": base} if base else {}), **more)
    return maker(settings).graph(request_of(document), looked)


def with_base(document: Document) -> Document:
    """A request with a manifest of its own."""
    document["spec"]["profilingConfig"]["configMapRef"] = {"name": "mine"}
    return document


def service(found: Document, name: str) -> Document:
    if found["apiVersion"] == "nvidia.com/v1alpha1":
        return dict(found["spec"]["services"][name])
    return next(dict(one) for one in found["spec"]["components"] if one["name"] == name)


def main(found: Document, name: str) -> Document:
    if found["apiVersion"] == "nvidia.com/v1alpha1":
        return dict(service(found, name)["extraPodSpec"]["mainContainer"])
    return dict(service(found, name)["podTemplate"]["spec"]["containers"][0])


def planner_of(found: Document) -> tuple[PlannerConfig, TargetConfig]:
    """What the planner would run with."""
    context = click.Context(group, info_name="sla-planner")
    name, stage, rest = group.resolve_command(context, list(main(found, "Planner")["args"]))
    assert name == "planner"
    assert stage is not None
    variables = service(found, "Planner").get("envs") or main(found, "Planner")["env"]
    environment = {one["name"]: one["value"] for one in variables} | {"DYN_PARENT_DGD_K8S_NAME": found["metadata"]["name"]}
    config = load(PlannerConfig, stage.make_context(name, rest, parent=context).params, environment).config
    (target,) = config.targets
    return config, target


def argument(found: Document, name: str, flag: str) -> str:
    arguments = main(found, name)["args"]
    return str(arguments[arguments.index(flag) + 1])


class TestSamples:
    @pytest.mark.parametrize("sample", ALL, ids=lambda sample: sample.name)
    def test_what_is_made_is_what_was_looked_at(self, sample: Sample) -> None:
        """`python -m tests.request.samples` writes the files anew."""
        expected = (GOLDEN / f"{sample.name}.yaml").read_text()
        assert list(yaml.safe_load_all(text_of(sample))) == list(yaml.safe_load_all(expected))

    @pytest.mark.parametrize("sample", ALL, ids=lambda sample: sample.name)
    def test_the_operator_makes_workers_and_a_planner_of_it(self, sample: Sample) -> None:
        found = maker().graph(request_of(sample.document), seen(sample))
        stored = converted(found, BETA)
        stored["metadata"] = {**stored["metadata"], "uid": "u", "generation": 1}
        read = read_graph(stored)
        made = [(resource.kind, body) for resource, body in objects_of(read, SimulatedEngine("engine:1", "{}"))]
        deployments = {body["metadata"]["name"]: body for kind, body in made if kind == "Deployment"}
        name = found["metadata"]["name"]
        planner = deployments[f"{name}-planner"]["spec"]["template"]["spec"]
        assert {volume["name"] for volume in planner["volumes"]} == {"tmp", "profile"}
        assert planner["containers"][0]["image"] == f"sla-planner/planner:{__version__}"
        assert {service.gpus for service in role_services(found)} == {sample.prefill.gpus, sample.decode.gpus}

    def test_the_same_input_gives_the_same_text_and_changes_nothing(self) -> None:
        for sample in ALL:
            document, looked = sample.document, seen(sample)
            before = copy.deepcopy(document)
            assert len({to_yaml(maker().graph(request_of(document), looked)) for _ in range(3)}) == 1
            assert document == before


class TestGoldenCase:
    """Facts of a deployment that was generated for a real run."""

    @pytest.fixture
    def found(self) -> Document:
        document = OFFLINE.document
        config = document["spec"]["profilingConfig"]["config"]
        config["sla"] = {"isl": 2048, "osl": 256, "ttft": 500, "itl": 50}
        document["spec"]["deploymentOverrides"] = {"name": "trtllm-disagg"}
        config["planner"] = {}
        request = request_of(document)
        request = dataclasses.replace(request, deploying=dataclasses.replace(request.deploying, planner=REAL_FLAGS))
        return maker().graph(request, seen(Sample(OFFLINE.name, TP1, TP2)))

    def test_workers(self, found: Document) -> None:
        assert set(found["spec"]["services"]) == {"Frontend", "prefill", "backend", "Planner"}
        for name, tp in (("prefill", 1), ("backend", 2)):
            assert service(found, name)["resources"]["limits"]["gpu"] == str(tp)
            assert argument(found, name, "--model-path") == "Qwen/Qwen3-32B"
            assert argument(found, name, "--tensor-parallel-size") == str(tp)
            assert json.loads(argument(found, name, "--override-engine-args"))["tensor_parallel_size"] == tp
        assert {argument(found, name, "--disaggregation-mode") for name in ("prefill", "backend")} == {"prefill", "decode"}

    def test_planner(self, found: Document) -> None:
        config, target = planner_of(found)
        assert (target.backend, target.environment, target.graph_deployment) == ("trtllm", "kubernetes", "trtllm-disagg")
        assert (target.ttft, target.itl, target.model_name) == (500, 50, "Qwen/Qwen3-32B")
        assert (target.adjustment_interval, target.load_predictor, target.load_prediction_window_size) == (180, "arima", 50)
        assert (target.max_gpu_budget, target.min_endpoint) == (8, 1)
        assert (target.prefill_engine_num_gpu, target.decode_engine_num_gpu) == (1, 2)
        assert str(target.profile_results_dir) == "/profile"
        assert config.prometheus_port == 9085

    def test_profile(self, found: Document) -> None:
        pod, container = service(found, "Planner")["extraPodSpec"], main(found, "Planner")
        assert {"name": "profile", "configMap": {"name": "planner-profile-data-sla-aic"}} in pod["volumes"]
        assert {"name": "profile", "mountPath": "/profile", "readOnly": True} in container["volumeMounts"]


class TestPlanner:
    @pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
    def test_it_is_that_of_the_shipped_graphs_but_for_what_must_differ(self, version: str) -> None:
        values = {"backend": "vllm", "name": "vllm-disagg", "api_version": version, "prometheus_endpoint": "http://prometheus:9090"}
        shipped = yaml.safe_load(Template(ROOT / "templates", "disagg_planner").render(values=values))
        base = Template(ROOT / "templates", "disagg").render(values={"backend": "vllm", "api_version": version})
        document = ONLINE.document
        document["spec"]["profilingConfig"]["config"].pop("planner")
        ours, theirs = (copy.deepcopy(service(found, "Planner")) for found in (graph(document, base=base), shipped))
        for one in (ours, theirs):
            alpha = version == "v1alpha1"
            pod = one["extraPodSpec"] if alpha else one["podTemplate"]["spec"]
            container = pod["mainContainer"] if alpha else pod["containers"][0]
            labels = one["labels"] if alpha else one["podTemplate"]["metadata"]["labels"]
            del labels["app.kubernetes.io/managed-by"]
            for items in (pod["volumes"], container["volumeMounts"]):
                items[:] = [item for item in items if item["name"] == "tmp"]
            arguments = dict(each.partition("=")[::2] for each in container["args"])
            for flag in ("--profile-results-dir", "--ttft-target", "--itl-target", "--name"):
                arguments.pop(flag, None)
            container["args"] = arguments
        assert ours == theirs

    def test_passed_settings_replace_and_switches_are_spelled(self) -> None:
        document = ONLINE.document
        document["spec"]["profilingConfig"]["config"]["planner"] = {"planner_adjustment_interval": 30, "planner_no_correction": True}
        settings = dataclasses.replace(
            SETTINGS, planner_args=("--adjustment-interval=10", "--no-operation", "--correction"), planner_metrics_port=9999
        )
        found = graph(document, settings)
        config, target = planner_of(found)
        assert (target.adjustment_interval, target.no_correction, config.no_operation, config.prometheus_port) == (30, True, True, 9999)
        arguments = main(found, "Planner")["args"]
        assert len({each.partition("=")[0] for each in arguments}) == len(arguments)
        assert main(found, "Planner")["ports"] == [{"name": "metrics", "containerPort": 9999}]
        document["spec"]["profilingConfig"]["config"]["planner"] = {"planner_no_correction": False}
        assert planner_of(graph(document, dataclasses.replace(settings, planner_args=("--no-correction",))))[1].no_correction is False

    def test_two_planners_of_a_namespace_keep_their_memories_apart(self) -> None:
        names = set()
        for name in ("one", "two"):
            document = ONLINE.document
            document["spec"]["deploymentOverrides"]["name"] = name
            config, target = planner_of(graph(document))
            assert config.state == "configmap:sla-planner-status"  # the one that the planner's Role names
            names.add(target.name)
        assert names == {"one", "two"}

    def test_none_where_none_is_wanted(self) -> None:
        assert set(graph(beta(features={"planner": {"enabled": False}}))["spec"]["services"]) == {"Frontend", "prefill", "backend"}

    def test_the_manifests_own_planner_gives_way(self) -> None:
        base = (ROOT / "manifests" / "graphs" / "vllm" / "disagg_planner.yaml").read_text()
        found = graph(with_base(ONLINE.document), base=base)
        assert list(found["spec"]["services"]) == ["Frontend", "prefill", "backend", "Planner"]
        assert planner_of(found)[1].profile_results_dir.name == "profile"

    def test_it_is_in_the_dynamo_namespace_of_the_workers(self) -> None:
        found = graph(with_base(ONLINE.document), base=(DGDS / "vllm-disagg.yaml").read_text())
        assert {body["dynamoNamespace"] for body in found["spec"]["services"].values()} == {"vllm-disagg"}

    def test_images_account_and_pull_secrets(self) -> None:
        settings = dataclasses.replace(SETTINGS, planner_image="mine:2", planner_service_account="me", pull_secrets=("ours",))
        found = graph(ONLINE.document, settings)
        pod = service(found, "Planner")["extraPodSpec"]
        assert (pod["mainContainer"]["image"], pod["serviceAccountName"]) == ("mine:2", "me")
        for name in ("Frontend", "prefill", "backend", "Planner"):
            assert service(found, name)["extraPodSpec"]["imagePullSecrets"] == [{"name": "ours"}]


class TestWorkers:
    def test_model_and_image_are_the_requests(self) -> None:
        found = graph(ONLINE.document)
        for name in ("prefill", "backend"):
            assert argument(found, name, "--model") == "Qwen/Qwen3-0.6B"
            assert main(found, name)["image"] == "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.6.1"
        document = ONLINE.document
        document["spec"] |= {"model": "org/other"}
        document["spec"]["deploymentOverrides"]["workersImage"] = "mine:3"
        found = graph(document)
        assert {argument(found, name, "--model") for name in ("prefill", "backend")} == {"org/other"}
        assert {main(found, name)["image"] for name in ("Frontend", "prefill", "backend")} == {"mine:3"}

    def test_without_an_image_the_manifests_stay(self) -> None:
        found = graph(beta(model="org/other"))
        assert main(found, "backend")["image"] == "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.6.1"

    def test_weights_on_a_volume(self) -> None:
        cache = {"pvcName": "weights", "pvcModelPath": "models/x", "pvcMountPath": "/cache"}
        found = graph(beta(model="org/x", modelCache=cache))
        for name in ("prefill", "backend"):
            assert argument(found, name, "--model") == "/cache/models/x"
            assert argument(found, name, "--served-model-name") == "org/x"
            assert {"name": "weights", "mountPath": "/cache"} in main(found, name)["volumeMounts"]
            claim = {"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}}
            assert claim in service(found, name)["extraPodSpec"]["volumes"]
        assert planner_of(found)[1].model_name == "org/x"

    def test_the_token_is_the_installers_where_the_manifest_is_ours(self) -> None:
        settings = dataclasses.replace(SETTINGS, hf_token_secret="token", hf_token_key="key")
        reference = {"name": "token", "key": "key", "optional": True}
        found = graph(ONLINE.document, settings)
        for name in ("Frontend", "prefill", "backend"):
            assert [one["valueFrom"]["secretKeyRef"] for one in service(found, name)["envs"]] == [reference]
        theirs = graph(with_base(ONLINE.document), settings, base=base_manifest("vllm"))
        assert service(theirs, "backend")["envs"][0]["valueFrom"]["secretKeyRef"]["name"] == "hf-token-secret"

    def test_an_engine_that_is_larger_than_a_node_goes_over_several(self) -> None:
        found = maker().graph(request_of(MOE.document), seen(MOE))
        assert service(found, "prefill").get("multinode") is None
        decode = service(found, "backend")
        assert (decode["multinode"]["nodeCount"], decode["resources"]["limits"]["gpu"]) == (2, "8")
        small = maker().graph(request_of(MOE.document), seen(MOE, gpus=GpusSeen(4, 32)))
        sizes = [
            (service(small, name)["multinode"]["nodeCount"], service(small, name)["resources"]["limits"]["gpu"]) for name in ("prefill", "backend")
        ]
        assert sizes == [(2, "4"), (4, "4")]

    def test_what_was_measured_is_deployed_also_when_nodes_come_and_go(self) -> None:
        request = request_of(MOE.document)
        before = maker().frozen(request, seen(MOE, gpus=GpusSeen(4, 32)))["data"]
        for gpus in (None, GpusSeen(16, 64)):
            looked = seen(MOE, gpus=gpus, held={"dgdr-output-sla-moe": before})
            found = maker().graph(request, looked)
            assert service(found, "backend")["resources"]["limits"]["gpu"] == "4"
            assert maker().outputs(request, looked, found)[0]["data"]["disagg.yaml"] == before["disagg.yaml"]

    def test_other_services_stay_and_everything_starts_with_one(self) -> None:
        base = read_dgd(base_manifest("vllm"))
        base["spec"]["services"]["Router"] = {"componentType": "epp", "replicas": 2}
        base["spec"]["services"]["backend"]["replicas"] = 5
        found = graph(with_base(ONLINE.document), base=to_yaml(base))
        assert service(found, "Router") == {"componentType": "epp", "replicas": 2}
        assert service(found, "backend")["replicas"] == 1

    @pytest.mark.parametrize("stem", ["vllm-disagg", "vllm-v1beta1", "sglang-disagg", "trtllm-disagg", "vllm-disagg-shell"])
    def test_manifests_as_people_write_them(self, stem: str) -> None:
        document = with_base(ONLINE.document)
        document["spec"] |= {"backend": stem.partition("-")[0], "model": "org/other"}
        found = graph(document, base=(DGDS / f"{stem}.yaml").read_text(), profile=published(TP2, TP4))
        assert [role.gpus for role in role_services(found)] == [2, 4]
        assert found["apiVersion"] == ("nvidia.com/v1beta1" if stem.endswith("v1beta1") else "nvidia.com/v1alpha1")
        assert "status" not in found
        assert "org/other" in to_yaml(found)
        assert planner_of(found)[1].graph_deployment == "vllm-disagg"


class TestMarks:
    def test_name_labels_and_annotations(self) -> None:
        document = ONLINE.document
        document["spec"]["deploymentOverrides"] |= {
            "labels": {"team": "chat"},
            "annotations": {"why": "because"},
        }
        metadata = graph(document)["metadata"]
        assert (metadata["name"], metadata["namespace"]) == ("vllm-disagg", "chat")
        assert metadata["labels"]["team"] == "chat"
        assert (metadata["labels"]["dgdr.nvidia.com/name"], metadata["labels"]["dgdr.nvidia.com/namespace"]) == ("sla-online", "chat")
        assert metadata["annotations"] == {"why": "because", "slaplanner.io/request-uid": "6f1c", "slaplanner.io/gpus-per-node": "8"}
        assert "ownerReferences" not in metadata  # it outlives its request

    def test_what_is_laid_over_comes_last_but_for_whose_it_is(self) -> None:
        patch = {
            "metadata": {"name": "other", "namespace": "other", "labels": {"dgdr.nvidia.com/name": "x", "team": "a"}},
            "spec": {"services": {"Frontend": {"replicas": 3}, "Planner": {"resources": {"limits": {"memory": "1Gi"}}}}},
        }
        found = graph(beta(model="m/x", overrides={"dgd": patch}))
        assert (found["metadata"]["name"], found["metadata"]["namespace"]) == ("small", "chat")
        assert (found["metadata"]["labels"]["dgdr.nvidia.com/name"], found["metadata"]["labels"]["team"]) == ("small", "a")
        assert service(found, "Frontend")["replicas"] == 3
        assert service(found, "Planner")["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}

    def test_components_are_laid_over_by_name(self) -> None:
        base = Template(ROOT / "templates", "disagg").render(values={"backend": "vllm", "api_version": "v1beta1"})
        found = graph(beta(overrides={"dgd": {"spec": {"components": [{"name": "Frontend", "replicas": 3}]}}}), base=base)
        assert [one["name"] for one in found["spec"]["components"]] == ["Frontend", "prefill", "backend", "Planner"]
        assert service(found, "Frontend")["replicas"] == 3

    @pytest.mark.parametrize(
        ("patch", "words"),
        [
            ({"apiVersion": "nvidia.com/v1beta1"}, "not for nvidia.com/v1alpha1"),
            ({"spec": {"components": [{"name": "Frontend"}]}}, "not for nvidia.com/v1alpha1"),
            ({"spec": {"services": {"backend": None}}}, "one service of workers, prefill"),
            ({"spec": None}, "has no usable spec"),
        ],
    )
    def test_what_leaves_no_deployment_is_refused(self, patch: Document, words: str) -> None:
        with pytest.raises(CannotBeMadeError, match=words) as error:
            graph(beta(overrides={"dgd": patch}))
        assert error.value.reason == "OverridesUnusable"


class TestFaults:
    @pytest.mark.parametrize(
        ("base", "words"),
        [
            ("kind: Pod\n", "no DynamoGraphDeployment"),
            ("a: [", "no YAML"),
            ((DGDS / "vllm-agg.yaml").read_text(), "one worker for both phases"),
            ((DGDS / "sglang-disagg.yaml").read_text().replace("spec:\n", "spec:\n  backendFramework: sglang\n", 1), "is for sglang"),
        ],
        ids=["pod", "yaml", "aggregated", "other engine"],
    )
    def test_a_base_that_cannot_be_used(self, base: str, words: str) -> None:
        with pytest.raises(CannotBeMadeError, match=words) as error:
            graph(with_base(ONLINE.document), base=base)
        assert error.value.reason == "BaseManifestUnusable"

    def test_picks_that_do_not_fit_the_nodes(self) -> None:
        with pytest.raises(CannotBeMadeError, match="cannot be spread evenly"):
            graph(ONLINE.document, profile=published(TP1, ParallelMapping(tp=6)), gpus=GpusSeen(4, 8))

    def test_nothing_to_make_it_of(self) -> None:
        for missing, reason in (({"base": None, "base_trouble": "no key x"}, "BaseManifestMissing"), ({"profile": None}, "ProfileMissing")):
            with pytest.raises(CannotBeMadeError) as error:
                maker().graph(request_of(ONLINE.document), seen(ONLINE, **missing))
            assert error.value.reason == reason

    def test_without_the_whole_profile_the_labels_tell_the_picks(self) -> None:
        for label, mapping in (("TP:4", TP4), ("TEP:8", ParallelMapping(tp=8, ep=8)), ("DEP16", ParallelMapping(dp=16, ep=16))):
            profile = dataclasses.replace(published(TP1, TP1), files={}, prefill=label, decode=label)
            found = maker().graph(request_of(MOE.document), seen(MOE, profile=profile, gpus=GpusSeen(16, 16)))
            assert {role.gpus for role in role_services(found)} == {mapping.gpus}

    @pytest.mark.parametrize(
        "files", [{"profile.json": "no"}, {"profile.json": '{"selected_prefill": {"qp": 3}}'}, {}], ids=["text", "other", "none"]
    )
    def test_a_profile_that_tells_no_picks(self, files: dict[str, str]) -> None:
        profile = dataclasses.replace(published(TP1, TP1), files=files, prefill="", decode="")
        with pytest.raises(CannotBeMadeError, match="create it again") as error:
            maker().graph(request_of(ONLINE.document), seen(ONLINE, profile=profile))
        assert error.value.reason == "ProfileUnreadable"


class TestConfigMaps:
    def test_what_profiling_begins_with(self) -> None:
        found = maker().frozen(request_of(ONLINE.document), seen(ONLINE))
        assert found["metadata"]["name"] == "dgdr-output-sla-online"
        assert json.loads(found["data"]["spec.json"]) == ONLINE.document["spec"]
        swept = read_dgd(found["data"]["disagg.yaml"])
        assert argument(swept, "backend", "--model") == "Qwen/Qwen3-0.6B"
        assert set(found["data"]) == {"disagg.yaml", "spec.json"}

    def test_the_profiles_is_empty_and_its_own(self) -> None:
        found = maker().profile_config_map(request_of(ONLINE.document))
        assert (found["metadata"]["name"], found["data"]) == ("planner-profile-data-sla-online", {})
        assert found["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["labels"]["slaplanner.io/request-uid"] == "6f1c"

    def test_outputs(self) -> None:
        request, looked = request_of(ONLINE.document), seen(ONLINE)
        made = maker().graph(request, looked)
        output, shared = maker().outputs(request, looked, made)
        assert yaml.safe_load(output["data"]["config_with_planner.yaml"]) == made
        assert {key: output["data"][key] for key in ("disagg.yaml", "spec.json")} == maker().frozen(request, looked)["data"]
        assert shared["metadata"]["name"] == "planner-profile-data"
        assert shared["data"] == looked.profile.files  # type: ignore[union-attr]

    def test_among_others_the_shared_profile_is_nobodys(self) -> None:
        looked = dataclasses.replace(seen(ONLINE), alone=False)
        request = request_of(ONLINE.document)
        (output,) = maker().outputs(request, looked, maker().graph(request, looked))
        assert output["metadata"]["name"] == "dgdr-output-sla-online"

    def test_the_manifest_that_was_put_by_wins_over_its_source(self) -> None:
        request = request_of(with_base(ONLINE.document))
        before = maker().frozen(request, seen(ONLINE))["data"]
        later = seen(ONLINE, base=(DGDS / "vllm-disagg.yaml").read_text(), held={"dgdr-output-sla-online": before})
        assert set(maker().graph(request, later)["spec"]["services"]) == {"Frontend", "prefill", "backend", "Planner"}
        assert maker().outputs(request, later, {"kind": "x"})[0]["data"]["disagg.yaml"] == before["disagg.yaml"]

    def test_more_than_a_config_map_holds_is_refused(self) -> None:
        base = read_dgd(base_manifest("vllm"))
        base["metadata"]["annotations"] = {"long": "x" * 1_000_000}
        with pytest.raises(CannotBeMadeError, match=r"dgdr-output-sla-online would have 1,0\d\d,\d{3} bytes.*disagg\.yaml") as error:
            maker().frozen(request_of(with_base(ONLINE.document)), seen(ONLINE, base=to_yaml(base)))
        assert error.value.reason == "TooLarge"
