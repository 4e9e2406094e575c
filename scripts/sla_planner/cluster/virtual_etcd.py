"""The virtual protocol's keys in etcd v3, where Dynamo's `VirtualConnectorClient` reads them.

    v1/{namespace}/planner/{key}        Dynamo's four keys, ASCII integers
    v1/{namespace}/sla-planner/{key}    our notes: outside the prefix that Dynamo's client watches, so that a note never wakes it

All are read in one transaction, at one revision R. A write is one transaction too: "if no key was modified or deleted after R, put those that
differ".
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import asdict
from typing import Any

from sla_planner.cluster.etcd_gateway import Endpoint, EtcdGateway
from sla_planner.cluster.virtual_protocol import DYNAMO_KEYS, KEYS, UNSET, VirtualState
from sla_planner.cluster.virtual_store import Snapshot, as_integer
from sla_planner.errors import UsageError

_WATCH_S = 30.0  # then look again: a host that vanished without a word is noticed
_PAUSE_S = 0.2  # after a watch that broke off: polling still serves


class EtcdStore:
    """`VirtualStore` in etcd, under `namespace`."""

    def __init__(self, endpoint: Endpoint, namespace: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", namespace):
            raise UsageError(f"namespace {namespace!r} cannot be a part of an etcd key", hint="use letters, digits, '.', '_' and '-'")
        self._gateway = EtcdGateway(endpoint)
        self._paths = {key: f"v1/{namespace}/{'planner' if key in DYNAMO_KEYS else 'sla-planner'}/{key}" for key in KEYS}
        self.place = f"etcd://{endpoint.address}/v1/{namespace}/planner"

    def read(self) -> Snapshot:
        answer = self._gateway.unary("/v3/kv/txn", {"success": [{"request_range": {"key": self._key(key)}} for key in KEYS]})
        values = {key: self._value(key, each["response_range"]) for key, each in zip(KEYS, answer["responses"], strict=True)}
        return Snapshot(VirtualState(**values), int(answer["header"]["revision"]))

    def swap(self, seen: Snapshot, state: VirtualState) -> bool:
        before, after = asdict(seen.state), asdict(state)
        next_revision = str(seen.revision + 1)
        untouched = [{"key": self._key(key), "target": "MOD", "result": "LESS", "mod_revision": next_revision} for key in KEYS]
        still_there = [
            {"key": self._key(key), "target": "CREATE", "result": "GREATER", "create_revision": "0"} for key in KEYS if before[key] != UNSET
        ]
        puts = [{"request_put": {"key": self._key(key), "value": _base64(str(after[key]))}} for key in KEYS if after[key] != before[key]]
        answer = self._gateway.unary("/v3/kv/txn", {"compare": untouched + still_there, "success": puts})
        return bool(answer.get("succeeded", False))

    def wait_for_change(self, seen: Snapshot, timeout_s: float) -> None:
        watch_s = min(timeout_s, _WATCH_S)
        deadline_s = time.monotonic() + watch_s
        create = {"key": self._key("decision_id"), "start_revision": str(seen.revision + 1)}
        for result in self._gateway.stream("/v3/watch", {"create_request": create}, watch_s):
            if "events" in result:
                return
            if result.get("canceled"):  # the past is compacted away, or our token is: reading again mends it, or says what is wrong
                break
        time.sleep(max(0.0, min(_PAUSE_S, deadline_s - time.monotonic())))

    def _key(self, key: str) -> str:
        return _base64(self._paths[key])

    def _value(self, key: str, found: dict[str, Any]) -> int:
        if not found.get("kvs"):
            return UNSET
        value = base64.b64decode(found["kvs"][0].get("value", "")).decode("ascii", "replace")
        return as_integer(value, f"{self.place}: {self._paths[key]}")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
