"""A small cluster in memory, and a reconciler that works on it the way that the stage does.

    World        requests, Jobs, ConfigMaps, deployments: create fails on what exists, a status write on an old version; who has no owner left goes
    Reconciler   looks, steps, carries out. Every call to the cluster is a place where it can be killed, or where another one comes in between

What the world does by itself (a Job that runs, a person who deletes) is called by the tests.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sla_planner.request import lifecycle
from sla_planner.request.actions import Action, CopyProfile, Deploy, Freeze, KeepProfile, Said, StartProfiling, StopProfiling, WriteOutput
from sla_planner.request.phases import Case, spec_in_force
from sla_planner.request.seen import CopySeen, GpusSeen, GraphSeen, JobSeen, JobState, ProfileSeen, Seen
from sla_planner.request.spec import About, Object, Request

from .plain import BASE_KEY, NAMESPACE, SETTINGS, SHARED_PROFILE, SPEC, SPEC_KEY, Making, job_name, output_name, profile_name, read


class Exists(Exception):
    pass


class Stale(Exception):
    pass


class Foreign(Exception):
    pass


class Refused(Exception):
    pass


@dataclass
class World:
    """`copies`: ConfigMaps in the namespace of deployments, where it is not that of the requests. `made`: how often an object was created.
    `hidden`: what may not be looked at. `refusing`: kinds that the API does not take, and why. `passed_s`: time that went by while nobody looked.
    """

    config_maps: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    graphs: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    no_rights_in: set[str] = field(default_factory=set)
    claims: set[str] = field(default_factory=lambda: {"artefacts"})
    graph_api: bool = True
    gpus: GpusSeen | None = field(default_factory=lambda: GpusSeen(largest_node=8, total=16))
    hidden: dict[str, str] = field(default_factory=dict)
    refusing: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, Said]] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    applied: Counter[str] = field(default_factory=Counter)
    passed_s: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.base()

    # what a person does

    def base(self, name: str = "dgd-base", key: str = BASE_KEY) -> None:
        self.config_maps[name] = {"metadata": {"name": name, "uid": self._uid()}, "data": {key: "kind: DynamoGraphDeployment"}}

    def apply(self, name: str = "x", **spec: Any) -> None:
        wanted = {**SPEC, **spec}
        if (found := self.requests.get(name)) is None:
            self.applied[name] += 1
            uid = f"{name}, number {self.applied[name]}"
            metadata = {"name": name, "namespace": NAMESPACE, "uid": uid, "generation": 1, "resourceVersion": self._uid()}
            self.requests[name] = {"metadata": metadata, "spec": wanted, "status": {}}
        elif found["spec"] != wanted:
            found["spec"] = wanted
            found["metadata"]["generation"] += 1
            found["metadata"]["resourceVersion"] = self._uid()

    def delete_request(self, name: str = "x") -> None:
        del self.requests[name]
        self._collect()

    def delete_graph(self, name: str = "x") -> None:
        del self.graphs[name]
        self._collect()

    def delete_job(self, name: str = "x") -> None:
        del self.jobs[job_name(name)]

    def somebodys_graph(self, name: str = "x") -> None:
        self.graphs[name] = {"metadata": {"name": name, "namespace": NAMESPACE, "uid": self._uid(), "annotations": {}}, "state": "successful"}

    def somebodys_copy(self, name: str = "x") -> None:
        self.copies[profile_name(name)] = {"metadata": {"name": profile_name(name), "uid": self._uid()}, "data": {"mine": "1"}}

    def delete_copy(self, name: str = "x") -> None:
        del self.copies[profile_name(name)]

    def apply_generated(self, name: str = "x") -> None:
        """As the quick start has it: what the status holds, by kubectl."""
        self.create(self.graphs, "graph", self.requests[name]["status"]["generatedDeployment"])

    # what the cluster does by itself

    def job(self, state: JobState, name: str = "x", **facts: Any) -> None:
        self.jobs[job_name(name)]["facts"] = {"state": state, **facts}

    def publish(self, name: str = "x", *, feasible: bool = True) -> None:
        found = self.config_maps[profile_name(name)]
        found["data"] = {"prefill_raw_data.json": "[1]", "decode_raw_data.json": "[2]"}
        found["feasible"] = feasible

    def profiled(self, name: str = "x") -> None:
        """The sweep ends well."""
        self.publish(name)
        self.job(JobState.SUCCEEDED, name, verdict="TTFT 200 ms and ITL 20 ms are kept by prefill on TP2 and decode on TP1", exit_code=0)

    def graph(self, name: str = "x", **facts: Any) -> None:
        self.graphs[name].update(facts)

    # the API

    def create(self, kind: dict[str, dict[str, Any]], what: str, body: Object) -> None:
        self._let_in(what)
        name = body["metadata"]["name"]
        if name in kind:
            raise Exists(f"{what} {name}")
        made = copy.deepcopy(dict(body))
        made["metadata"] = {**made["metadata"], "uid": self._uid()}
        kind[name] = made
        self.made[f"{what} {name}"] += 1

    def write(self, body: Object) -> None:
        """A ConfigMap is there with this data."""
        self._let_in("config map")
        name = body["metadata"]["name"]
        if name not in self.config_maps:
            self.create(self.config_maps, "config map", body)
        elif not _same_request(self.config_maps[name], body):
            raise Foreign(name)
        else:
            self.config_maps[name]["data"] = {**self.config_maps[name].get("data", {}), **body["data"]}

    def write_status(self, name: str, version: str, status: Mapping[str, Any]) -> None:
        found = self.requests.get(name)
        if found is None or found["metadata"]["resourceVersion"] != version:
            raise Stale(name)
        found["status"] = json.loads(json.dumps(status))
        found["metadata"]["resourceVersion"] = self._uid()

    def _let_in(self, what: str) -> None:
        if what in self.refusing:
            raise Refused(self.refusing[what])

    def _uid(self) -> str:
        return f"u{next(self._numbers)}"

    def _collect(self) -> None:
        """Garbage collection: who had owners and has none left goes. An owner in another namespace is none."""
        while True:
            here = {each["metadata"]["uid"] for kind in (self.requests, self.jobs, self.config_maps) for each in kind.values()}
            graphs = [each["metadata"] for each in self.graphs.values()]
            here |= {each["uid"] for each in graphs if each["namespace"] == NAMESPACE}
            there = {each["uid"] for each in graphs if each["namespace"] != NAMESPACE}
            gone = []
            for kind, alive in ((self.jobs, here), (self.config_maps, here), (self.copies, there)):
                for name, found in kind.items():
                    if (owners := found["metadata"].get("owners")) is not None:
                        found["metadata"]["owners"] = [each for each in owners if each in alive]
                        if not found["metadata"]["owners"]:
                            gone.append((kind, name))
            for kind, name in gone:
                del kind[name]
            if not gone:
                return

    # what tests ask

    def state(self, name: str = "x") -> tuple[str, str]:
        status = self.requests[name]["status"]
        return status.get("state", ""), status.get("phase", "")

    def condition(self, kind: str, name: str = "x") -> dict[str, str]:
        return next((each for each in self.requests[name]["status"].get("conditions", ()) if each["type"] == kind), {})

    def reasons(self, name: str = "x") -> list[str]:
        """Of the Events, in order."""
        return [said.reason for about, said in self.events if about == name]

    def said(self, reason: str, name: str = "x") -> str:
        """The text of the last Event of this reason."""
        return [said.message for about, said in self.events if about == name and said.reason == reason][-1]

    def picture(self) -> Any:
        """All that is there, without times, numbers and Events."""

        def bare(found: Mapping[str, Any]) -> Any:
            metadata = {key: value for key, value in found["metadata"].items() if key in ("name", "labels", "annotations", "generation")}
            owners = len(found["metadata"].get("owners", ()))
            rest = {key: value for key, value in found.items() if key != "metadata"}
            return {"metadata": metadata, "owners": owners, **rest}

        kinds = {"requests": self.requests, "jobs": self.jobs, "config maps": self.config_maps, "copies": self.copies, "graphs": self.graphs}
        whole = json.loads(json.dumps({kind: {name: bare(each) for name, each in found.items()} for kind, found in kinds.items()}, default=str))
        for found in whole["requests"].values():
            for condition in found["status"].get("conditions", ()):
                del condition["lastTransitionTime"]
        return whole


def _same_request(found: Object, wanted: Object) -> bool:
    uid = found["metadata"].get("request")
    return uid is not None and uid == wanted["metadata"].get("request")


@dataclass
class Reconciler:
    """`clock` gives RFC 3339. A pass is a generator: it yields before every call to the cluster, with the call in words."""

    world: World
    seconds: Iterator[int] = field(default_factory=lambda: itertools.count())

    def now(self) -> str:
        minutes, seconds = divmod(next(self.seconds) + self.world.passed_s, 60)
        return f"2026-01-01T{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}Z"

    def pass_over(self, name: str) -> Iterator[str]:
        """One look and what follows from it. The value that it returns: whether anything is left to be done (the generator's)."""
        looked = yield from self.look(name)
        if looked is None:
            return False
        case, version = looked
        step = lifecycle.step(case, self.now())
        try:
            for action in step.actions:
                try:
                    yield from self.carry_out(action)
                except Refused as error:
                    step = lifecycle.refused(case, action, str(error), self.now())
                    break
        except (Foreign, Stale):
            return True
        if step.status is not None:
            yield "status"
            try:
                self.world.write_status(name, version, step.status)
            except Stale:
                return True
            yield "events"
            self.world.events.extend((name, said) for said in step.events)
        return bool(step.actions) or step.status is not None

    def look(self, name: str) -> Iterator[str]:
        yield "request"
        found = copy.deepcopy(self.world.requests.get(name))
        if found is None:
            return None
        metadata, status = found["metadata"], found["status"]
        about = About(name, NAMESPACE, metadata["uid"], metadata["generation"], found["spec"])
        yield "config maps"
        held = {
            each["metadata"]["name"]: dict(each.get("data") or {})
            for each in self.world.config_maps.values()
            if each["metadata"].get("request") == about.uid
        }
        texts = held.get(output_name(name), {})
        frozen = json.loads(texts[SPEC_KEY]) if SPEC_KEY in texts and "frozen" not in self.world.hidden else None
        yield "job"
        job = self._job(about)
        yield "profile"
        profile = self._profile(about)
        yield "graph"
        spec = spec_in_force(about, status, frozen, job=job, published=profile is not None)
        request = read(name, about.uid, about.generation, spec)
        seen = replace(self._rest(about, spec), frozen=frozen, job=job, profile=profile, graph=self._graph(about, spec), held=held)
        yield "copy"
        if isinstance(request, Request) and request.elsewhere:
            where = request.graph_namespace
            rights = f"reconciler may not create dynamographdeployments in namespace {where}" if where in self.world.no_rights_in else ""
            seen = replace(seen, copy=self._copy(about), rights_missing=rights)
        if texts and BASE_KEY in texts:
            seen = replace(seen, base=texts[BASE_KEY], base_trouble="")
        return Case(about, request, seen, status, Making(), SETTINGS), metadata["resourceVersion"]

    def carry_out(self, action: Action) -> Iterator[str]:
        world = self.world
        match action:
            case Freeze():
                yield "freeze"
                world.write(action.config_map)
            case StartProfiling():
                yield "profile config map"
                self._make(world.config_maps, "config map", action.profile_config_map)
                yield "create job"
                self._make(world.jobs, "job", action.job)
            case StopProfiling():
                yield "delete job"
                world.jobs.pop(action.job, None)
            case WriteOutput():
                for each in action.config_maps:
                    yield "output"
                    world.write(each)
            case Deploy():
                yield "deploy"
                found = world.graphs.get(action.graph["metadata"]["name"])
                if found is None:
                    world.create(world.graphs, "graph", action.graph)
                elif found["metadata"]["annotations"] != action.graph["metadata"]["annotations"]:
                    raise Foreign
            case KeepProfile():
                yield "keep profile"
                found = world.config_maps.get(action.config_map)
                if found is not None and action.graph_uid not in found["metadata"]["owners"]:
                    found["metadata"]["owners"].append(action.graph_uid)

            case CopyProfile():
                yield "copy profile"
                name = action.config_map["metadata"]["name"]
                if name not in world.copies:
                    world.create(world.copies, "copy", action.config_map)
                elif not _same_request(world.copies[name], action.config_map):
                    raise Refused(f"{name} is somebody else's")
                owners = world.copies[name]["metadata"].setdefault("owners", [])
                if action.graph_uid not in owners:
                    owners.append(action.graph_uid)
                world.copies[name]["data"] = dict(action.config_map["data"])

    def _make(self, kind: dict[str, dict[str, Any]], what: str, body: Object) -> None:
        try:
            self.world.create(kind, what, body)
        except Exists:
            if not _same_request(kind[body["metadata"]["name"]], body):
                raise Foreign from None

    def _job(self, about: About) -> JobSeen | None:
        found = self.world.jobs.get(job_name(about.name))
        if found is None or "job" in self.world.hidden:
            return None
        return JobSeen(found["metadata"]["name"], found["metadata"].get("request") == about.uid, **found["facts"])

    def _profile(self, about: About) -> ProfileSeen | None:
        found = self.world.config_maps.get(profile_name(about.name))
        if found is None or found["metadata"].get("request") != about.uid or not found["data"] or "profile" in self.world.hidden:
            return None
        return ProfileSeen(found["metadata"]["name"], found["feasible"], "TP2", "TP1", "d1", dict(found["data"]), tuple(found["metadata"]["owners"]))

    def _copy(self, about: About) -> CopySeen | None:
        found = self.world.copies.get(profile_name(about.name))
        if found is None:
            return None
        return CopySeen(found["metadata"].get("request") == about.uid, dict(found["data"]), tuple(found["metadata"].get("owners", ())))

    def _graph(self, about: About, spec: Object) -> GraphSeen | None:
        found = self.world.graphs.get(spec.get("graph") or about.name)
        if found is None or "graph" in self.world.hidden or not self.world.graph_api:
            return None
        ready = found.get("ready", False)
        ours = found["metadata"]["annotations"].get("uid") == about.uid
        state, trouble = found.get("state", "pending"), found.get("trouble", "")
        available = 4 if ready else found.get("available", 0)
        metadata = found["metadata"]
        return GraphSeen(metadata["name"], metadata["namespace"], metadata["uid"], ours, ready, state, 4, available, trouble)

    def _rest(self, about: About, spec: Object) -> Seen:
        world = self.world
        base, trouble = None, ""
        found = world.config_maps.get(spec.get("base", ""))
        if found is None:
            trouble = f"ConfigMap {spec.get('base')} is not there; create it: kubectl create configmap {spec.get('base')} --from-file={BASE_KEY}"
        elif BASE_KEY not in found["data"]:
            trouble = f"ConfigMap {spec['base']} has no key {BASE_KEY} but {', '.join(found['data'])}; set profilingConfig.configMapRef.key"
        else:
            base = found["data"][BASE_KEY]
        missing = () if spec.get("claim") in (None, *world.claims) else (f"PersistentVolumeClaim {spec['claim']} is not there; create it",)
        in_the_way = [f"ConfigMap {name}" for name in (output_name(about.name), profile_name(about.name)) if self._foreign(about, name)]
        return Seen(
            alone=len(world.requests) == 1,
            graph_api=world.graph_api,
            base=None if "base" in world.hidden else base,
            base_trouble=trouble,
            gpus=world.gpus,
            missing=missing,
            in_the_way=tuple(in_the_way),
            shared_taken=self._foreign(about, SHARED_PROFILE),
            unknown=dict(world.hidden),
        )

    def _foreign(self, about: About, name: str) -> bool:
        found = self.world.config_maps.get(name)
        return found is not None and found["metadata"].get("request") != about.uid


Move = Callable[[World], None]
MOST_PASSES = 12


def settle(world: World, reconciler: Reconciler | None = None) -> Reconciler:
    """Passes over all requests until none leaves anything to be done. Fails where that does not end."""
    reconciler = reconciler or Reconciler(world)
    for _ in range(MOST_PASSES):
        left = [finished(reconciler.pass_over(name)) for name in list(world.requests)]
        if not any(left):
            return reconciler
    raise AssertionError(f"does not settle: {world.picture()['requests']}")


def finished(generator: Iterator[str]) -> Any:
    """Runs it to its end; what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
