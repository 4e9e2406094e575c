"""Reads of a cluster in which a missing right, or a server that fails at one kind, is something to tell, not the end.

refused (403)        `Unread`, in the words of who may not do what
no such kind         an empty list, or no such object
no answer            `Unread`; after `MOST_SILENCES` of them the API server is taken to be gone, and `UnreachableError` is raised
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

import urllib3
from kubernetes.client.rest import RESTClientObject

from sla_planner.cluster.api import EVERYTHING, KubernetesApi, NotFound, Selector
from sla_planner.cluster.resources import Object, Resource
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError
from sla_planner.preflight.facts import Unread

MOST_SILENCES = 2
_TIMEOUT_S = 10.0

T = TypeVar("T")


class Reader:
    """Of one cluster; `api.namespace` is where objects are looked for when a call names none."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self._silences = 0

    def told(self, call: Callable[[], T]) -> T | Unread:
        """What `call` gives. What it raises else is raised: `NotFound`, and the `UsageError` of what was read and is wrong."""
        try:
            return call()
        except UnreachableError as error:
            self._silences += 1
            if self._silences > MOST_SILENCES:
                raise
            return Unread(error.message, unreachable=True)
        except ForbiddenError as error:
            return Unread(error.message)

    def all_of(self, resource: Resource, selector: Selector = EVERYTHING, *, namespace: str | None = None) -> tuple[Object, ...] | Unread:
        """`namespace` '' = those of all namespaces."""
        try:
            return self.told(lambda: tuple(self.api.all_of(resource, selector, namespace=namespace)))
        except NotFound:
            return ()
        except UsageError as error:  # the API refuses it, for whatever reason
            return Unread(error.message)

    def named(self, resource: Resource, name: str, *, namespace: str | None = None) -> Object | Unread | None:
        """None when it is not there."""
        try:
            return self.told(lambda: self.api.get(resource, name, namespace=namespace))
        except NotFound:
            return None
        except UsageError as error:
            return Unread(error.message)

    def version_and_clock(self) -> tuple[str | Unread, float | Unread]:
        """`v1.36.3`, and this clock less the API server's in seconds, by the Date of its answer (whole seconds).

        Raises `UnreachableError` when nobody answers, `ForbiddenError` when we are not known there.
        """
        host = self.api.configuration.host
        headers = {"Accept": "application/json"}
        if authorization := self.api.authorization():
            headers["Authorization"] = authorization
        before_s = time.time()
        try:
            pool = RESTClientObject(self.api.configuration).pool_manager
            response = pool.request("GET", f"{host}/version", headers=headers, timeout=_TIMEOUT_S, retries=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = (str(error) or type(error).__name__).rpartition(": ")[2][:200]
            raise UnreachableError(f"the Kubernetes API at {host} does not answer ({reason})", hint="check the connection") from None
        now_s = (before_s + time.time()) / 2
        if response.status == 401:
            raise ForbiddenError(f"the Kubernetes API at {host} does not know us", hint="renew the token or the kubeconfig")
        if response.status >= 500:
            raise UnreachableError(f"the Kubernetes API at {host} answers HTTP {response.status}", hint="try again")
        return _version(response), _ahead_s(response.headers.get("Date", ""), now_s)


def _version(response: urllib3.BaseHTTPResponse) -> str | Unread:
    try:
        return str(json.loads(response.data)["gitVersion"])
    except (ValueError, LookupError, TypeError):
        return Unread(f"the API server answers /version with HTTP {response.status} and no version")


def _ahead_s(date: str, now_s: float) -> float | Unread:
    """A Date is cut to whole seconds: on average half a second has passed since."""
    try:
        return now_s - (parsedate_to_datetime(date).timestamp() + 0.5)
    except ValueError:
        return Unread("the API server's answer carries no Date")
