"""Both ends of the virtual protocol, the same tests over a file and over a real etcd."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sla_planner.cluster.etcd_gateway import parse_endpoint
from sla_planner.cluster.target import Applied, Fleet, Outcome, ScaleTarget
from sla_planner.cluster.virtual import VirtualDecision, VirtualTarget, VirtualTargetClient, open_virtual_client, open_virtual_target
from sla_planner.cluster.virtual_etcd import EtcdStore
from sla_planner.cluster.virtual_file import FileStore
from sla_planner.cluster.virtual_protocol import VirtualState
from sla_planner.cluster.virtual_store import Snapshot, VirtualStore
from sla_planner.errors import UsageError
from sla_planner.plan.observation import WorkerCounts

PATIENCE_S = 10.0  # for a thread or process that is about to end


class FilePlace:
    """A file as the planner, the other end and a third program see it."""

    def __init__(self, path: Path) -> None:
        self.url, self.namespace, self._path = f"file:{path}", "here", path

    def store(self) -> VirtualStore:
        return FileStore(self._path)

    def put(self, key: str, value: str) -> None:
        self._path.write_text(json.dumps(json.loads(self._path.read_text()) | {key: value}))

    def value(self, key: str) -> str:
        return str(json.loads(self._path.read_text())[key])

    def clear(self) -> None:
        self._path.unlink()


class EtcdPlace:
    def __init__(self, etcd) -> None:
        self.url, self.namespace, self._etcd = etcd.url, uuid.uuid4().hex, etcd

    def store(self) -> VirtualStore:
        return EtcdStore(parse_endpoint(self.url), self.namespace)

    def put(self, key: str, value: str) -> None:
        self._etcd.ctl("put", "--", f"v1/{self.namespace}/planner/{key}", value)

    def value(self, key: str) -> str:
        return self._etcd.ctl("get", "--print-value-only", f"v1/{self.namespace}/planner/{key}").removesuffix("\n")

    def clear(self) -> None:
        self._etcd.ctl("del", "--prefix", f"v1/{self.namespace}/")


Place = FilePlace | EtcdPlace


@pytest.fixture(params=["file", "etcd"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return FilePlace(tmp_path / "fleet.json") if request.param == "file" else EtcdPlace(request.getfixturevalue("etcd"))


@pytest.fixture
def target(place: Place) -> ScaleTarget:
    return open_virtual_target(place.url, place.namespace)


@pytest.fixture
def client(place: Place) -> VirtualTargetClient:
    return open_virtual_client(place.url, place.namespace)


def ready(prefill: int, decode: int) -> Fleet:
    return Fleet(WorkerCounts(prefill), WorkerCounts(decode))


def test_before_any_decision_everything_is_unset(target: ScaleTarget, client: VirtualTargetClient) -> None:
    assert target.fleet() is None
    assert client.get() == VirtualDecision(-1, -1, -1)
    assert client.wait(timeout_s=0.05) is False
    client.complete(client.get())
    assert target.fleet() is None


def test_a_decision_from_planner_to_cluster_and_back(target: ScaleTarget, client: VirtualTargetClient) -> None:
    assert target.apply(1, 2, now_s=0.0) == Applied(Outcome.APPLIED, "Decision 0 written (prefill=1, decode=2)")
    assert client.wait() is True
    decision = client.get()
    assert decision == VirtualDecision(1, 2, 0)
    assert target.fleet() == Fleet(WorkerCounts(0, starting=1), WorkerCounts(0, starting=2))
    client.complete(decision)
    assert target.fleet() == ready(1, 2)
    assert target.apply(1, 2, now_s=60.0) == Applied(Outcome.UNCHANGED, "No scaling needed (prefill=1, decode=2)")
    assert target.apply(2, 2, now_s=120.0).outcome is Outcome.APPLIED
    assert client.get() == VirtualDecision(2, 2, 1)
    assert target.fleet() == Fleet(WorkerCounts(1, starting=1), WorkerCounts(2))


def test_no_decision_before_the_last_one_is_acknowledged(target: ScaleTarget, client: VirtualTargetClient) -> None:
    target.apply(1, 2, now_s=0.0)
    applied = target.apply(3, 3, now_s=60.0)
    assert applied.outcome is Outcome.WAITING
    assert applied.message == "Not asking for prefill=3, decode=3: decision 0 is not acknowledged yet, waited 0 s of at most 1800 s"
    assert client.get() == VirtualDecision(1, 2, 0)
    client.complete(client.get())
    assert target.apply(3, 3, now_s=120.0).outcome is Outcome.APPLIED
    assert client.get() == VirtualDecision(3, 3, 1)


def test_after_1800_s_the_planner_goes_on_even_if_it_was_restarted_in_between(place: Place, client: VirtualTargetClient) -> None:
    def apply_in_a_new_planner(prefill: int, decode: int, now_s: float) -> Applied:
        return open_virtual_target(place.url, place.namespace).apply(prefill, decode, now_s=now_s)

    apply_in_a_new_planner(1, 1, 1_000.0)
    assert apply_in_a_new_planner(2, 2, 5_000.0).outcome is Outcome.WAITING  # the wait is counted from here
    assert apply_in_a_new_planner(2, 3, 6_799.0).outcome is Outcome.WAITING
    applied = apply_in_a_new_planner(2, 4, 6_800.0)
    assert applied.outcome is Outcome.APPLIED
    assert applied.message == "Decision 1 written (prefill=2, decode=4) although decision 0 was not acknowledged within 1800 s"
    assert client.get() == VirtualDecision(2, 4, 1)
    assert apply_in_a_new_planner(5, 5, 6_860.0).outcome is Outcome.WAITING  # a new decision, a new wait
    assert apply_in_a_new_planner(5, 5, 8_659.0).outcome is Outcome.WAITING
    assert apply_in_a_new_planner(5, 5, 8_660.0).outcome is Outcome.APPLIED


def test_an_acknowledgement_is_never_lowered(place: Place, target: ScaleTarget, client: VirtualTargetClient) -> None:
    target.apply(1, 1, now_s=0.0)
    first = client.get()
    client.complete(first)
    target.apply(2, 2, now_s=0.0)
    client.complete(client.get())
    client.complete(first)
    assert place.value("scaled_decision_id") == "1"
    assert target.fleet() == ready(2, 2)


def test_another_program_reads_plain_integers_and_its_own_keys_stay(place: Place, target: ScaleTarget, client: VirtualTargetClient) -> None:
    target.apply(12, 7, now_s=0.0)
    place.put("their_key", "their value")
    client.complete(client.get())
    target.apply(13, 7, now_s=0.0)
    keys = ("num_prefill_workers", "num_decode_workers", "decision_id", "scaled_decision_id", "their_key")
    assert [place.value(key) for key in keys] == ["13", "7", "1", "0", "their value"]


@pytest.mark.parametrize("value", ["seven", "", "1.5", "-2", "9" * 5000, "1 "])
def test_a_value_that_is_no_count_is_named(place: Place, target: ScaleTarget, client: VirtualTargetClient, value: str) -> None:
    target.apply(1, 1, now_s=0.0)
    place.put("num_decode_workers", value)
    for act in (target.fleet, lambda: target.apply(2, 2, now_s=0.0), client.get, client.wait):
        with pytest.raises(UsageError, match=r"num_decode_workers is '.{,59}, not an integer >= -1; correct or delete it"):
            act()


class Interleaved:
    """A real store in which somebody else acts between the first read and the write after it, or before every wait."""

    def __init__(
        self, store: VirtualStore, *, before_swap: Callable[[], object] = lambda: None, before_wait: Callable[[], object] = lambda: None
    ) -> None:
        self._store, self._before_swap, self._before_wait = store, before_swap, before_wait
        self.place = store.place

    def read(self) -> Snapshot:
        return self._store.read()

    def swap(self, seen: Snapshot, state: VirtualState) -> bool:
        act, self._before_swap = self._before_swap, lambda: None
        act()
        return self._store.swap(seen, state)

    def wait_for_change(self, seen: Snapshot, timeout_s: float) -> None:
        self._before_wait()
        self._store.wait_for_change(seen, timeout_s)


def test_another_planner_at_the_same_moment_is_told_not_overwritten(place: Place, client: VirtualTargetClient) -> None:
    other = open_virtual_target(place.url, place.namespace)
    ours = VirtualTarget(Interleaved(place.store(), before_swap=lambda: other.apply(7, 7, now_s=0.0)), "ours")
    applied = ours.apply(1, 1, now_s=0.0)
    assert applied.outcome is Outcome.WAITING
    assert "Not asking for prefill=1, decode=1: another program set decision_id to 0 in " in applied.message
    assert applied.message.endswith("let only one planner act on a target")
    assert client.get() == VirtualDecision(7, 7, 0)


def test_an_acknowledgement_at_the_same_moment_is_taken_into_account(place: Place, target: ScaleTarget, client: VirtualTargetClient) -> None:
    target.apply(4, 4, now_s=0.0)
    target.apply(5, 5, now_s=0.0)
    late = VirtualTarget(Interleaved(place.store(), before_swap=lambda: client.complete(client.get())), "late")
    assert late.apply(5, 5, now_s=1800.0).message == "Decision 1 written (prefill=5, decode=5)"
    assert target.fleet() == Fleet(WorkerCounts(4, starting=1), WorkerCounts(4, starting=1))


def test_a_decision_at_the_same_moment_does_not_lose_the_acknowledgement(place: Place, target: ScaleTarget) -> None:
    target.apply(1, 1, now_s=0.0)
    target.apply(2, 2, now_s=0.0)
    client = VirtualTargetClient(Interleaved(place.store(), before_swap=lambda: target.apply(2, 2, now_s=1800.0)))
    client.complete(VirtualDecision(1, 1, 0))
    assert (place.value("decision_id"), place.value("scaled_decision_id")) == ("1", "0")


def test_keys_deleted_at_the_same_moment_do_not_leave_half_a_decision(place: Place, target: ScaleTarget, client: VirtualTargetClient) -> None:
    target.apply(1, 5, now_s=0.0)
    client.complete(client.get())
    reset = VirtualTarget(Interleaved(place.store(), before_swap=place.clear), "reset")
    assert reset.apply(2, 5, now_s=60.0).outcome is Outcome.WAITING
    assert reset.apply(2, 5, now_s=120.0).outcome is Outcome.APPLIED
    assert client.get() == VirtualDecision(2, 5, 0)


def test_a_waiting_client_wakes_up(place: Place, target: ScaleTarget) -> None:
    target.apply(1, 1, now_s=0.0)
    waiting = threading.Event()
    client = VirtualTargetClient(Interleaved(place.store(), before_wait=waiting.set))
    client.complete(client.get())
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(client.wait()), daemon=True)
    thread.start()
    assert waiting.wait(PATIENCE_S)
    target.apply(2, 2, now_s=0.0)
    thread.join(PATIENCE_S)
    assert woken == [True]


def test_a_decision_made_between_get_and_wait_is_not_missed(target: ScaleTarget, client: VirtualTargetClient) -> None:
    target.apply(1, 1, now_s=0.0)
    decision = client.get()
    client.complete(decision)
    target.apply(2, 2, now_s=0.0)
    assert client.wait() is True
    assert client.wait() is True  # still: nobody has read it
    assert client.get() == VirtualDecision(2, 2, 1)
    assert client.wait(timeout_s=0.0) is False


RACER = """
import sys
from sla_planner.cluster.target import Outcome
from sla_planner.cluster.virtual import open_virtual_client, open_virtual_target

url, namespace, own = sys.argv[1:]
target, client = open_virtual_target(url, namespace), open_virtual_client(url, namespace)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(40):
    applied = target.apply(int(own) + turn, 1, now_s=0.0)
    if applied.outcome is Outcome.APPLIED:
        print(applied.message.split()[1])
    client.complete(client.get())
"""


@pytest.fixture
def racers(place: Place) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [
        subprocess.Popen([sys.executable, "-c", RACER, place.url, place.namespace, own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for own in ("1000", "2000")
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_of_two_planners_at_once_no_decision_is_lost(place: Place, racers: list[subprocess.Popen[str]], client: VirtualTargetClient) -> None:
    for process in racers:
        assert process.stdout.readline() == "ready\n"
    for process in racers:
        process.stdin.write("go\n")
        process.stdin.flush()
    written = [[int(line) for line in process.communicate(timeout=60)[0].split()] for process in racers]
    assert all(process.returncode == 0 for process in racers)
    assert all(ids == sorted(set(ids)) for ids in written)
    assert sorted(written[0] + written[1]) == list(range(client.get().decision_id + 1))


@pytest.mark.parametrize(
    "url",
    ["", "fleet.json", "file:", "file:folder/", "file://host/fleet.json", "etcd:", "etcd://", "etcd://host:port", "etcd://h:2379/x", "http://h:2379"],
)
def test_a_bad_url_is_answered_with_good_ones(url: str) -> None:
    for opened in (open_virtual_target, open_virtual_client):
        with pytest.raises(UsageError, match="is neither file:PATH nor etcd://HOST:PORT; examples: file:") as caught:
            opened(url)
        assert repr(url) in caught.value.message


def test_a_mistyped_url_keeps_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        open_virtual_target("etcd://planner:s3/cr3t@etcd:2379")
    assert "virtual target 'etcd:***@etcd:2379'" in caught.value.message
    assert "cr3t" not in str(caught.value)


def test_a_target_is_called_by_its_name_else_by_its_place() -> None:
    assert open_virtual_target("file:fleet.json", name="llama").name == "llama"
    assert open_virtual_target("file:fleet.json").name == "fleet.json"
    assert open_virtual_target("etcd://planner:s3cr3t@etcd", "prod").name == "etcd://etcd:2379/v1/prod/planner"
