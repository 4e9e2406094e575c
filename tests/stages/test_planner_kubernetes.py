"""The planner on a Kubernetes API: once and for ever alike, killed, refused, paused, crowded. Real HTTP, a clock of the test's own."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from tests.cluster.api_stand_in import api_stand_in
from tests.cluster.scaled import deployment, graph, of_service, pods_of
from tests.stages.frontend_page import INTERVAL_S, RESTARTED, SCRIPT, START_S, frontend

from sla_planner.cli import run
from sla_planner.cluster.api import KubernetesApi
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError
from sla_planner.plan.decision import Reason
from sla_planner.plan.record import Carried
from sla_planner.planner_config import TargetConfig
from sla_planner.stages import planner_kubernetes
from sla_planner.stages.planner_kubernetes import open_state_config_map
from sla_planner.stages.planner_open import open_target
from sla_planner.stages.planner_target import NO_OPERATION
from sla_planner.store.profile_files import sample_profile_dir

STATE = "sla-planner-status"
PAUSED = {"slaplanner.io/paused": "true"}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two Deployments of one replica each, in a cluster that the kubeconfig names."""
    with api_stand_in() as stand_in:
        config = tmp_path / "kubeconfig"
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "here"}}],
                    "clusters": [{"name": "test", "cluster": {"server": stand_in.url}}],
                    "users": [{"name": "test", "user": {"token": "secret"}}],
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", str(config))
        monkeypatch.setattr("sla_planner.cluster.api.PATIENCE_S", 0.0)
        monkeypatch.setattr(planner_kubernetes, "_connected", lambda namespace: stand_in.api(namespace or "here"))
        for name in ("prefill", "decode"):
            stand_in.put(deployment(name))
        yield stand_in


def opened(page, name="default", *, roles=("prefill", "decode"), acts=True, state=True, **settings):
    fields = {"adjustment_interval": INTERVAL_S, "startup_s": 30.0, "profile_results_dir": Path(sample_profile_dir())}
    if "graph_deployment" not in settings:
        fields |= {"prefill_target": f"deployment/{roles[0]}", "decode_target": f"deployment/{roles[1]}"}
    config = TargetConfig(name=name, scrape_url=(page.url,), environment="kubernetes", **{**fields, **settings})
    store = open_state_config_map(STATE, name) if state else None
    return open_target(config, store=store, standing=lambda: "" if acts else NO_OPERATION)


def asked(cluster, roles=("prefill", "decode")):
    return tuple(cluster.get("deployments", name)["spec"]["replicas"] for name in roles)


def obeyed(cluster, roles=("prefill", "decode")):
    """Every worker that is asked for is ready."""
    for name in roles:
        pods_of(cluster, {"app": name}, cluster.get("deployments", name)["spec"]["replicas"])


def scale(cluster, name, count, manager="kubectl"):
    cluster.change("deployments", name, lambda found: found["spec"].update(replicas=count), manager=manager)


def busy(page, target, cluster, ticks=4, start=0):
    """Some intervals of load that needs several workers."""
    for index in range(start, start + ticks):
        page.text = frontend(700 * index, 700 * index)
        tick = target.tick(START_S + index * INTERVAL_S)
        obeyed(cluster)
    return tick


def status(cluster, name="default"):
    return json.loads(cluster.get("configmaps", STATE)["data"][f"{name}.status.json"])


def condition(cluster, kind):
    found = next(each for each in status(cluster)["conditions"] if each["type"] == kind)
    return found["status"], found["reason"]


def reasons(cluster):
    return {cluster.get("events", name)["reason"] for name in cluster.names("events")}


class TestOnceIsTheLoop:
    def test_a_planner_started_for_every_tick_decides_as_one_that_runs_on(self, cluster, page):
        """Also while somebody scales the target, pauses it, or takes its room away."""
        pairs = {"lasting": ("p-lasting", "d-lasting"), "anew": ("p-anew", "d-anew")}
        for roles in pairs.values():
            for name in roles:
                cluster.put(deployment(name))
        limits = {"grace_s": 20.0, "unschedulable_limit_s": 40.0}
        lasting = opened(page, "lasting", roles=pairs["lasting"], **limits)
        seen, carried, requests = set(), set(), 0
        for index, (arrived, ttft_s, served) in enumerate(SCRIPT):
            requests = arrived if index == RESTARTED else requests + arrived
            page.status, page.text = served, frontend(requests, requests - requests // 50, ttft_s)
            for roles in pairs.values():
                if index == 7:
                    scale(cluster, roles[0], 1)
                if index in (16, 18):
                    annotations = PAUSED if index == 16 else {}
                    cluster.change("deployments", roles[1], lambda found, these=annotations: found["metadata"].update(annotations=these))
            now_s = START_S + index * INTERVAL_S + index % 3 * 0.4
            tick = lasting.tick(now_s)
            anew = opened(page, "anew", roles=pairs["anew"], **limits).tick(now_s)
            assert (anew.observation, anew.decision, anew.carried) == (tick.observation, tick.decision, tick.carried)
            assert asked(cluster, pairs["anew"]) == asked(cluster, pairs["lasting"])
            seen.add((tick.decision.prefill.desired, tick.decision.decode.desired))
            carried.add(tick.carried)
            for roles in pairs.values():
                for name, count in zip(roles, asked(cluster, roles), strict=True):
                    pods_of(cluster, {"app": name}, min(count, 4), unplaced=max(count - 4, 0))
        assert len(seen) > 3
        assert carried == {Carried.APPLIED, Carried.NOTHING, Carried.CONTENDED, Carried.PAUSED}
        assert [(c["type"], c["status"]) for c in status(cluster, "anew")["conditions"]] == [
            (c["type"], c["status"]) for c in status(cluster, "lasting")["conditions"]
        ]


class Killed(BaseException):
    """As SIGKILL: nothing of the planner gets to know of it."""


class TestKilled:
    def once(self, page, index, **settings):
        many = 500 if index else 0  # in decode batches: several workers of both roles are needed
        page.text = re.sub("(queued_requests) .*", r"\1 0", frontend(900 * index + many, 900 * index, osl=500))
        return opened(page, **settings).tick(START_S + index * INTERVAL_S)

    @pytest.mark.parametrize("form", ["pair", "graph"])
    @pytest.mark.parametrize("after", [False, True], ids=["before a call", "after a call"])
    def test_at_any_stage_of_a_tick_nothing_is_applied_twice_or_half_remembered(self, cluster, page, caplog, monkeypatch, form, after):
        """Of every call that a tick makes: killed there, and started again for the next interval."""
        settings = {"graph_deployment": "chat"} if form == "graph" else {}
        call_api, calls = KubernetesApi._answer, [0]
        kill_at = 0

        def answer(api, *args, **more):
            calls[0] += 1
            if calls[0] == kill_at and not after:
                raise Killed
            response = call_api(api, *args, **more)
            if calls[0] == kill_at:
                raise Killed
            return response

        monkeypatch.setattr(KubernetesApi, "_answer", answer)
        caplog.set_level(logging.WARNING)
        ended = []
        while True:
            cluster.objects.clear()
            cluster.calls.clear()
            for name in ("prefill", "decode"):
                cluster.put(deployment(name))
            cluster.put(graph(prefill=1, decode=1))
            kill_at = 0
            self.once(page, 0, **settings)
            kill_at, calls[0] = len(ended) + 1, 0
            try:
                self.once(page, 1, **settings)
            except Killed:
                pass
            else:
                break  # there was no such call
            kill_at = 0
            again = self.once(page, 2, **settings)
            ended.append((again.decision.prefill.desired, again.decision.decode.desired))
            counts = self.counts(cluster, form)
            assert counts == ended[-1], f"killed at call {len(ended)}"
            assert again.carried in (Carried.APPLIED, Carried.NOTHING)
            self.check_writes(cluster)
        assert len(ended) == {"pair": 12, "graph": 8}[form]
        assert min(min(counts) for counts in ended) > 1, "else there is no half decision"
        assert "afresh" not in caplog.text
        assert "Hands off" not in caplog.text

    def counts(self, cluster, form):
        if form == "pair":
            return asked(cluster)
        return tuple(each["replicas"] for each in cluster.get("dynamographdeployments", "chat")["spec"]["components"][1:])

    def check_writes(self, cluster):
        """No count is written that was there already."""
        last = {"prefill": 1, "decode": 1}
        for call in cluster.writes():
            if call.resource == "deployments/scale":
                assert call.body["spec"]["replicas"] != last[call.name]
                last[call.name] = call.body["spec"]["replicas"]
            if call.resource == "dynamographdeployments":
                tests = {step["path"]: step["value"] for step in call.body if step["op"] == "test"}
                assert all(tests[step["path"]] != step["value"] for step in call.body if step["op"] != "test")

    def test_a_tick_needs_few_calls(self, cluster, page):
        target = opened(page)
        target.tick(START_S)
        cluster.calls.clear()
        page.text = frontend(900, 900)
        assert target.tick(START_S + INTERVAL_S).carried is Carried.APPLIED
        by_verb = {verb: sum(call.verb == verb for call in cluster.calls) for verb in ("get", "list", "patch", "create")}
        assert by_verb == {"get": 4, "list": 2, "patch": 2, "create": 2}  # both scales and objects; pods; a scale and the memory; Events


class TestRefused:
    @pytest.mark.parametrize(
        ("verb", "resource"),
        [("get", "deployments"), ("get", "deployments/scale"), ("patch", "deployments/scale"), ("list", "pods")],
    )
    def test_a_missing_right_is_one_line_in_every_interval_and_nothing_else_breaks(self, cluster, page, caplog, verb, resource):
        caplog.set_level(logging.INFO)
        target = opened(page)
        busy(page, target, cluster, 2)
        before = asked(cluster)
        cluster.deny(verb, resource)
        for index in (2, 3):
            caplog.clear()
            page.text = frontend(700 * index + 4000, 700 * index + 4000)
            tick = target.tick(START_S + index * INTERVAL_S)
            lines = [line for line in caplog.messages if f"may not {verb} {resource} in namespace here; grant it in the Role" in line]
            assert len(lines) == 1
            assert isinstance(target.failure, ForbiddenError)
        assert asked(cluster) == before
        assert condition(cluster, "Ready") == ("False", "Forbidden")
        assert tick.carried is (Carried.FAILED if verb == "patch" else Carried.NOTHING)
        cluster.denied.clear()
        page.text = frontend(700 * 4 + 9000, 700 * 4 + 9000)
        assert target.tick(START_S + 4 * INTERVAL_S).carried is Carried.APPLIED
        assert condition(cluster, "Ready") == ("True", "Planning")

    def test_events_that_may_not_be_posted_are_said_once(self, cluster, page, caplog):
        cluster.deny("create", "events")
        tick = busy(page, opened(page), cluster, 4)
        assert tick.carried in (Carried.APPLIED, Carried.NOTHING)
        assert sum("Events cannot be posted: " in line and "may not create events" in line for line in caplog.messages) == 1
        assert asked(cluster) > (1, 1)

    def test_a_memory_that_may_not_be_read_is_not_overwritten(self, cluster, page, caplog):
        busy(page, opened(page), cluster)
        before = cluster.get("configmaps", STATE)
        cluster.deny("get", "configmaps")
        caplog.clear()
        target = opened(page)
        busy(page, target, cluster, 2, start=4)
        assert sum("The state could not be read: " in line and "may not get configmaps" in line for line in caplog.messages) == 3  # and at the start
        assert cluster.get("configmaps", STATE) == before
        cluster.denied.clear()
        busy(page, target, cluster, 1, start=6)
        assert target.state.gpu_seconds > json.loads(before["data"]["default.state.json"])["plan"]["gpu_seconds"] > 0

    def test_an_api_server_that_is_gone_holds_everything(self, cluster, page, caplog):
        target = opened(page)
        busy(page, target, cluster)
        before = asked(cluster)
        cluster.fail(503, times=10_000)
        for index in (4, 5):
            page.text = frontend(0, 0)  # idle, as far as one can see
            tick = target.tick(START_S + index * INTERVAL_S)
            assert tick.carried is Carried.NOTHING
            assert isinstance(target.failure, UnreachableError)
        assert "Nothing decided: the number of workers is unknown" in target.words
        cluster.failures.clear()
        assert asked(cluster) == before
        assert busy(page, target, cluster, 1, start=6).carried in (Carried.APPLIED, Carried.NOTHING)

    def test_an_api_server_that_is_gone_at_the_start_is_waited_for(self, cluster, page):
        busy(page, opened(page), cluster)
        before = cluster.get("configmaps", STATE)
        cluster.fail(503, times=10_000)
        target = opened(page)
        busy(page, target, cluster, 1, start=4)
        cluster.failures.clear()
        assert cluster.get("configmaps", STATE) == before
        assert busy(page, target, cluster, 1, start=5).observation.traffic.request_rate_rps.known
        assert target.state.gpu_seconds > json.loads(before["data"]["default.state.json"])["plan"]["gpu_seconds"]


class TestOthers:
    def test_somebody_elses_count_is_left_for_an_interval_and_then_decided_from(self, cluster, page, caplog):
        caplog.set_level(logging.INFO)
        target = opened(page)
        busy(page, target, cluster)
        wanted = asked(cluster)
        scale(cluster, "prefill", 1, manager="argocd-controller")
        tick = busy(page, target, cluster, 1, start=4)
        assert (tick.carried, asked(cluster)[0]) == (Carried.CONTENDED, 1)
        told = f"argocd-controller set prefill from {wanted[0]} to 1 in Deployment/prefill"
        assert target.words.startswith(f"Hands off for this interval: {told}; not asked for prefill=")
        assert condition(cluster, "Contended") == ("True", "ActuationConflict")
        assert "ActuationConflict" in reasons(cluster)
        tick = busy(page, target, cluster, 1, start=5)
        assert (tick.carried, asked(cluster)[0]) == (Carried.APPLIED, wanted[0])
        busy(page, target, cluster, 1, start=6)
        assert condition(cluster, "Contended") == ("False", "OnlyWriter")

    def test_a_paused_target_is_watched_and_said_and_taken_up_again(self, cluster, page, caplog):
        caplog.set_level(logging.INFO)
        target = opened(page)
        busy(page, target, cluster, 1)
        cluster.change("deployments", "decode", lambda found: found["metadata"].update(annotations=PAUSED))
        scale(cluster, "prefill", 2)  # as whoever paused it may
        for index in (1, 2, 3):
            caplog.clear()
            tick = busy(page, target, cluster, 1, start=index)
            assert (tick.carried, asked(cluster)) == (Carried.PAUSED, (2, 1))
            assert caplog.messages[-1].startswith("Hands off for this interval: Deployment/decode is annotated slaplanner.io/paused")
        assert tick.decision.prefill.desired > 2
        assert condition(cluster, "Paused") == ("True", "Annotated")
        cluster.change("deployments", "decode", lambda found: found["metadata"].update(annotations={}))
        tick = busy(page, target, cluster, 1, start=4)
        assert tick.carried is Carried.APPLIED
        assert asked(cluster)[0] > 2
        assert {"Paused", "Resumed"} <= reasons(cluster)

    def test_two_planners_of_one_target_do_not_overwrite_each_others_memory(self, cluster, page, caplog):
        one, other = opened(page), opened(page)
        busy(page, one, cluster, 2)
        other.tick(START_S + 40)
        assert "The state could not be saved: another planner writes the state in configmap sla-planner-status" in caplog.text
        other.tick(START_S + 50)  # having read what the first one wrote
        assert caplog.text.count("could not be saved") == 1

    def test_no_operation_writes_nothing_but_its_memory(self, cluster, page):
        target = opened(page, acts=False)
        tick = busy(page, target, cluster)
        assert tick.carried is Carried.ADVISORY
        assert {call.resource for call in cluster.writes()} == {"configmaps"}


class TestRoom:
    def test_what_has_no_place_is_reported_given_back_and_nothing_else_waits(self, cluster, page, caplog):
        caplog.set_level(logging.INFO)
        target = opened(page, unschedulable_limit_s=30.0, grace_s=0.0)
        busy(page, target, cluster, 2)
        wanted = asked(cluster)
        assert wanted[0] > 2
        for index in (2, 3):
            pods_of(cluster, {"app": "prefill"}, 2, unplaced=wanted[0] - 2)
            page.text = frontend(700 * index, 700 * index)
            tick = target.tick(START_S + index * INTERVAL_S)
        assert asked(cluster)[0] >= wanted[0]
        assert condition(cluster, "Schedulable") == ("False", "Unschedulable")
        assert "Unschedulable" in reasons(cluster)
        assert "Workers cannot be placed: prefill: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu." in caplog.messages
        pods_of(cluster, {"app": "prefill"}, 2, unplaced=asked(cluster)[0] - 2)
        page.text = frontend(2800, 2800)
        tick = target.tick(START_S + 4 * INTERVAL_S)
        assert tick.decision.prefill.reason is Reason.NO_ROOM
        assert asked(cluster)[0] == 2
        pods_of(cluster, {"app": "prefill"}, 2)
        busy(page, target, cluster, 1, start=5)
        assert condition(cluster, "Schedulable") == ("False", "GivenBack")
        for index in range(6, 40):
            page.text = frontend(3500, 3500)
            target.tick(START_S + index * INTERVAL_S)
            obeyed(cluster)
        assert asked(cluster) == (1, 1)

    def test_workers_that_do_not_start_are_told_in_the_kubelets_words(self, cluster, page, caplog):
        waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image x"}}}
        labels = {"app": "decode"}
        found = {"phase": "Pending", "containerStatuses": [{"name": "main", **waiting}]}
        cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "d-1", "labels": labels}, "status": found})
        opened(page).tick(START_S)
        assert "Workers do not start: decode: pod d-1: ImagePullBackOff: Back-off pulling image x" in caplog.messages
        assert condition(cluster, "Ready") == ("False", "WorkersNotStarting")

    def test_a_target_that_somebody_scaled_to_zero_is_brought_back(self, cluster, page):
        target = opened(page)
        busy(page, target, cluster, 1)
        for name in ("prefill", "decode"):
            scale(cluster, name, 0)
        obeyed(cluster)
        assert busy(page, target, cluster, 1, start=1).carried is Carried.CONTENDED
        assert busy(page, target, cluster, 1, start=2).carried is Carried.APPLIED
        assert min(asked(cluster)) >= 1


class TestGpusOfTheManifest:
    def test_they_are_counted_and_a_mismatch_is_one_line(self, cluster, page, caplog):
        cluster.put(graph(prefill=1, decode=1, gpus=4, nodes=2))
        target = opened(page, graph_deployment="chat", max_gpu_budget=32)
        tick = busy(page, target, cluster, 4)
        line = "a prefill worker has 8 GPUs in its manifest, 1 in the profile: 8 are counted; was this engine profiled?"
        assert caplog.messages.count(line) == 1
        assert (tick.decision.prefill.desired + tick.decision.decode.desired) * 8 <= 32
        for service in ("prefill-worker", "decode-worker"):
            pods_of(cluster, of_service(service), 1)
        assert opened(page, graph_deployment="chat").basis.settings.prefill.gpus_per_worker == 8, "the memory knows before the first look"

    def test_the_flag_wins(self, cluster, page, caplog):
        cluster.put(deployment("prefill", gpus=4))
        target = opened(page, prefill_engine_num_gpu=2)
        target.tick(START_S)
        assert target.basis.settings.prefill.gpus_per_worker == 2
        assert "a prefill worker has 4 GPUs in its manifest, --prefill-engine-num-gpu says 2: 2 are counted" in caplog.messages

    def test_a_budget_that_does_not_hold_them_is_told_in_every_interval(self, cluster, page):
        cluster.put(deployment("prefill", gpus=8))
        target = opened(page, max_gpu_budget=4)
        for index in range(2):
            with pytest.raises(UsageError, match="a budget of 4 GPUs does not hold the smallest fleet"):
                target.tick(START_S + index * INTERVAL_S)

    def test_workers_of_another_size_start_a_new_memory(self, cluster, page, caplog):
        target = opened(page)
        busy(page, target, cluster)
        cluster.change("deployments", "decode", lambda found: found["spec"].update(deployment("decode", 1, gpus=2)["spec"]), manager="sla-planner")
        busy(page, target, cluster, 1, start=4)
        assert "workers have another number of GPUs now: starting afresh" in caplog.messages
        assert target.basis.settings.decode.gpus_per_worker == 2


class TestOnceAsAJob:
    @pytest.fixture
    def job(self, cluster, page, tmp_path, monkeypatch, capsys):
        """Exit code and the word that is left, of one run."""
        word = tmp_path / "termination-log"
        monkeypatch.setenv("TERMINATION_LOG", str(word))
        flags = [
            "--environment",
            "kubernetes",
            "--scrape-url",
            page.url,
            "--profile-results-dir",
            str(sample_profile_dir()),
            "--once",
            "--state",
            f"configmap:{STATE}",
        ]

        def once(*more, scaled=("--prefill-target", "deployment/prefill", "--decode-target", "deployment/decode")):
            monkeypatch.setattr(logging.root, "handlers", [])
            monkeypatch.setattr(logging.root, "level", logging.root.level)
            word.write_text("")
            code = run(["planner", *flags, *scaled, *more])
            capsys.readouterr()
            return code, word.read_text()

        yield once
        logging.captureWarnings(False)

    def test_the_verdict_is_left_as_the_termination_message(self, cluster, page, job):
        page.text = frontend(0, 0)
        assert job() == (0, "Nothing decided, holding prefill=1, decode=1")
        assert job() == (0, "No scaling needed (prefill=1, decode=1)")

    def test_a_missing_right_is_exit_2_and_the_line_is_left(self, cluster, page, job):
        cluster.deny("list", "pods")
        code, word = job()
        assert code == 2
        assert word.startswith("system:serviceaccount:here:tester may not list pods in namespace here; grant it in the Role")

    @pytest.mark.parametrize("verb", ["get", "create"])
    def test_a_memory_that_cannot_be_kept_is_exit_2_although_the_decision_stands(self, cluster, page, job, verb):
        cluster.deny(verb, "configmaps")
        code, word = job("--min-endpoint", "2")
        assert (code, asked(cluster)) == (2, (2, 2))
        assert f"may not {verb} configmaps in namespace here" in word

    def test_an_api_server_that_is_gone_is_exit_4(self, cluster, page, job):
        cluster.fail(503, times=10_000)
        code, word = job()
        assert code == 4
        assert "answers HTTP 503" in word

    def test_a_graph_without_roles_is_exit_2(self, cluster, page, job):
        found = graph()
        found["spec"]["components"].pop()
        cluster.put(found)
        code, word = job(scaled=("--graph-deployment", "chat"))
        assert code == 2
        assert word.startswith("the graph has one service of workers, prefill-worker: ")
