"""Traffic read from Prometheus (or what speaks its query API: Thanos, Mimir, VictoriaMetrics).

An observation takes every server's reading as Prometheus holds it at the window's end and at its start, and does with the two what `readings` does
with two scraped pages; the same traffic reads the same either way. Consequences:

* consecutive windows join without gap or overlap when `window_s` is the time since the last observation.
* `window_s` of the answer is the time between the samples that were used (mean over servers), so a rate does not depend on where scrapes fall.
* a server that Prometheus did not know at the window's start contributes from the next window on: its past must not pass for the window's.
* no new sample within the window (it is shorter than the scrape interval): the start is moved back, up to `STRETCHES[-1]` windows.

Never raises for a Prometheus that fails: no answer, an HTTP error, an answer that is not Prometheus', a `warnings` field (part of the data may be
missing), no new samples, a server that cannot be scraped (`up == 0`): each gives a window of unknowns that says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from sla_planner.errors import UnreachableError, UsageError
from sla_planner.metrics.queries import SERVER_LABELS, down_query, readings_query, stamps_query
from sla_planner.metrics.readings import Reading, Series, activity, gains, levels
from sla_planner.metrics.window import Window, traffic_window
from sla_planner.model.metric_family import Measure, MetricFamily
from sla_planner.plan.observation import TrafficWindow, unknown_traffic

STRETCHES = (1, 2, 4)
_RETRY = Retry(total=1, backoff_factor=0.1, status_forcelist=(502, 503, 504), raise_on_status=False)

Server = tuple[str, ...]  # values of SERVER_LABELS


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """How to reach Prometheus.

    `timeout_s`   per query, of connecting and of waiting for bytes; a query is tried twice.
    `token_file`  file with a bearer token, read for every query (projected tokens rotate).
    `ca_file`     PEM bundle to verify the server with; None = the system's.
    `verify_tls`  False accepts any certificate.
    """

    url: str
    timeout_s: float = 5.0
    token_file: Path | None = None
    ca_file: Path | None = None
    verify_tls: bool = True


class PrometheusSource:
    """The traffic of one model. `model` is compared without case; `model` and `namespace` None = any. Raises UsageError for an unusable `access`."""

    def __init__(self, access: PrometheusAccess, family: MetricFamily, *, model: str | None = None, namespace: str | None = None) -> None:
        if not access.url.startswith(("http://", "https://")):
            raise UsageError(f"{access.url!r} is not an http(s) URL", hint="for example http://prometheus.monitoring:9090")
        self._access = access
        self._family = family
        self._readings_query = readings_query(family, model, namespace)
        self._stamps_query = stamps_query(family, model, namespace)
        self._down_query = down_query(family, model, namespace)
        self._scope = f' of model "{model}"' if model and family.model_label else ""
        self._session = session_for(access)
        self._client = PrometheusConnect(access.url.rstrip("/"), retry=_RETRY, session=self._session, timeout=access.timeout_s)

    def observe(self, at_s: float, window_s: float, ttft_ms: float, itl_ms: float) -> TrafficWindow:
        """The traffic of the `window_s` seconds up to `at_s` (epoch seconds). Never raises for a Prometheus that fails."""
        try:
            self._refuse_lost_servers(at_s)
            start_s, elapsed_s = self._span(at_s, window_s)
            before, after = self._readings(start_s), self._readings(at_s)
        except UnreachableError as error:
            return unknown_traffic(at_s, window_s, error.message, answered=False)
        gained: dict[Series, float] = {}
        known = before.keys() & after.keys()
        for server in known:
            for series, gain in gains(before[server], after[server], self._family).items():
                gained[series] = gained.get(series, 0.0) + gain
        in_flight = levels([before[server] for server in known], self._family).get(Measure.IN_FLIGHT)
        now = levels(after.values(), self._family)
        seen = activity(gained, now, self._family, in_flight_before=in_flight, scope=self._scope)
        return traffic_window(seen, self._family, Window(at_s, elapsed_s, ttft_ms, itl_ms))

    def close(self) -> None:
        self._session.close()

    def _refuse_lost_servers(self, at_s: float) -> None:
        down = len(self._ask(self._down_query, at_s))
        if down:
            raise UnreachableError(f"{down} of the servers cannot be scraped (up == 0): their part of the load is not seen")

    def _span(self, at_s: float, window_s: float) -> tuple[float, float]:
        """Where the window begins (epoch seconds), and the time between its samples."""
        newest = self._stamps(at_s)
        if not newest:
            raise UnreachableError(f"Prometheus has no {self._family.name} metrics{self._scope} now: nothing is scraped, or there is no such model")
        for stretch in STRETCHES:
            start_s = at_s - stretch * window_s
            oldest = self._stamps(start_s)
            elapsed = [newest[server] - oldest[server] for server in newest.keys() & oldest.keys()]
            if elapsed and fmean(elapsed) > 0:
                return start_s, fmean(elapsed)
        if not elapsed:
            raise UnreachableError(
                f"Prometheus has had the {self._family.name} metrics{self._scope} for less than the window: a window needs two readings"
            )
        raise UnreachableError(f"Prometheus has no sample of the last {at_s - max(newest.values()):.0f} s, for a window of {window_s:g} s")

    def _stamps(self, at_s: float) -> dict[Server, float]:
        return {_server(labels): value for labels, value in self._ask(self._stamps_query, at_s)}

    def _readings(self, at_s: float) -> dict[Server, Reading]:
        found: dict[Server, dict[Series, float]] = {}
        for labels, value in self._ask(self._readings_query, at_s):
            rest = tuple(sorted(item for item in labels.items() if item[0] != "__name__"))
            found.setdefault(_server(labels), {})[labels.get("__name__", ""), rest] = value
        return dict(found)

    def _ask(self, query: str, at_s: float) -> list[tuple[dict[str, str], float]]:
        """The rows (labels, value) of `query` at `at_s`. Raises UnreachableError for whatever can go wrong."""
        url = self._access.url
        try:
            answer = self._client.custom_query(query, params={"time": f"{at_s:.3f}"})
            return [(dict(row["metric"]), float(row["value"][1])) for row in answer]
        except PrometheusApiClientException as error:
            raise UnreachableError(f"{url}: {str(error)[:200]}") from None
        except requests.Timeout:
            raise UnreachableError(f"{url}: no answer within {self._access.timeout_s:g} s") from None
        except requests.JSONDecodeError:
            raise UnreachableError(f"{url} did not answer as Prometheus does") from None
        except requests.RequestException as error:
            raise UnreachableError(f"{url}: no answer ({type(error).__name__})") from None
        except (KeyError, IndexError, TypeError, ValueError):
            raise UnreachableError(f"{url} did not answer as Prometheus does") from None


def _server(labels: dict[str, str]) -> Server:
    return tuple(labels.get(name, "") for name in SERVER_LABELS)


class _TokenFile(requests.auth.AuthBase):
    """Bearer token from a file, read anew for every request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        try:
            token = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnreachableError(f"the token file {self._path} cannot be read ({type(error).__name__})") from None
        request.headers["Authorization"] = f"Bearer {token}"
        return request


def session_for(access: PrometheusAccess) -> requests.Session:
    """An HTTP session with the access' TLS and token settings. Raises UsageError when the CA bundle is not there."""
    if access.ca_file is not None and not access.ca_file.is_file():
        raise UsageError(f"there is no CA bundle {access.ca_file}", hint="name a PEM file")
    session = requests.Session()
    session.verify = str(access.ca_file) if access.ca_file and access.verify_tls else access.verify_tls
    if access.token_file is not None:
        session.auth = _TokenFile(access.token_file)
    session.hooks["response"].append(_refuse_warnings)
    return session


def _refuse_warnings(response: requests.Response, *_args: Any, **_kwargs: Any) -> None:
    """The client library drops `warnings`; a partial answer must not pass for a whole one."""
    if response.status_code != requests.codes.ok:
        return
    body = response.json()
    warnings = body.get("warnings") if isinstance(body, dict) else None
    if warnings:
        raise UnreachableError(f"Prometheus warns: {str(warnings)[:200]}")
