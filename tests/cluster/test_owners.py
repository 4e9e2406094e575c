"""Who wrote a field, from the entries that an API server leaves."""

from sla_planner.cluster.owners import written_by

REPLICAS = ("spec", "replicas")


def entry(manager, fields, time="2026-01-01T00:00:00Z"):
    return {"manager": manager, "operation": "Update", "time": time, "fieldsV1": fields}


def holding(*entries):
    return {"metadata": {"managedFields": list(entries)}}


def test_of_several_managers_the_one_that_holds_the_field():
    found = holding(
        entry("kubectl-client-side-apply", {"f:metadata": {"f:labels": {".": {}}}, "f:spec": {"f:template": {}}}),
        entry("kube-controller-manager", {"f:status": {"f:replicas": {}}}),
        entry("kubectl", {"f:spec": {"f:replicas": {}}}),
    )
    assert written_by(found, REPLICAS) == "kubectl"


def test_nobody_where_nothing_is_recorded():
    assert written_by({"metadata": {}}, REPLICAS) == ""
    assert written_by(holding(entry("a", None), entry("b", {})), REPLICAS) == ""
    assert written_by(holding(entry("a", {"f:spec": {".": {}, "f:paused": {}}})), REPLICAS) == ""


def test_a_shared_field_is_ours_where_we_share_it_else_the_last_ones():
    fields = {"f:spec": {"f:replicas": {}}}
    early, late = entry("argocd-controller", fields, "2026-01-01T00:00:00Z"), entry("helm", fields, "2026-01-02T00:00:00Z")
    assert written_by(holding(late, early), REPLICAS) == "helm"
    assert written_by(holding(late, entry("sla-planner", fields), early), REPLICAS) == "sla-planner"


def test_the_spelling_of_either_version_of_a_graph():
    alpha, beta = ("spec", "services", "decode", "replicas"), ("spec", "components", {"name": "decode"}, "replicas")
    services = holding(entry("kubectl", {"f:spec": {"f:services": {".": {}, "f:decode": {"f:replicas": {}}, "f:prefill": {}}}}))
    assert written_by(services, alpha, beta) == "kubectl"
    keyed = {
        "f:spec": {"f:components": {'k:{"name":"prefill"}': {"f:replicas": {}}, 'k:{"name":"decode"}': {".": {}, "f:replicas": {}}, "k:oops": {}}}
    }
    assert written_by(holding(entry("kubectl-edit", keyed)), alpha, beta) == "kubectl-edit"
    whole = holding(entry("kubectl-patch", {"f:spec": {"f:components": {}}}))
    assert written_by(whole, alpha, beta) == "kubectl-patch"
