"""Traffic read from Prometheus (or what speaks its query API: Thanos, Mimir, VictoriaMetrics).

One observation is a set of instant queries, all evaluated at the same `at_s`. The range R of the queries is the time that really passed since the
last tick, but at least `MIN_SCRAPES` scrape intervals; the observation says which (`window_s`). What `increase` does to the numbers:

* it needs two samples in R; four scrape intervals leave room for a missed one.
* it extrapolates from the samples inside R to all of R: means and shares are not touched, counts are right on average and off by at most one
  scrape interval in R (25 % at the minimum, 2 % at 60 s and a scrape every second).
* the first sample of a series that is new in R counts for nothing: the very first requests of a model are not seen.

Never raises for a Prometheus that fails: no answer, an HTTP error, an answer that is not Prometheus', a `warnings` field (part of the data may be
missing), a stale or a partial scrape all give a window of unknowns that says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from sla_planner.errors import UnreachableError, UsageError
from sla_planner.metrics.queries import Part, Scope, down_query, newest_query, traffic_queries
from sla_planner.metrics.window import Activity, Distribution, Window, added_buckets, traffic_window
from sla_planner.model.metric_family import Measure, MetricFamily, MetricKind
from sla_planner.plan.observation import TrafficWindow, unknown_traffic

MIN_SCRAPES = 4
_RETRY = Retry(total=1, backoff_factor=0.1, status_forcelist=(502, 503, 504), raise_on_status=False)

T = TypeVar("T")
Rows = list[tuple[str, float]]  # (`le` label or "", value)
Answers = Mapping[tuple[Measure, Part], Rows]


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """How to reach Prometheus.

    `scrape_interval_s`  how often it scrapes the servers; too small a value makes windows without samples, which are unknown.
    `token_file`         file with a bearer token, read for every query (projected tokens rotate).
    `ca_file`            PEM bundle to verify the server with; None = the system's.
    `verify_tls`         False accepts any certificate.
    """

    url: str
    timeout_s: float = 5.0
    scrape_interval_s: float = 5.0
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
        self._model = model
        self._namespace = namespace
        self._session = _session(access)
        self._client = PrometheusConnect(access.url.rstrip("/"), retry=_RETRY, session=self._session, timeout=access.timeout_s)

    def observe(self, at_s: float, window_s: float, ttft_ms: float, itl_ms: float) -> TrafficWindow:
        """The traffic of the `window_s` seconds up to `at_s` (epoch seconds), or of `MIN_SCRAPES` scrape intervals if those are longer."""
        range_s = max(window_s, MIN_SCRAPES * self._access.scrape_interval_s)
        scope = Scope(self._model, self._namespace, range_s)
        try:
            self._check_scrape(at_s, scope)
            answers = {key: self._ask(query, at_s) for key, query in traffic_queries(self._family, scope).items()}
            activity = _activity(answers, self._family, self._whose(range_s))
        except UnreachableError as error:
            return unknown_traffic(at_s, range_s, error.message)
        return traffic_window(activity, self._family, Window(at_s, range_s, ttft_ms, itl_ms))

    def close(self) -> None:
        self._session.close()

    def _check_scrape(self, at_s: float, scope: Scope) -> None:
        """Raises UnreachableError when the servers are not scraped now, or not all of them."""
        what = f"{self._family.name} metrics{self._of_model()}"
        newest_s = _number(self._ask(newest_query(self._family, scope), at_s))
        if newest_s is None:
            raise UnreachableError(f"Prometheus has no fresh sample of the {what}: nothing is scraped, or there is no such model")
        if at_s - newest_s > scope.range_s / 2:
            raise UnreachableError(
                f"Prometheus' newest sample of the {what} is {at_s - newest_s:.0f} s old; "
                f"the scrape interval is set to {self._access.scrape_interval_s:g} s"
            )
        down = _number(self._ask(down_query(self._family, scope), at_s))
        if down:
            raise UnreachableError(f"{down:.0f} of the servers cannot be scraped (up == 0): their part of the load is not seen")

    def _ask(self, query: str, at_s: float) -> Rows:
        """The rows that `query` gives at `at_s`. Raises UnreachableError for whatever can go wrong."""
        url = self._access.url
        try:
            answer = self._client.custom_query(query, params={"time": f"{at_s:.3f}"})
            return [(row["metric"].get("le", ""), float(row["value"][1])) for row in answer]
        except PrometheusApiClientException as error:
            raise UnreachableError(f"{url}: {str(error)[:200]}") from None
        except requests.Timeout:
            raise UnreachableError(f"{url}: no answer within {self._access.timeout_s:g} s") from None
        except requests.JSONDecodeError:
            raise UnreachableError(f"{url} did not answer as Prometheus does") from None
        except requests.RequestException as error:
            raise UnreachableError(f"{url}: no answer ({type(error).__name__})") from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UnreachableError(f"{url} did not answer as Prometheus does") from None

    def _of_model(self) -> str:
        return f' of model "{self._model}"' if self._model and self._family.model_label else ""

    def _whose(self, range_s: float) -> str:
        return f"{self._of_model()} with two samples in the last {range_s:g} s"


class _TokenFile(requests.auth.AuthBase):
    """Bearer token from a file, read anew for every request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {_token(self._path)}"
        return request


def _token(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreachableError(f"the token file {path} cannot be read ({type(error).__name__})") from None


def _session(access: PrometheusAccess) -> requests.Session:
    session = requests.Session()
    if access.ca_file is not None and not access.ca_file.is_file():
        raise UsageError(f"there is no CA bundle {access.ca_file}", hint="name a PEM file")
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
        raise UnreachableError(f"Prometheus warns: {str(warnings[0])[:200]}")


def _activity(answers: Answers, family: MetricFamily, scope: str) -> Activity:
    counts: dict[Measure, float] = {}
    distributions: dict[Measure, Distribution] = {}
    levels: dict[Measure, float] = {}
    for measure, row in family.rows.items():
        if row.kind is MetricKind.COUNTER:
            _keep(counts, measure, _number(answers[measure, Part.INCREASE]))
        elif row.cumulative:
            _keep(distributions, measure, _distribution(answers, measure, row.kind))
        else:
            _keep(levels, measure, _number(answers[measure, Part.LEVEL]))
    change = _number(answers.get((Measure.IN_FLIGHT, Part.CHANGE), []))
    return Activity(counts=counts, distributions=distributions, levels=levels, in_flight_change=change, scope=scope)


def _keep(found: dict[Measure, T], measure: Measure, value: T | None) -> None:
    if value is not None:
        found[measure] = value


def _distribution(answers: Answers, measure: Measure, kind: MetricKind) -> Distribution | None:
    total = _number(answers[measure, Part.TOTAL])
    if kind is MetricKind.TOTALS:
        number = _number(answers[measure, Part.NUMBER])
        return None if total is None or number is None else Distribution(count=number, total=total)
    buckets = added_buckets(answers[measure, Part.BUCKETS])
    return None if total is None or not buckets else Distribution(count=buckets[-1][1], total=total, cumulative=buckets)


def _number(rows: Rows) -> float | None:
    """The value of an answer of one row; None for no row."""
    return rows[0][1] if rows else None
