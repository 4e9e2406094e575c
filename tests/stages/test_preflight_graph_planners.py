"""`preflight` where the planner is a service of a graph, as requests make it: clean, and with faults planted one by one."""

from __future__ import annotations

import pytest
import yaml
from tests.manifests.objects import ROOT
from tests.preflight.faults import Fault, problem, role, warning
from tests.preflight.installation import GRAPH, HERE, stamp, status
from tests.preflight.looking import assert_named_alone, grave, looker, named_by_kubeconfig, unseen


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with named_by_kubeconfig(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def preflight(capsys):
    return looker(capsys)


K = f"kubectl -n {HERE}"


def with_a_planner(cluster, change=lambda arguments: None):
    """The graph has the planner that requests give it, in its place among the services; a standing one is gone."""
    shipped = yaml.safe_load((ROOT / "scripts/sla_planner/graphs/planner/v1alpha1.yaml").read_text())["spec"]["services"]["Planner"]
    shipped["envs"] = [{"name": "PROMETHEUS_ENDPOINT", "value": cluster.prometheus.url}]
    pod = shipped["extraPodSpec"]
    pod["volumes"] = [{"name": "data", "configMap": {"name": "planner-profile-data"}}]
    pod["mainContainer"]["volumeMounts"] = [{"name": "data", "mountPath": "/profile"}]
    arguments = [each for each in pod["mainContainer"]["args"] if "--profile-results-dir" not in each] + ["--profile-results-dir=/profile"]
    change(arguments)
    pod["mainContainer"]["args"] = arguments
    cluster.edit("dynamographdeployments", GRAPH, lambda found: found["spec"]["services"].update(Planner=shipped))
    cluster.drop("deployments", "planner")


def test_the_planner_of_a_graph_is_looked_at_as_a_standing_one_is(cluster, preflight):
    with_a_planner(cluster)
    code, findings = preflight()
    assert (code, grave(findings), unseen(findings)) == (0, [], {})
    told = {each["check"]: each["what"] for each in findings}
    assert told["settings"].startswith(f"settings from DynamoGraphDeployment {GRAPH}")
    assert told.keys() >= {"targets", "metrics", "streaming", "profile", "rights-of-planner"}
    cluster.prometheus.first_tokens = 0
    cluster.edit("roles", "planner", lambda found: found["rules"][4].update(verbs=["get"]))
    assert {each["check"] for each in grave(preflight()[1])} == {"streaming", "rights-of-planner"}


def test_settings_that_the_planner_of_a_graph_does_not_take_are_told(cluster, preflight):
    with_a_planner(cluster, lambda arguments: arguments.append("--no-such-flag=1"))
    code, findings = preflight()
    (told,) = grave(findings)
    assert (code, told["check"], told["fix"].partition("    #")[0]) == (2, "settings", f"kubectl -n {HERE} edit dynamographdeployment/{GRAPH}")
    assert "--no-such-flag" in told["what"]


def test_what_is_named_is_looked_at_in_place_of_the_planners_of_graphs(cluster, preflight):
    with_a_planner(cluster, lambda arguments: arguments.append("--no-such-flag=1"))
    flags = ("--graph-deployment", GRAPH, "--prometheus-url", cluster.prometheus.url, "--profile-results-dir", "sample")
    assert preflight(*flags)[0] == 0


def leased(cluster, *, name="chat", **lease):
    """Its planner holds a Lease, and may."""
    with_a_planner(cluster, lambda arguments: arguments.append(f"--lease={name}"))
    held = {"holderIdentity": "chat-0", "leaseDurationSeconds": 15, "renewTime": stamp(2), **lease}
    cluster.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": held})
    cluster.edit("roles", "planner-lease", lambda found: found["rules"][1].update(resourceNames=[name]))


def planner_of(change):
    """Change the service of the graph that is its planner."""

    def plant(cluster):
        with_a_planner(cluster)
        cluster.edit("dynamographdeployments", GRAPH, lambda found: change(found["spec"]["services"]["Planner"]))

    return plant


def also(*plants):
    def plant(cluster):
        for each in (with_a_planner, *plants):
            each(cluster)

    return plant


def mounting(name, **more):
    volume = {"name": "more", "configMap": {"name": name, **more}}
    return planner_of(lambda service: service["extraPodSpec"]["volumes"].append(volume))


def reading(name, key):
    variable = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": name, "key": key}}}

    def plant(cluster):
        with_a_planner(cluster)
        worker = lambda found: found["spec"]["services"]["backend"]  # noqa: E731
        cluster.edit("dynamographdeployments", GRAPH, lambda found: worker(found).setdefault("envs", []).append(variable))

    return plant


def own_account(cluster):
    """One that is there and may do nothing."""
    planner_of(lambda service: service["extraPodSpec"].update(serviceAccountName="planner-serviceaccount"))(cluster)
    cluster.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "planner-serviceaccount"}})


def beside_a_standing_one(cluster):
    standing = cluster.get("deployments", "planner")
    with_a_planner(cluster)
    cluster.put(standing)


FAULTS: dict[str, Fault] = {
    "no memory": problem(
        also(lambda it: it.drop("configmaps", "sla-planner-status")),
        *("status", "there is no ConfigMap sla-planner-status", f"{K} apply -f jobs/planner/status.yaml"),
    ),
    "no memory of its own name": problem(
        lambda it: (
            with_a_planner(it, lambda arguments: arguments.append("--state=configmap:mine")),
            role("planner", lambda rules: rules[2].update(resourceNames=["mine"]))(it),
        ),
        *("status", "there is no ConfigMap mine", f"{K} create configmap mine"),
    ),
    "no decision for long": problem(
        also(lambda it: it.edit("configmaps", "sla-planner-status", lambda found: found.update(data={"default.status.json": status(age_s=3600)}))),
        *("last-decision", "is 60 min old", f"{K} logs --selector"),
    ),
    "a Lease that it may not hold": problem(
        lambda it: (leased(it), it.edit("roles", "planner-lease", lambda found: found["rules"].pop(1))),
        *("rights-of-planner", "may not get and update leases.coordination.k8s.io chat", "--verb=get,update --resource=leases.coordination.k8s.io"),
    ),
    "a Lease that nobody renews": warning(
        lambda it: leased(it, renewTime=stamp(300)), "lease", "s ago, and it lasts 15 s", f"{K} describe dynamographdeployment {GRAPH}"
    ),
    "a policy that cuts Prometheus off": warning(
        also(lambda it: it.edit("networkpolicies", "planner", lambda found: found["spec"]["egress"].pop(2))),
        *("network-policy", f"no network policy lets the planner of graph {GRAPH} connect to port", f"{K} patch networkpolicy planner"),
    ),
    "an account that is missing": problem(
        planner_of(lambda service: service["extraPodSpec"].update(serviceAccountName="gone")),
        *("service-accounts", "there is no ServiceAccount gone", f"{K} create serviceaccount gone", "rights-of-planner"),
    ),
    "an account without rights": problem(
        own_account,
        *("rights-of-planner", "the ServiceAccount planner-serviceaccount may do nothing", f"{K} apply -f jobs/planner/role.yaml"),
    ),
    "two planners of one graph": problem(
        beside_a_standing_one, "runs", f"Deployment planner scales graph {GRAPH}, which has a planner of its own", f"{K} scale deployment planner"
    ),
    "no profile": problem(
        also(lambda it: it.drop("configmaps", "planner-profile-data")),
        *("config-maps", f"DynamoGraphDeployment/{GRAPH} mounts the profile from the ConfigMap planner-profile-data", f"{K} create job sweep-1"),
        "profile",
    ),
    "no profile of its request": problem(
        mounting("planner-profile-data-chat"), "config-maps", "the ConfigMap planner-profile-data-chat, which is not there", "kubectl get dgdr"
    ),
    "no ConfigMap that a worker needs": problem(
        reading("engine", "model.json"), "config-maps", "mounts the ConfigMap engine", f"{K} create configmap engine --from-literal=model.json=VALUE"
    ),
    "no key in a ConfigMap that a worker needs": problem(
        reading("sla-params", "model.json"), "config-maps", "has no key model.json", f"{K} patch configmap sla-params"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_alone_with_its_fix(cluster, preflight, name):
    fault = FAULTS[name]
    fault.plant(cluster)
    assert_named_alone(fault, *preflight())


@pytest.mark.parametrize(
    "plant",
    [leased, mounting("may-be-missing", optional=True), also(lambda it: it.put(suspended(it)))],
    ids=["a Lease that it holds", "a ConfigMap that it can do without", "a CronJob that is installed and suspended"],
)
def test_what_is_no_fault(cluster, preflight, plant):
    plant(cluster)
    assert grave(preflight()[1]) == []


def suspended(cluster):
    found = cluster.get("cronjobs", "download-results")
    found["metadata"] |= {"name": "planner", "labels": {**found["metadata"]["labels"], "app.kubernetes.io/component": "planner"}}
    assert found["spec"]["suspend"]
    return found


def test_planners_that_share_a_lease(cluster, preflight):
    """One of them would wait for ever."""
    leased(cluster)
    second = cluster.get("dynamographdeployments", GRAPH)
    second["metadata"] = {"name": "second"}
    cluster.put(second)
    cluster.edit("roles", "planner", lambda found: found["rules"][4].pop("resourceNames", None))
    told = {each["check"]: each for each in grave(preflight()[1])}
    assert "have one Lease, chat" in told["lease"]["what"]
    assert told["lease"]["fix"].startswith(f"{K} edit dynamographdeployment ")
