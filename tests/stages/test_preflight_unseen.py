"""`preflight` where it may not look, where servers do not answer, and how it is told what to look at."""

from __future__ import annotations

import json

import pytest
import yaml
from tests.manifests.objects import ROOT
from tests.preflight.faults import claim, settings
from tests.preflight.installation import GRAPH, HERE
from tests.preflight.looking import assert_can_be_typed, grave, looker, named_by_kubeconfig, unseen

from sla_planner.cli import run


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with named_by_kubeconfig(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def preflight(capsys):
    return looker(capsys)


# ---- what cannot be looked at ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "resource", "check"),
    [
        ("list", "nodes", "gpus"),
        ("get", "customresourcedefinitions", "request-definition"),
        ("get", "namespaces", "pod-security"),
        ("list", "resourcequotas", "quota"),
        ("list", "limitranges", "limit-range"),
        ("get", "persistentvolumeclaims", "volume"),
        ("get", "serviceaccounts", "service-accounts"),
        ("get", "secrets", "model-token"),
        ("list", "events", "refused-pods"),
        ("list", "pods", "pods"),
        ("create", "localsubjectaccessreviews", "rights-of-planner"),
        ("create", "selfsubjectaccessreviews", "own-rights"),
        ("get", "dynamographdeployments", "targets"),
        ("list", "dynamographdeployments", "graph-status"),
        ("list", "horizontalpodautoscalers", "other-autoscaler"),
        ("list", "scaledobjects", "other-autoscaler"),
        ("get", "leases", "lease"),
        ("list", "networkpolicies", "network-policy"),
        ("get", "configmaps", "settings"),
        ("list", "cronjobs", "installed"),
    ],
)
def test_what_may_not_be_looked_at_is_said_with_the_right_that_is_missing(cluster, preflight, verb, resource, check):
    cluster.serve_requests({})
    cluster.deny(verb, resource)
    code, findings = preflight()
    assert (code, grave(findings)) == (0, [])
    assert f"may not {verb} {resource}" in unseen(findings)[check] or f"cannot {verb}" in unseen(findings)[check]


def test_storage_classes_that_may_not_be_seen_leave_a_pending_volume_open(cluster, preflight):
    claim("Pending", storageClassName="slow")(cluster)
    cluster.deny("list", "storageclasses")
    assert "volume" in unseen(preflight()[1])


def test_a_volume_that_waits_for_its_first_pod_is_no_fault(cluster, preflight):
    claim("Pending", storageClassName="late")(cluster)
    found = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"}
    cluster.put(found, namespace="")
    assert grave(preflight()[1]) == []


@pytest.mark.parametrize(
    ("labels", "whose"), [({"app.kubernetes.io/part-of": "sla-planner"}, "by our definition"), ({}, "by an operator's own definition")]
)
def test_whose_requests_are_taken_is_said(cluster, preflight, labels, whose):
    cluster.serve_requests(labels)
    cluster.uninstall("deployments", namespace="dynamo-system")
    code, findings = preflight()
    (told,) = [each for each in findings if each["check"] == "request-definition"]
    assert code == 0
    assert whose in told["what"]
    assert ("slaplanner.io/request-class: sla-planner" in told["what"]) == (not labels)


def test_an_operator_that_may_not_be_seen_may_work_on_our_requests_too(cluster, preflight):
    cluster.serve_requests({"app.kubernetes.io/part-of": "sla-planner"})
    cluster.deny("list", "deployments")
    assert "may not list deployments" in unseen(preflight()[1])["request-definition"]


# ---- servers that do not answer -------------------------------------------------------------------------------------------------------------


def test_a_prometheus_that_does_not_answer_may_be_back_in_a_minute(cluster, preflight):
    cluster.prometheus.status = 503
    code, findings = preflight()
    (told,) = grave(findings)
    assert (code, told["check"], told["severity"]) == (4, "metrics", "problem")
    assert "HTTP 503" in told["what"]


def test_beside_a_fault_of_a_persons_a_server_that_does_not_answer_counts_less(cluster, preflight):
    cluster.prometheus.status = 503
    cluster.drop("configmaps", "sla-planner-status")
    assert preflight()[0] == 2


def test_an_api_server_that_does_not_answer(cluster, capsys):
    cluster.version_status = 500
    assert run(["preflight"]) == 4
    assert "answers HTTP 500; try again" in capsys.readouterr().err


def test_without_a_cluster_there_is_json_too(cluster, capsys, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert run(["preflight", "--json", "--namespace", HERE]) == 2
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["namespace"], found["exit_code"], found["findings"]) == (HERE, 2, [])
    assert found["error"] == "no cluster to talk to: there is no kubeconfig /nowhere; run in a pod, or name the file with KUBECONFIG"
    assert told.err == f"error: {found['error']}\n"


def test_a_kind_that_does_not_answer_is_left_out(cluster, preflight):
    cluster.fail(500, verb="list", resource="scaledobjects", times=9)
    code, findings = preflight()
    assert (code, grave(findings)) == (0, [])
    assert "HTTP 500" in unseen(findings)["other-autoscaler"]


def test_an_api_server_that_goes_away_ends_it(cluster, capsys):
    for resource in ("resourcequotas", "limitranges", "networkpolicies"):
        cluster.fail(0, verb="list", resource=resource, times=9)
    assert run(["preflight"]) == 4
    assert "does not answer" in capsys.readouterr().err


def test_a_service_of_the_cluster_is_not_missed_from_outside(cluster, preflight):
    settings(lambda text: text.replace(cluster.prometheus.url, "http://prometheus.monitoring:9090"))(cluster)
    cluster.edit("networkpolicies", "planner", lambda found: found["spec"]["egress"][2]["ports"][0].update(port=9090))
    code, findings = preflight()
    (told,) = [each for each in findings if each["check"] == "metrics"]
    assert (code, grave(findings), told["severity"]) == (0, [], "not checked")
    assert "kubectl -n monitoring port-forward service/prometheus 9090:9090" in told["fix"]


# ---- settings -------------------------------------------------------------------------------------------------------------------------------


def test_what_is_named_overrides_what_is_installed(cluster, preflight):
    code, findings = preflight("--graph-deployment", "chat")
    assert code == 2
    assert {each["check"] for each in grave(findings)} == {"targets", "rights-of-planner"}


def test_a_settings_file_is_looked_at_before_it_is_installed(cluster, preflight, tmp_path):
    text = f"environment: kubernetes\ngraph_deployment: {GRAPH}\nprofile_results_dir: sample\nprometheus_url: {cluster.prometheus.url}\n"
    (tmp_path / "planner.yaml").write_text(text + "itl: 25\n")
    code, findings = preflight("--planner-config", str(tmp_path / "planner.yaml"))
    assert (code, grave(findings)) == (0, [])
    (tmp_path / "planner.yaml").write_text(text + "max_gpu_budget: 1\n")
    code, findings = preflight("--planner-config", str(tmp_path / "planner.yaml"))
    assert (code, [each["check"] for each in grave(findings)]) == (2, ["settings"])


def test_a_bare_namespace_is_told_what_to_install_and_what_to_name(cluster, preflight):
    cluster.uninstall(
        "cronjobs", "deployments", "roles", "rolebindings", "serviceaccounts", "configmaps", "persistentvolumeclaims", "networkpolicies"
    )
    code, findings = preflight()
    assert code == 2
    told = {each["check"]: each["fix"] for each in grave(findings)}
    assert told.keys() == {"installed", "volume"}
    assert told["installed"] == f"kubectl apply -k . -n {HERE}"
    assert "--graph-deployment NAME --prometheus-url URL" in next(each["fix"] for each in findings if each["check"] == "settings")


def test_an_empty_namespace_with_a_target_that_is_named(cluster, preflight):
    cluster.uninstall("cronjobs", "deployments", "configmaps")
    flags = ("--graph-deployment", GRAPH, "--prometheus-url", cluster.prometheus.url, "--profile-results-dir", "sample")
    code, findings = preflight(*flags)
    assert (code, [each["check"] for each in grave(findings)]) == (0, ["installed"])


def test_a_target_without_metrics_is_asked_for(cluster, capsys):
    cluster.uninstall("cronjobs", "deployments")
    assert run(["preflight", "--graph-deployment", GRAPH]) == 2
    assert "give either --prometheus-url or --scrape-url" in capsys.readouterr().err


def test_a_namespace_that_does_not_exist(cluster, preflight):
    code, findings = preflight("--namespace", "nowhere")
    assert code == 2
    assert {each["check"]: each["fix"] for each in grave(findings)}["namespace"] == "kubectl create namespace nowhere"


def test_a_prometheus_alone_names_no_target(cluster, preflight):
    code, findings = preflight("--namespace", "nowhere", "--prometheus-url", cluster.prometheus.url)
    told = {each["check"]: each["fix"] for each in findings}
    assert code == 2
    assert told["namespace"] == "kubectl create namespace nowhere"
    assert "--graph-deployment NAME" in told["settings"]


def test_the_verdict_says_how_far_it_goes(cluster, capsys):
    assert run(["preflight"]) == 0
    assert capsys.readouterr().out.endswith(" ok: nothing is in the way\n")
    cluster.deny("list", "nodes")
    assert run(["preflight"]) == 0
    assert capsys.readouterr().out.endswith("1 not checked, 38 ok: nothing is in the way, as far as can be seen from here\n")


def test_the_report_ends_with_what_to_do(cluster, capsys):
    cluster.drop("configmaps", "sla-planner-status")
    assert run(["preflight"]) == 2
    out, err = capsys.readouterr()
    *_, last = out.splitlines()
    assert last.startswith("1 problem, ")
    assert last.endswith("type the commands under `fix`, then run this again")
    assert err.startswith(f"error: preflight of namespace {HERE} at http://127.0.0.1")
    assert f"fix                     kubectl -n {HERE} apply -f jobs/planner/status.yaml\n" in out


def test_a_prometheus_that_is_named_is_looked_at_in_place_of_the_planners(cluster, preflight):
    settings(lambda text: text.replace(cluster.prometheus.url, "http://prometheus.monitoring:9090"))(cluster)
    code, findings = preflight("--prometheus-url", cluster.prometheus.url)
    (told,) = grave(findings)
    assert (code, told["check"]) == (0, "network-policy")  # of the port that the planner connects to, which this policy does not know
    assert "port 9090" in told["what"]
    assert cluster.prometheus.url in next(each["what"] for each in findings if each["check"] == "metrics")


@pytest.mark.parametrize(
    "marks",
    [
        {"labels": {"nvidia.com/dynamo-graph-deployment-name": "chat"}},
        {"ownerReferences": [{"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoComponentDeployment", "name": "chat-planner"}]},
    ],
)
def test_what_an_operator_makes_of_a_graph_with_a_planner_is_no_second_one(cluster, preflight, marks):
    made = cluster.get("deployments", "planner")
    made["metadata"] |= {"name": "chat-planner", "labels": {**made["metadata"]["labels"], **marks.get("labels", {})}}
    made["metadata"]["ownerReferences"] = marks.get("ownerReferences", [])
    cluster.put(made)
    code, findings = preflight()
    assert (code, grave(findings)) == (0, [])


# ---- who works on requests ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def requests(cluster):
    """Beside an operator whose definition it is."""
    cluster.serve_requests({})
    cluster.install_requests()
    return cluster


def test_an_installation_that_works_on_requests_has_nothing_wrong(requests, preflight):
    code, findings = preflight()
    assert (code, grave(findings), unseen(findings)) == (0, [], {})
    told = {each["check"]: each["what"] for each in findings}
    assert told["view-of-reconcile-requests"].endswith("may see the nodes and whose the definition of requests is")
    assert told["requests"] == "deployment requests with the annotation slaplanner.io/request-class: sla-planner are worked on in this namespace"


@pytest.mark.parametrize(("rule", "words"), [(0, "may not list nodes"), (1, "may not get customresourcedefinitions.apiextensions.k8s.io dynamog")])
def test_what_who_works_on_requests_may_not_see_of_the_cluster_is_told(requests, preflight, rule, words):
    requests.edit("clusterroles", "sla-planner-deployment-requests", lambda found: found.update(rules=[found["rules"][rule]]), namespace="")
    code, findings = preflight()
    (told,) = grave(findings)
    assert (code, told["check"], told["severity"]) == (0, "view-of-reconcile-requests", "warning")
    assert words in told["what"]


def test_what_who_works_on_requests_may_not_do_where_one_is_deployed_into(requests, preflight):
    spec = {"model": "m", "backend": "vllm", "profilingConfig": {}, "deploymentOverrides": {"namespace": "chat"}}
    requests.put({"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest", "metadata": {"name": "x"}, "spec": spec})
    code, findings = preflight()
    (told,) = grave(findings)
    assert (code, told["check"]) == (2, "rights-elsewhere")
    assert "may not get namespaces, create and get dynamographdeployments.nvidia.com" in told["what"]
    assert "in namespace chat" in told["what"]
    assert_can_be_typed(told["fix"].partition(" && ")[0])
    for kind in ("role", "rolebinding"):
        file = ROOT / f"manifests/components/deployment-requests-target-namespace/objects/{kind}.yaml"
        found = yaml.safe_load(file.read_text())
        for subject in found.get("subjects", ()):
            subject["namespace"] = HERE
        requests.put(found, namespace="chat")
    assert grave(preflight()[1]) == []


def test_beside_an_operator_too_somebody_has_to_work_on_annotated_requests(requests, preflight):
    requests.edit("deployments", "reconcile-requests", lambda found: found["spec"].update(replicas=0))
    (told,) = grave(preflight()[1])
    assert (told["check"], "with the annotation" in told["what"]) == ("requests", True)
    assert told["fix"] == f"kubectl -n {HERE} scale deployment reconcile-requests --replicas=1"


def test_the_rights_of_planners_that_requests_make_are_asked_for_without_a_standing_one(requests, preflight):
    requests.drop("deployments", "planner")
    requests.drop("cronjobs", "planner")
    assert grave(preflight()[1]) == []
    requests.edit("roles", "planner", lambda found: found["rules"][4].update(verbs=["get"]))
    (told,) = grave(preflight()[1])
    assert told["check"] == "rights-of-planner"
    assert "may not patch dynamographdeployments.nvidia.com" in told["what"]


# ---- what is scaled -------------------------------------------------------------------------------------------------------------------------


def test_services_with_scaling_adapters_are_looked_at_through_them(cluster, preflight):
    def edited(found):
        for service in ("prefill", "backend"):
            found["spec"]["services"][service]["scalingAdapter"] = {"enabled": True}

    cluster.edit("dynamographdeployments", GRAPH, edited)
    for service in ("prefill", "backend"):
        spec = {"replicas": 4, "dgdRef": {"name": GRAPH, "serviceName": service}}
        kind = "DynamoGraphDeploymentScalingAdapter"
        cluster.put({"apiVersion": "nvidia.com/v1alpha1", "kind": kind, "metadata": {"name": f"{GRAPH}-{service}"}, "spec": spec})
    code, findings = preflight()
    assert (code, grave(findings)) == (0, [])
    (told,) = [each["what"] for each in findings if each["check"] == "targets"]
    assert f"prefill 4 (dynamographdeploymentscalingadapter/{GRAPH}-prefill)" in told
    cluster.edit("roles", "planner", lambda found: found["rules"][6].update(verbs=["get"]))
    (told,) = grave(preflight()[1])
    assert f"may not patch dynamographdeploymentscalingadapters.nvidia.com/scale {GRAPH}-prefill" in told["what"]


def test_a_planner_that_reads_the_page_itself(cluster, preflight, page):
    page.text = (ROOT / "tests/data/metrics/dynamo-frontend-1.6.1.txt").read_text()
    port = int(page.url.split(":")[2].split("/")[0])
    settings(lambda text: text.replace(f"prometheus_url: {cluster.prometheus.url}", f"scrape_url: {page.url}"))(cluster)
    cluster.edit("networkpolicies", "planner", lambda found: found["spec"]["egress"][3]["ports"][0].update(port=port))
    code, findings = preflight()
    assert (code, grave(findings)) == (0, [])
    assert next(each["what"] for each in findings if each["check"] == "metrics") == f"target default: the metrics page at {page.url} answers"
    page.text = "up 1\n"
    (told,) = grave(preflight()[1])
    assert (told["check"], f"on {page.url}" in told["what"]) == ("scraped", True)
    page.status = 500
    assert preflight()[0] == 4
