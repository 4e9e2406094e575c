"""What a Prometheus, or a metrics page, shows of the traffic that a planner would read there.

    clock      vector(time()): Prometheus' own
    counts     the family's counters of requests and of first tokens, of servers seen within `LOOKBACK`
    servers    `up` of those servers, and how often it was written within `LOOKBACK`, of those that were there all the time
    others     how many servers are scraped at all, and some that cannot be: asked only where no server has the family

A server that went down less than `LOOKBACK` ago is among the servers, with up == 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import requests

from sla_planner.errors import UnreachableError
from sla_planner.metrics.exposition import parse
from sla_planner.metrics.prometheus import PrometheusAccess, session_for
from sla_planner.metrics.scrape import TIMEOUT_S
from sla_planner.model.metric_family import Measure, MetricFamily, MetricKind, Row
from sla_planner.preflight.facts import Scraped, Served, TrafficFacts

LOOKBACK, LOOKBACK_S = "10m", 600.0
MOST_DOWN = 5

Rows = list[tuple[dict[str, str], float]]


def traffic_in_prometheus(access: PrometheusAccess, family: MetricFamily) -> TrafficFacts:
    """Of all models. Raises `UnreachableError` when it does not answer as Prometheus does, `UsageError` for an unusable `access`."""
    with session_for(access) as session:

        def ask(query: str) -> Rows:
            return _answer(session, access, query)

        before_s = time.time()
        told = ask("vector(time())")
        ahead_s = (before_s + time.time()) / 2 - told[0][1] if told else 0.0
        counts = ask(counts_query(family)) if _counters(family) else []
        servers = _servers(ask(up_query(family)), ask(samples_query(family)))
        if servers:
            return TrafficFacts(ahead_s, servers, _served(counts, family), counted=bool(_counters(family)))
        scraped = ask("count(up)")
        down = tuple(f"{labels.get('instance', '?')} (job {labels.get('job', '?')})" for labels, _ in ask("up == 0")[:MOST_DOWN])
        return TrafficFacts(ahead_s, scraped=int(scraped[0][1]) if scraped else 0, down=down)


def traffic_on_pages(urls: Iterable[str], family: MetricFamily) -> TrafficFacts:
    """Raises `UnreachableError` when one of them does not answer with metrics text."""
    servers: list[Scraped] = []
    counts: Rows = []
    for url in urls:
        samples = parse(_page(url), family.series_names)
        if samples:
            servers.append(Scraped("", url))
        for name, labels, value in samples:
            counts.append(({"__name__": name, "job": "", "instance": url, **dict(labels)}, value))
    return TrafficFacts(None, tuple(servers), _served(counts, family), len(servers), counted=bool(_counters(family)))


def counts_query(family: MetricFamily) -> str:
    """Of a family that counts requests at all."""
    return f'last_over_time({{__name__=~"{"|".join(sorted(_counters(family)))}"}}[{LOOKBACK}])'


def up_query(family: MetricFamily) -> str:
    return f"up and on (job, instance) ({_seen(family)})"


def samples_query(family: MetricFamily) -> str:
    """Of servers that were there at the beginning of it: of others, few samples are no few scrapes."""
    return f"count_over_time(up[{LOOKBACK}]) and on (job, instance) (up offset {LOOKBACK}) and on (job, instance) ({_seen(family)})"


def _seen(family: MetricFamily) -> str:
    """Every server exports some of these from its start. One name at a time: several at once would make equal series, which Prometheus refuses."""
    names = {name for row in family.rows.values() if row.kind in (MetricKind.COUNTER, MetricKind.GAUGE) for name in row.names}
    return " or ".join(f"last_over_time({name}[{LOOKBACK}])" for name in sorted(names))


def _counters(family: MetricFamily) -> set[str]:
    return {name for name in (_requests(family), _first_tokens(family)) if name}


def _requests(family: MetricFamily) -> str:
    row = family.rows.get(Measure.STARTED) or family.rows.get(Measure.COMPLETED)
    return row.names[0] if row else ""


def _first_tokens(family: MetricFamily) -> str:
    """How many TTFTs were measured; '' where that is not exported."""
    row: Row | None = family.rows.get(Measure.TTFT)
    if row is None:
        return ""
    return f"{row.names[0]}_count" if row.kind is MetricKind.HISTOGRAM else row.names[1] if row.kind is MetricKind.TOTALS else ""


def _servers(up: Rows, samples: Rows) -> tuple[Scraped, ...]:
    counted = {_server(labels): value for labels, value in samples}
    found = {}
    for labels, value in up:
        job, instance = server = _server(labels)
        count = counted.get(server, 0.0)
        found[server] = Scraped(job, instance, value != 0, LOOKBACK_S / count if count > 1 else None)
    return tuple(found.values())


def _server(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get("job", ""), labels.get("instance", "")


def _served(counts: Rows, family: MetricFamily) -> tuple[Served, ...]:
    requests_name, tokens_name = _requests(family), _first_tokens(family)
    sums: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for labels, value in counts:
        name = labels.get("__name__", "")
        if name in (requests_name, tokens_name):
            key = (*_server(labels), labels.get(family.model_label or "", ""), labels.get(family.namespace_label or "", ""))
            of_name = sums.setdefault(key, {})
            of_name[name] = of_name.get(name, 0.0) + value
    return tuple(
        Served(*key, requests=each.get(requests_name, 0.0), streamed=each.get(tokens_name, 0.0) if tokens_name else None)
        for key, each in sums.items()
    )


def _answer(session: requests.Session, access: PrometheusAccess, query: str) -> Rows:
    try:
        response = session.get(f"{access.url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=access.timeout_s)
        if response.status_code != requests.codes.ok:
            raise UnreachableError(f"HTTP {response.status_code}")
        return [(dict(row["metric"]), float(row["value"][1])) for row in response.json()["data"]["result"]]
    except requests.Timeout:
        raise UnreachableError(f"no answer within {access.timeout_s:g} s") from None
    except (requests.JSONDecodeError, KeyError, IndexError, TypeError, ValueError):
        raise UnreachableError("it does not answer as Prometheus does") from None
    except requests.RequestException as error:
        raise UnreachableError(f"no answer, {type(error).__name__}") from None


def _page(url: str) -> str:
    try:
        response = requests.get(url, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise UnreachableError(f"no answer, {type(error).__name__}") from None
    if response.status_code != requests.codes.ok:
        raise UnreachableError(f"HTTP {response.status_code}")
    return response.text
