"""The reconciler is killed before every API call in turn; the next one goes on, and nobody can tell afterwards."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, once, place

from sla_planner.cluster.api import KubernetesApi
from sla_planner.requests_config import RequestsConfig
from sla_planner.stages.reconcile_requests_one import open_reconciler
from sla_planner.stages.reconcile_requests_run import _settled


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        yield found


class Killed(BaseException):
    """As SIGKILL: nothing of the reconciler gets to know of it."""


class TestKilled:
    @pytest.mark.parametrize(
        ("phase", "namespace"),
        [("profiling begins", "here"), ("profile there", "here"), ("serves", "here"), ("profile there", "there")],  # where the deployment goes
    )
    def test_between_any_two_calls_the_next_one_goes_on(self, here, monkeypatch, phase, namespace):
        """Killed before every call in turn: the same objects, the same status, the same Events as if nobody had been."""
        call_api, calls, kill_at = KubernetesApi._answer, [0], [-1]

        def answer(api, *args, **more):
            calls[0] += 1
            if calls[0] == kill_at[0]:
                raise Killed
            return call_api(api, *args, **more)

        here.open_namespace("there")
        here.request(deploymentOverrides={"namespace": namespace})
        serves = partial(here.operator_says, "successful", namespace=namespace)
        for name, change in {"profiling begins": None, "profile there": here.profiled, "serves": serves}.items():
            if change is not None:
                once()
                change()
            if name == phase:
                break
        start = copy.deepcopy(here.cluster.objects)
        monkeypatch.setattr(KubernetesApi, "_answer", answer)
        settle()
        expected, last = self.story(here), calls[0]
        for kill in range(1, last + 1):
            here.cluster.objects = copy.deepcopy(start)
            calls[0], kill_at[0] = 0, kill
            with pytest.raises(Killed):
                settle()
            settle()
            assert self.story(here) == expected, f"killed at call {kill}"
        assert last > 20

    def story(self, here):
        names = {(plural, where): here.cluster.names(plural, namespace=where) for plural in (JOBS, MAPS, GRAPHS) for where in ("here", "there")}
        maps = [here.found(MAPS, name, namespace=where) for where in ("here", "there") for name in names[MAPS, where]]
        data = [(found["data"], [owner["kind"] for owner in found["metadata"]["ownerReferences"]]) for found in maps]
        status = {**here.status(), "conditions": [{**one, "lastTransitionTime": ""} for one in here.status()["conditions"]]}
        return names, data, status, sorted(here.found("events", name)["reason"] for name in here.cluster.names("events"))


class TestLate:
    """Two reconcilers, one of which is slow: it looked before the other acted."""

    def test_what_profiling_began_with_is_not_replaced(self, here):
        here.request()
        others_turn = [True]

        def other_acts(call):
            if (call.verb, call.resource) == ("create", MAPS) and others_turn:
                others_turn.clear()
                here.edit(model="another/model")
                settle()

        here.cluster.failures.append(other_acts)
        settle()
        frozen = json.loads(here.found(MAPS, "dgdr-output-chat")["data"]["spec.json"])
        assert frozen["model"] == "another/model"
        (container,) = here.found(JOBS, "profile-chat")["spec"]["template"]["spec"]["containers"]
        assert "another/model" in container["args"]
        assert here.state() == "Profiling/Profiling"

    def test_one_that_has_lost_its_turn_does_nothing_more(self, here):
        here.request()
        reconciler = open_reconciler(RequestsConfig())
        reconciler.standing = lambda: "lease one-acts is held by b" if here.cluster.names(MAPS) else ""
        assert reconciler.survey() == ["chat"]
        look = reconciler.look("chat")
        assert look.words == "left to another: lease one-acts is held by b"
        assert (here.cluster.names(MAPS), here.cluster.names(JOBS), here.status()) == (["dgdr-output-chat"], [], {})


def settle() -> None:
    """As --once does, in this thread, where a kill can be seen."""
    reconciler = open_reconciler(RequestsConfig())
    for name in reconciler.survey():
        _settled(reconciler, name)
