"""The component `monitoring`: its alerts, their runbook, and the dashboard; with a real Prometheus in the tests marked e2e."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import shlex
import socket
import subprocess
import threading
from http.server import ThreadingHTTPServer

import kubernetes_validate
import pytest
import requests
import yaml
from tests.e2e.prometheus_server import program, prometheus_server, wait_for
from tests.e2e.traffic_page import Handler
from tests.manifests.objects import COMPONENTS, KUBECTL, OVERLAYS, ROOT, build, of_kind, overlay
from tests.stages.test_planner import PROFILE, engine_url, started_processes

import sla_planner
from sla_planner.metrics.exporter import Exporter
from sla_planner.plan.decision import Reason, Role
from sla_planner.plan.record import Carried

COMPONENT = COMPONENTS / "monitoring"
RUNBOOK = (COMPONENT / "RUNBOOK.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
DASHBOARD_FILE = COMPONENT / "objects/grafana-planner-dashboard-configmap.yaml"
DASHBOARD_MAP = yaml.safe_load(DASHBOARD_FILE.read_text())
DASHBOARD = json.loads(DASHBOARD_MAP["data"]["sla-planner-dashboard.json"])
GROUPS = yaml.safe_load((COMPONENT / "objects/prometheusrule.yaml").read_text())["spec"]["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CASES = yaml.safe_load((ROOT / "tests/manifests/monitoring/alerts.yaml").read_text())["tests"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [pytest.param(query["expr"], id=f"{panel['title']}: {query['legendFormat']}") for panel in PANELS for query in panel["targets"]]
ALERT_NAMES = pytest.mark.parametrize("name", ALERTS)


@functools.cache
def exported():
    """The names of what the planner exports, as Prometheus shows them."""
    exporter = Exporter(0, interval_s=15.0, host="127.0.0.1")
    families = list(exporter.collect())
    exporter.close()
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


# ---- the component ------------------------------------------------------------------------------------------------------------------------


def test_it_comes_with_the_pod_monitor_and_is_selected_by_the_same_release(tmp_path):
    objects = overlay(tmp_path, "monitoring", "planner-deployment", params={"prometheus-release": "mine"})
    for kind in ("PodMonitor", "PrometheusRule"):
        assert of_kind(objects, kind)["planner"]["metadata"]["labels"]["release"] == "mine"
    assert of_kind(objects, "ConfigMap")["grafana-planner-dashboard"]["data"] == DASHBOARD_MAP["data"]


def test_alerts_send_people_to_the_runbook_of_this_version_or_of_ones_own(tmp_path):
    usual = yaml.safe_load((ROOT / "manifests/base/sla-params.yaml").read_text())["data"]["runbook"]
    assert usual.endswith(f"/blob/v{sla_planner.__version__}/{COMPONENT.relative_to(ROOT)}/RUNBOOK.md")
    rule = of_kind(overlay(tmp_path, "monitoring", params={"runbook": "https://wiki.example.com/planner"}), "PrometheusRule")["planner"]
    found = {each["alert"]: each["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each}
    assert found == {name: f"https://wiki.example.com/planner#{name.lower()}" for name in ALERTS}


def test_the_rules_have_the_shape_of_a_prometheus_rule():
    """As prometheus-operator's CRD has it: it refuses what it does not know."""
    for group in GROUPS:
        assert group.keys() == {"name", "rules"}
        for rule in group["rules"]:
            kinds = {"record": {"record", "expr"}, "alert": {"alert", "expr", "for", "labels", "annotations"}}
            assert rule.keys() == kinds["record" if "record" in rule else "alert"]
            assert all(isinstance(text, str) for part in ("labels", "annotations") for text in rule.get(part, {}).values())


# ---- alerts -------------------------------------------------------------------------------------------------------------------------------


@ALERT_NAMES
def test_an_alert_says_how_bad_it_is_and_what_to_do(name):
    rule = ALERTS[name]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"RUNBOOK.md#{name.lower()}"
    assert "$labels.namespace" in rule["annotations"]["summary"]


@ALERT_NAMES
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(name):
    expected = [case["exp_alerts"] for test in CASES for case in test["alert_rule_test"] if case["alertname"] == name]
    assert any(expected)
    assert not all(expected)


def test_no_case_is_of_an_alert_that_is_not_there():
    assert {case["alertname"] for test in CASES for case in test["alert_rule_test"]} == ALERTS.keys()


@pytest.mark.parametrize("expr", [rule["expr"] for rule in RULES] + QUERIES)
def test_what_is_asked_for_is_exported(expr):
    assert set(re.findall(r"(?<!:)\bslaplanner_\w+", expr)) <= exported()  # after a colon: what a rule records
    values = {label: {each for found in re.findall(rf'\b{label}!?=~?"([^"]+)"', expr) for each in found.split("|")} for label in KNOWN}
    assert all(values[label] <= KNOWN[label] for label in KNOWN)


KNOWN = {
    "reason": {each.value for each in Reason},
    "outcome": {*(each.value for each in Carried), "unknown", "standby"},
    "role": {each.value for each in Role},
    "state": {"ready", "starting", "unschedulable"},
    "promise": {"ttft", "itl"},
}


# ---- the runbook --------------------------------------------------------------------------------------------------------------------------


def test_the_runbook_has_a_section_per_alert_and_the_reasons():
    assert SECTIONS.keys() == {*ALERTS, "Reasons"}
    for name in ALERTS:
        assert re.findall(r"^\*\*(\w+)\.\*\*", SECTIONS[name], re.MULTILINE) == ["Means", "See", "Do"]
    assert re.findall(r"^\| `([\w-]+)` \|", SECTIONS["Reasons"], re.MULTILINE) == [each.value for each in Reason]


def test_links_in_the_runbook_lead_somewhere():
    titles = set()
    for text in (RUNBOOK, (ROOT / "manifests/README.md").read_text()):
        titles |= {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK):
        file, _, anchor = target.partition("#")
        assert (COMPONENT / file).resolve().exists(), target
        assert not anchor or anchor in titles, target


def test_panels_that_the_runbook_names_exist():
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", RUNBOOK))
    assert len(named) >= 6
    assert named <= {panel["title"].removesuffix(", tokens") for panel in PANELS}


def commands():
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```$", RUNBOOK, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    return sorted(set(lines))


@pytest.mark.parametrize("line", commands())
def test_commands_are_real(line):
    """kubectl knows command and flags; what they name is installed."""
    words = shlex.split(line)
    if words[0] == "curl":
        assert words[1:] == ["http://localhost:8000/metrics"]  # of the port-forward before it
        return
    assert words.pop(0) == "kubectl"
    done = subprocess.run([KUBECTL, *words, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert words[0] in done.stdout  # not the help of kubectl itself
    assert words[words.index("-n") + 1] == "llm" if "-n" in words else words == ["describe", "nodes"]
    installed = {(each["kind"].lower(), each["metadata"]["name"]) for folder in OVERLAYS for each in build(folder)}
    pairs = itertools.pairwise(words[1:]) if words[0] != "create" else []
    named = [tuple(pair) for pair in pairs if pair[0] in ("deployment", "podmonitor", "configmap")]
    named += [found.groups() for word in words if (found := re.fullmatch(r"(?:--from=)?(deployment|service|cronjob)/([\w-]+)", word))]
    assert set(named) <= installed | {("configmap", "planner-profile-data")}  # the sweep writes that one


def test_pods_are_found_by_the_labels_that_commands_select_by():
    (selector,) = set(re.findall(r" -l (\S+)", RUNBOOK))
    labels = of_kind(build(ROOT / "manifests/overlays/dynamo"), "Deployment")["planner"]["spec"]["template"]["metadata"]["labels"]
    assert dict(pair.split("=") for pair in selector.split(",")).items() <= labels.items()


# ---- the dashboard ------------------------------------------------------------------------------------------------------------------------


def test_the_dashboard_can_be_applied_alone():
    kubernetes_validate.validate(DASHBOARD_MAP, "1.36", strict=True)
    assert DASHBOARD_MAP["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert "namespace" not in DASHBOARD_MAP["metadata"]


def test_panels_lie_side_by_side():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)  # no holes
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("panel", [pytest.param(panel, id=panel["title"]) for panel in PANELS])
def test_a_panel_can_be_read(panel):
    assert len(panel["title"]) <= 45
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [query["legendFormat"] for query in panel["targets"]]
    assert all(0 < len(name) <= 22 for name in names)
    assert len(set(names)) == len(names)
    assert [query["refId"] for query in panel["targets"]] == [chr(ord("A") + index) for index in range(len(names))]
    defaults = panel["fieldConfig"]["defaults"]
    if panel["type"] in ("stat", "timeseries"):
        assert defaults["unit"] in ("percentunit", "none", "short", "s", "ms", "reqps")
    if panel["type"] == "timeseries":
        assert defaults.get("min") == 0 or panel["title"] in ("Share inside the promise", "GPU-hours since the planner's memory began")
    for each in panel["fieldConfig"]["overrides"]:
        assert each["matcher"]["id"] != "byName" or each["matcher"]["options"] in names


def test_namespace_and_target_are_chosen_at_the_top():
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "namespace", "target"]
    for query in (query["expr"] for panel in PANELS if panel["type"] != "table" for query in panel["targets"]):
        assert query.count("slaplanner_") == query.count('{namespace="$namespace", target="$target"')
    (table,) = (panel for panel in PANELS if panel["type"] == "table")
    assert all('namespace="$namespace"' in query["expr"] and "$target" not in query["expr"] for query in table["targets"])


def test_everything_that_is_exported_is_on_the_dashboard():
    shown = set(re.findall(r"slaplanner_\w+", json.dumps([panel["targets"] for panel in PANELS])))
    assert shown == {name for name in exported() if name.startswith("slaplanner_")}


# ---- with the real programs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rules_file(tmp_path_factory):
    """The groups of the PrometheusRule, as Prometheus Operator hands them to Prometheus, beside the cases."""
    folder = tmp_path_factory.mktemp("rules")
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": GROUPS}))
    (folder / "alerts.yaml").write_text((ROOT / "tests/manifests/monitoring/alerts.yaml").read_text())
    return folder / "rules.yaml"


@pytest.mark.e2e
def test_promtool_takes_the_rules(rules_file):
    done = subprocess.run([program("promtool"), "check", "rules", rules_file], capture_output=True, text=True, check=False)
    assert (done.returncode, f"{len(RULES)} rules found" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.e2e
def test_alerts_fire_when_they_should_and_only_then(rules_file):
    done = subprocess.run([program("promtool"), "test", "rules", rules_file.with_name("alerts.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def watched(rules_file, tmp_path_factory):
    """The URL of a Prometheus that scrapes, with a PodMonitor's labels, a planner that reads growing traffic and scales simulated engines."""
    folder = tmp_path_factory.mktemp("watched")
    fleet = folder / "fleet.json"
    Handler.traffic.change({"rps": 20.0})
    page = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=page.serve_forever, args=(0.05,), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    labels = {"namespace": "llm", "pod": "planner-0", "container": "planner", "endpoint": "metrics"}
    scraped = {"job_name": "llm/planner", "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": labels}]}
    try:
        with started_processes() as begin, prometheus_server(folder, [scraped], [rules_file]) as url:
            engine_url(begin, "--virtual-target", f"file:{fleet}")
            flags = [
                "--name",
                "chat",
                "--adjustment-interval",
                0.5,
                "--startup-s",
                1,
                "--scrape-url",
                f"http://127.0.0.1:{page.server_address[1]}/metrics",
            ]
            planner = begin("planner", *flags, "--virtual-target", f"file:{fleet}", "--prometheus-port", port, *PROFILE)
            planner.line("Predicted load")
            wait_for(lambda: len(answer(url, "count_over_time(slaplanner_predicted_load[10s]) > 4")) == 2, "five scrapes of the planner")
            yield url
    finally:
        page.shutdown()
        page.server_close()


def answer(url, query):
    """The rows of an instant query, which must be a valid one."""
    found = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=5).json()
    assert found["status"] == "success", (query, found)
    return found["data"]["result"]


def chosen(expr):
    """As Grafana fills in what was chosen."""
    for name, value in (("$namespace", "llm"), ("$target", "chat"), ("$__range", "10s"), ("$__rate_interval", "10s")):
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


@pytest.mark.e2e
@pytest.mark.parametrize("expr", QUERIES)
def test_every_query_of_the_dashboard_returns_data(watched, expr):
    rows = answer(watched, chosen(expr))
    assert rows
    assert all(math.isfinite(float(row["value"][1])) for row in rows)


@pytest.mark.e2e
@pytest.mark.parametrize("variable", DASHBOARD["templating"]["list"][1:], ids=lambda each: each["name"])
def test_the_drop_downs_are_filled(watched, variable):
    series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
    found = requests.get(f"{watched}/api/v1/label/{label}/values", params={"match[]": chosen(series)}, timeout=5).json()
    assert found["data"] == [{"namespace": "llm", "target": "chat"}[label]]


@pytest.mark.e2e
def test_prometheus_evaluates_every_rule_and_a_healthy_planner_raises_no_alert(watched):
    def rules():
        groups = requests.get(f"{watched}/api/v1/rules", timeout=5).json()["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    assert rules().keys() == {rule.get("alert") or rule["record"] for rule in RULES}
    wait_for(lambda: {rule["health"] for rule in rules().values()} == {"ok"}, "every rule to be evaluated")
    wait_for(lambda: {rules()[name]["state"] for name in ALERTS} == {"inactive"}, "a fleet that has settled")  # none is even pending
