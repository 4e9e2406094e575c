"""PromQL, written from a family's rows; the only place where PromQL is written, but for what preflight asks (`preflight_traffic.py`).
`tests/metrics/goldens/` pins every text: a wrong name never fails in Prometheus, it only answers nothing.

    readings    every series of the family, unaggregated
    stamps      by server, the time of its newest sample
    down        servers that exported the family within `DOWN_LOOKBACK` and cannot be scraped now

Why no `increase(…[R])`: it sees only samples inside R and extrapolates. What happens between the last sample before R and the first one inside
belongs to no window (a burst of 100 requests read as 0 in our test with a real Prometheus), and a new series loses its first value. Differences
between two instants lose nothing: what one window does not see, the next one does.

The model is matched literally and without case.
"""

from __future__ import annotations

import re

from sla_planner.model.metric_family import MetricFamily, MetricKind

DOWN_LOOKBACK = "10m"
SERVER_LABELS = ("job", "instance")


def readings_query(family: MetricFamily, model: str | None, namespace: str | None) -> str:
    return _selector(family, model, namespace)


def stamps_query(family: MetricFamily, model: str | None, namespace: str | None) -> str:
    # timestamp() drops the name; over several names at once it would make equal series, which Prometheus refuses.
    stamps = " or ".join(f"timestamp({selector})" for selector in _plain_selectors(family, model, namespace))
    return f"max by ({', '.join(SERVER_LABELS)}) ({stamps})"


def down_query(family: MetricFamily, model: str | None, namespace: str | None) -> str:
    lately = " or ".join(f"last_over_time({selector}[{DOWN_LOOKBACK}])" for selector in _plain_selectors(family, model, namespace))
    return f"(up == 0) and on ({', '.join(SERVER_LABELS)}) ({lately})"


def _plain_selectors(family: MetricFamily, model: str | None, namespace: str | None) -> list[str]:
    """One per counter and gauge: few series, and every server exports some of them."""
    matchers = ",".join(_matchers(family, model, namespace))
    names = {name for row in family.rows.values() if row.kind in (MetricKind.COUNTER, MetricKind.GAUGE) for name in row.names}
    return [f"{name}{{{matchers}}}" for name in sorted(names)]


def _selector(family: MetricFamily, model: str | None, namespace: str | None) -> str:
    names = f'__name__=~"{"|".join(sorted(family.series_names))}"'
    return "{" + ",".join([names, *_matchers(family, model, namespace)]) + "}"


def _matchers(family: MetricFamily, model: str | None, namespace: str | None) -> list[str]:
    matchers = []
    if model and family.model_label:
        matchers.append(f'{family.model_label}=~"(?i:{_quoted(_literal(model))})"')
    if namespace and family.namespace_label:
        matchers.append(f'{family.namespace_label}="{_quoted(namespace)}"')
    return matchers


def _literal(text: str) -> str:
    """A regular expression (RE2) that matches exactly `text`."""
    return re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", text)


def _quoted(text: str) -> str:
    """Inside PromQL double quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
