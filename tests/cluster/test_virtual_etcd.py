"""What is particular to etcd: where the keys lie, users, a server that is away, an answer that is lost."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from sla_planner.cluster.etcd_gateway import Endpoint, parse_endpoint
from sla_planner.cluster.target import Outcome
from sla_planner.cluster.virtual import VirtualDecision, open_virtual_client, open_virtual_target
from sla_planner.cluster.virtual_etcd import EtcdStore
from sla_planner.errors import UnreachableError, UsageError

PATIENCE_S = 10.0  # for a thread that is about to end


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("etcd://127.0.0.1:1234", Endpoint("127.0.0.1:1234")),
        ("etcd://etcd.infra.svc/", Endpoint("etcd.infra.svc:2379")),
        ("etcd://[::1]:2379", Endpoint("[::1]:2379")),
        ("etcd://planner:a%40b%2Fc@etcd", Endpoint("etcd:2379", "planner", "a@b/c")),
    ],
)
def test_an_endpoint_is_read_from_a_url(url: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(url) == endpoint


@pytest.mark.parametrize(
    "url", ["etcd://", "etcd://h:0x1", "etcd://h:99999", "etcd://h h:1", "etcd://h/prefix", "etcd://h?x=1", "file:x", "etcd:h:1"]
)
def test_anything_else_is_no_endpoint(url: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoint(url)


def test_only_dynamos_keys_lie_where_its_client_watches(etcd) -> None:
    target = open_virtual_target(etcd.url, "layout")
    target.apply(1, 2, now_s=0.0)
    target.apply(3, 3, now_s=77.0)
    client = open_virtual_client(etcd.url, "layout")
    client.complete(client.get())
    listing = etcd.ctl("get", "--prefix", "v1/layout/").split()
    assert dict(zip(listing[::2], listing[1::2], strict=True)) == {
        "v1/layout/planner/num_prefill_workers": "1",
        "v1/layout/planner/num_decode_workers": "2",
        "v1/layout/planner/decision_id": "0",
        "v1/layout/planner/scaled_decision_id": "0",
        "v1/layout/sla-planner/noted_decision_id": "0",
        "v1/layout/sla-planner/waiting_since": "77",
    }


def test_a_namespace_is_a_part_of_a_key(etcd) -> None:
    open_virtual_target(etcd.url, "one").apply(1, 1, now_s=0.0)
    assert open_virtual_target(etcd.url, "two").fleet() is None
    for namespace in ("", "a/b", "a b"):
        with pytest.raises(UsageError, match=r"namespace '.*' cannot be a part of an etcd key; use letters"):
            open_virtual_target(etcd.url, namespace)


def test_a_watch_on_a_past_that_etcd_has_forgotten_ends(etcd) -> None:
    store, target = EtcdStore(parse_endpoint(etcd.url), "compacted"), open_virtual_target(etcd.url, "compacted")
    seen = store.read()
    for workers in (1, 2):
        target.apply(workers, 1, now_s=0.0)
        open_virtual_client(etcd.url, "compacted").complete(VirtualDecision(workers, 1, workers - 1))
    etcd.ctl("compact", str(store.read().revision))
    thread = threading.Thread(target=store.wait_for_change, args=(seen, float("inf")), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_server_that_is_away_is_named_and_found_again(own_etcd) -> None:
    target, client = open_virtual_target(own_etcd.url), open_virtual_client(own_etcd.url)
    target.apply(1, 1, now_s=0.0)
    client.complete(client.get())
    failures: list[Exception] = []

    def wait() -> None:
        try:
            client.wait()
        except UnreachableError as error:
            failures.append(error)

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    own_etcd.stop()
    away = rf"etcd at {own_etcd.address} does not answer \(ConnectionError\); check that it runs"
    for act in (target.fleet, lambda: target.apply(2, 2, now_s=0.0), client.get):
        with pytest.raises(UnreachableError, match=away):
            act()
    waiter.join(PATIENCE_S)
    assert [type(failure) for failure in failures] == [UnreachableError]
    own_etcd.start()
    assert target.apply(2, 2, now_s=0.0).message.startswith("Decision 1 ")


def test_users_and_passwords(own_etcd) -> None:
    for command in (
        ("user", "add", "root:toor"),
        ("user", "grant-role", "root", "root"),
        ("role", "add", "planner"),
        ("role", "grant-permission", "planner", "--prefix=true", "readwrite", "v1/mine/"),
        ("user", "add", "planner:s3/cr3t"),
        ("user", "grant-role", "planner", "planner"),
        ("auth", "enable"),
    ):
        own_etcd.ctl(*command)
    url = f"etcd://planner:s3%2Fcr3t@{own_etcd.address}"
    target, client = open_virtual_target(url, "mine"), open_virtual_client(url, "mine")
    assert target.apply(1, 1, now_s=0.0).outcome is Outcome.APPLIED
    assert client.wait() is True
    client.complete(client.get())
    assert client.wait(timeout_s=0.05) is False

    for wrong, namespace, complaint in (
        (own_etcd.url, "mine", "refuses: etcdserver: user name is empty"),
        (f"etcd://planner:gue55@{own_etcd.address}", "mine", "refuses: etcdserver: authentication failed"),
        (url, "theirs", "refuses: etcdserver: permission denied"),
    ):
        with pytest.raises(UsageError, match=complaint) as caught:
            open_virtual_target(wrong, namespace).fleet()
        assert "etcd://USER:PASSWORD@HOST:PORT" in caught.value.hint
        assert not any(secret in str(caught.value) for secret in ("gue55", "cr3t"))

    own_etcd.stop()
    own_etcd.start()  # has forgotten our token
    assert target.apply(2, 2, now_s=0.0).outcome is Outcome.APPLIED


def test_a_user_where_etcd_knows_none(etcd) -> None:
    with pytest.raises(UsageError, match=r"refuses: etcdserver: authentication is not enabled; .* none if it asks for none"):
        open_virtual_target(f"etcd://planner:s3cr3t@{etcd.address}").fleet()


class Relay(http.server.BaseHTTPRequestHandler):
    """Passes requests on to etcd; the answer to the first one that writes is lost on its way back."""

    etcd_address = ""
    lost = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{self.etcd_address}{self.path}", body) as response:
            answer = response.read()
        self.close_connection = True
        if b"request_put" in body and not type(self).lost:
            type(self).lost += 1
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


class Website(http.server.BaseHTTPRequestHandler):
    """Not etcd."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"hello": "world"}' if "kv" in self.path else b"<html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listening(request: pytest.FixtureRequest) -> Iterator[str]:
    """host:port of a server with the handler given as parameter."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("listening", [Relay], indirect=True)
def test_a_decision_whose_answer_was_lost_is_neither_lost_nor_written_twice(etcd, listening: str) -> None:
    Relay.etcd_address, Relay.lost = etcd.address, 0
    assert open_virtual_target(f"etcd://{listening}", "relayed").apply(3, 4, now_s=0.0).message == "Decision 0 written (prefill=3, decode=4)"
    assert Relay.lost == 1
    assert open_virtual_client(etcd.url, "relayed").get() == VirtualDecision(3, 4, 0)


@pytest.mark.parametrize("listening", [Website], indirect=True)
def test_a_server_that_is_not_etcd_is_told_apart(listening: str) -> None:
    for url in (f"etcd://{listening}", f"etcd://user:secret@{listening}"):
        with pytest.raises(UsageError, match=rf"{listening} does not speak etcd's v3 API \(HTTP 200\); give host and port of etcd"):
            open_virtual_target(url).fleet()
