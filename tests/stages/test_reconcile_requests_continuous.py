"""The reconciler that runs on: it sees changes as they happen, side by side, under a Lease, and ends at a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, REQUESTS, place

from sla_planner.cluster.lease import Leadership
from sla_planner.requests_config import RequestsConfig
from sla_planner.stages.reconcile_requests_agenda import Agenda
from sla_planner.stages.reconcile_requests_health import Health
from sla_planner.stages.reconcile_requests_one import open_reconciler
from sla_planner.stages.reconcile_requests_run import Loop

NEVER_S = 3600.0  # what is seen before then was seen by a watch


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def loop(here):
    made = Loop(open_reconciler(RequestsConfig()), None, NEVER_S)
    made.start()
    yield made
    assert made.end() == 0


def reaches(here, state, name="chat"):
    def met():
        found = here.cluster.objects.get((REQUESTS, "here", name), {})
        status = found.get("status") or {}
        return f"{status.get('state')}/{status.get('phase')}" == state

    assert here.cluster.wait(met), f"{name} is {here.state(name)}, not {state}"


class TestLoop:
    def test_it_follows_a_request_from_its_creation_to_a_deployment_that_serves_and_after(self, here, loop):
        here.request()
        reaches(here, "Profiling/Profiling")
        here.profiled()
        assert here.cluster.wait(lambda: (GRAPHS, "here", "chat") in here.cluster.objects)
        here.operator_says("successful")
        reaches(here, "Ready/Deployed")
        here.cluster.drop(GRAPHS, "chat")
        reaches(here, "DeploymentDeleted/Failed")
        assert loop.unready() == loop.unhealthy() == ""

    def test_one_that_hangs_delays_no_other(self, here, monkeypatch):
        reconciler = open_reconciler(RequestsConfig())
        look, hangs, go_on = reconciler._look, threading.Event(), threading.Event()

        def hang(name):
            if name == "stuck":
                hangs.set()
                go_on.wait(60)
            return look(name)

        monkeypatch.setattr(type(reconciler), "_look", lambda _self, name: hang(name))
        here.request("stuck")
        loop = Loop(reconciler, None, NEVER_S)
        loop.start()
        try:
            assert hangs.wait(20)
            here.request("quick")
            reaches(here, "Profiling/Profiling", "quick")
            assert here.status("stuck") == {}
        finally:
            go_on.set()
            loop.end()

    def test_requests_that_cannot_be_listed_for_a_while(self, here, monkeypatch):
        monkeypatch.setattr("sla_planner.stages.reconcile_requests_run.RETRY_S", 0.05)
        here.cluster.deny("list", REQUESTS)
        here.cluster.deny("watch", REQUESTS)
        here.request()
        loop = Loop(open_reconciler(RequestsConfig()), None, NEVER_S)
        loop.start()
        try:
            assert until(lambda: "may not list" in loop.unready())
            here.cluster.denied.clear()
            reaches(here, "Profiling/Profiling")
        finally:
            loop.end()

    def test_without_the_right_to_watch_it_looks_every_so_often(self, here):
        for resource in (REQUESTS, JOBS, GRAPHS):
            here.cluster.deny("watch", resource)
        loop = Loop(open_reconciler(RequestsConfig()), None, 0.2)
        loop.start()
        try:
            here.request()
            reaches(here, "Profiling/Profiling")
        finally:
            loop.end()

    def test_of_two_one_acts_and_the_other_takes_over_at_once(self, here):
        def made(name):
            reconciler = open_reconciler(RequestsConfig())
            return Loop(reconciler, Leadership(reconciler.api, "one-acts", stage="reconcile-requests", identity=name), NEVER_S)

        first, second = made("first"), made("second")
        first.start()
        second.start()
        try:
            assert until(lambda: first.lease.held)
            here.request("one")
            reaches(here, "Profiling/Profiling", "one")
            assert not second.lease.held
            first.end()
            here.request("two")
            reaches(here, "Profiling/Profiling", "two")
        finally:
            first.end()
            second.end()
        lease = here.found("leases", "one-acts")
        assert lease["metadata"]["labels"]["app.kubernetes.io/component"] == "reconcile-requests"
        assert sum(call.verb == "create" and call.resource == JOBS for call in here.cluster.calls) == 2


def until(met, timeout_s=20.0) -> bool:
    give_up_s = time.monotonic() + timeout_s
    while not met() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return bool(met())


def test_the_process_ends_at_sigterm_and_gives_its_lease_back(here):
    here.request()
    command = [sys.executable, "-m", "sla_planner", "reconcile-requests", "--lease", "one-acts", "--log-format", "human"]
    process = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True)
    try:
        assert here.cluster.wait(lambda: (JOBS, "here", "profile-chat") in here.cluster.objects, 60)
        reaches(here, "Profiling/Profiling")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.splitlines()[-1].endswith("Stopped")
    assert here.found("leases", "one-acts")["spec"]["holderIdentity"] == ""
    assert here.cluster.names(MAPS) == ["dgdr-output-chat", "planner-profile-data-chat"]


class TestAgenda:
    def test_the_sooner_of_two_times_counts_and_a_name_is_out_once(self):
        now = [0.0]
        agenda = Agenda(lambda: now[0])
        agenda.add("a", 10.0)
        agenda.add("a", 5.0)
        agenda.add("a", 20.0)
        agenda.add("b", 6.0)
        now[0] = 7.0
        assert agenda.take() == "a"
        agenda.add("a")  # it changed while it was looked at
        assert agenda.take() == "b"
        agenda.done("b", None)
        agenda.done("a", 100.0)
        assert agenda.take() == "a"

    def test_who_waits_is_woken_by_what_is_added_and_by_the_end(self):
        agenda, got = Agenda(), []
        waiter = threading.Thread(target=lambda: got.extend([agenda.take(), agenda.take()]))
        waiter.start()
        agenda.add("a")
        assert until(lambda: agenda._busy == {"a"})
        agenda.stop()
        waiter.join(20)
        assert got == ["a", None]


def test_health_says_why_not():
    trouble = ["not listed"]
    health = Health(0, lambda: "", lambda: trouble[0], host="127.0.0.1")
    try:
        url = f"http://127.0.0.1:{health.port}"
        assert urllib.request.urlopen(f"{url}/healthz").read() == b"ok\n"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/readyz")
        assert (refused.value.code, refused.value.read()) == (503, b"not listed\n")
        trouble[0] = ""
        assert urllib.request.urlopen(f"{url}/readyz").read() == b"ok\n"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/metrics")
    finally:
        health.close()
