"""Where the planner reads the traffic: that it answers, that the frontend is scraped, that the model is in it, that requests stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from sla_planner.preflight.cluster_checks import CLOCK_LIMIT_S, in_words
from sla_planner.preflight.facts import Facts, Served, TargetFacts, TrafficFacts, Unread, Wrong
from sla_planner.preflight.finding import Area, Check, Finding

SET = "then set in planner.yaml"
MANY_UNSTREAMED = 0.5  # of the requests: below that they pass for a client's health check or a test

METRICS = Check("metrics", Area.METRICS)
CLOCK = Check("metrics-clock", Area.METRICS)
SCRAPED = Check("scraped", Area.METRICS)
TWICE = Check("scraped-once", Area.METRICS)
INTERVAL = Check("scrape-interval", Area.METRICS)
MODEL = Check("model", Area.METRICS)
STREAMING = Check("streaming", Area.METRICS)


def check_traffic(facts: Facts) -> Iterator[Finding]:
    """Target by target."""
    for target in facts.targets:
        traffic = target.traffic
        server = "the metrics page" if target.direct else "Prometheus"
        if traffic is None:
            what = f"target {target.name}: traffic"
            fix = f"sla-planner preflight --namespace {facts.namespace.name} --prometheus-url http://PROMETHEUS.NAMESPACE:9090"
            yield METRICS.unchecked(what, "it is not said where metrics are read", fix)
        elif isinstance(traffic, Unread) and not traffic.unreachable:
            yield METRICS.unchecked(f"target {target.name}: {server}", traffic.because, _from_outside(facts, target))
        elif isinstance(traffic, Unread):
            what = f"target {target.name}: {server} at {target.url} does not answer ({traffic.because})"
            why = "without it the planner knows nothing of the load, and holds every count"
            yield METRICS.problem(what, why, _reach(target), unreachable=traffic.unreachable)
        elif isinstance(traffic, Wrong):
            what = f"target {target.name}: {server} at {target.url}: {traffic.what}"
            yield METRICS.problem(
                what, "the planner cannot read the load there", f"curl -sS {target.url}" + (f"    # {traffic.hint}" if traffic.hint else "")
            )
        else:
            yield METRICS.ok(f"target {target.name}: {server} at {target.url} answers")
            yield from _clock(target, traffic)
            yield from _servers(facts, target, traffic)


def _from_outside(facts: Facts, target: TargetFacts) -> str:
    """Two ways of looking from inside the cluster."""
    host, port = urlsplit(target.url).hostname or "NAME", urlsplit(target.url).port or 80
    name, _, rest = host.partition(".")
    place = rest.partition(".")[0] or facts.namespace.name
    return (
        f"kubectl -n {place} port-forward service/{name} 9090:{port} &\n"
        f"sla-planner preflight --namespace {facts.namespace.name} --prometheus-url http://127.0.0.1:9090\n"
        "# or in the cluster: . jobs/env.sh && envsubst < jobs/preflight/job.yaml | kubectl apply -f -"
    )


def _reach(target: TargetFacts) -> str:
    host = urlsplit(target.url).hostname or ""
    if target.direct:
        return f"kubectl get services --all-namespaces    # is {host} one of them? {SET} scrape_url"
    fix = f"kubectl get services --all-namespaces | grep -i prometheus    # {SET} prometheus_url: http://NAME.NAMESPACE:9090"
    if host.count(".") <= 1 or host.endswith((".svc", ".local")):
        fix += "\n# names of Services work inside the cluster; outside: kubectl -n ITS_NAMESPACE port-forward service/NAME 9090, and"
        fix += " --prometheus-url http://127.0.0.1:9090"
    return fix


def _clock(target: TargetFacts, traffic: TrafficFacts) -> Iterator[Finding]:
    ahead_s = traffic.clock_ahead_s
    if ahead_s is None:
        return
    what = f"target {target.name}: this clock is {in_words(ahead_s)} Prometheus'"
    fix = "timedatectl set-ntp true    # here, and on the nodes of Prometheus and the planner"
    if abs(ahead_s) > target.interval_s:
        yield CLOCK.problem(what, f"the planner asks for a window of {target.interval_s:g} s that Prometheus does not have", fix)
    elif abs(ahead_s) > CLOCK_LIMIT_S:
        yield CLOCK.warning(what, "the planner sees the load late, or asks for a moment that Prometheus does not have yet", fix)
    else:
        yield CLOCK.ok(f"target {target.name}: this clock and Prometheus' differ by less than {CLOCK_LIMIT_S:g} s")


def _servers(facts: Facts, target: TargetFacts, traffic: TrafficFacts) -> Iterator[Finding]:
    up = [each for each in traffic.servers if each.up]
    lost = [each for each in traffic.servers if not each.up]
    if not traffic.servers:
        yield _nothing_scraped(facts, target, traffic)
        return
    if lost:
        names = ", ".join(f"{each.instance} (job {each.job})" for each in lost)
        why = "a part of the load is not seen, so the planner holds every count until it is scraped again"
        yield SCRAPED.problem(f"target {target.name}: not scraped any more (up == 0): {names}", why, _look_at_frontend(facts))
    else:
        yield SCRAPED.ok(f"target {target.name}: {len(up)} server{'s' if len(up) > 1 else ''} with {target.family} metrics: {up[0].instance}")
    yield from _scraped_twice(target, traffic)
    yield from _often_enough(target, traffic)
    yield from _model(target, traffic)


def _nothing_scraped(facts: Facts, target: TargetFacts, traffic: TrafficFacts) -> Finding:
    what = f"target {target.name}: no {target.family} metrics"
    why = "the planner sees no load and never scales"
    if target.direct:
        return SCRAPED.problem(f"{what} on {target.url}", why, f"curl -sS {target.url}    # whose names are these? {SET} metrics")
    if traffic.down:
        what += f" in Prometheus, which cannot scrape {', '.join(traffic.down)}"
        return SCRAPED.problem(what, why, _look_at_frontend(facts))
    what += f" in Prometheus, which scrapes {traffic.scraped} servers, none of them the frontend"
    fix = (
        "kubectl get podmonitors,servicemonitors --all-namespaces    # of Prometheus' operator: one must select the frontend\n"
        "# without it: add the jobs of manifests/prometheus/scrape.yaml to prometheus.yml; with other metric names: `metrics` in planner.yaml"
    )
    return SCRAPED.problem(what, why, fix)


def _look_at_frontend(facts: Facts) -> str:
    return f"{facts.kubectl} get pods,networkpolicies    # does the frontend run, and may Prometheus reach its port?"


def _scraped_twice(target: TargetFacts, traffic: TrafficFacts) -> Iterator[Finding]:
    jobs = Counter(each.instance for each in traffic.servers if each.up)
    for instance, count in jobs.items():
        if count > 1:
            names = " and ".join(each.job for each in traffic.servers if each.instance == instance)
            why = "every request counts twice, and the planner runs twice the workers"
            fix = "kubectl get podmonitors,servicemonitors --all-namespaces    # delete one of the two, or its job in prometheus.yml"
            yield TWICE.problem(f"target {target.name}: {instance} is scraped by {count} jobs: {names}", why, fix)


def _often_enough(target: TargetFacts, traffic: TrafficFacts) -> Iterator[Finding]:
    slow = [each for each in traffic.servers if each.every_s is not None and each.every_s > target.interval_s]
    for each in slow:
        what = f"target {target.name}: {each.instance} is scraped every {each.every_s:.0f} s, the planner decides every {target.interval_s:g} s"
        why = "most windows hold no new sample: the planner decides from older ones"
        half_s = max(target.interval_s / 2, 1)
        fix = f"kubectl get podmonitors --all-namespaces    # set its interval (prometheus.yml: scrape_interval) to {half_s:.0f}s"
        yield INTERVAL.warning(what, why, fix)
    if not slow and any(each.every_s is not None for each in traffic.servers):
        yield INTERVAL.ok(f"target {target.name}: scraped at least once per interval of {target.interval_s:g} s")


def _model(target: TargetFacts, traffic: TrafficFacts) -> Iterator[Finding]:
    served = [each for each in traffic.served if not target.model or each.model.casefold() == target.model.casefold()]
    models = sorted({each.model for each in traffic.served if each.model})
    if target.model and traffic.served and not served:
        what = f"target {target.name}: no metrics of the model {target.model}; there are: {', '.join(models) or 'none with a model label'}"
        fix = f"curl http://FRONTEND:8000/v1/models    # {SET} model_name: {models[0] if models else 'NAME'}"
        yield MODEL.problem(what, "the planner reads the traffic of this name only, and sees none", fix)
        return
    elsewhere = sorted({each.dynamo_namespace for each in served})
    if target.dynamo_namespace and served and target.dynamo_namespace not in elsewhere:
        said = ", ".join(name or "none (no such label)" for name in elsewhere)
        what = f"target {target.name}: no metrics of the Dynamo namespace {target.dynamo_namespace}; there are: {said}"
        fix = f"kubectl get podmonitors --all-namespaces    # Dynamo's puts the label on; {SET} namespace to one of them, or leave it out"
        yield MODEL.problem(what, "the planner reads the traffic of this namespace only, and sees none", fix)
        return
    if target.dynamo_namespace:
        served = [each for each in served if each.dynamo_namespace == target.dynamo_namespace]
    if not target.model and len(models) > 1:
        what = f"target {target.name}: its metrics are of {len(models)} models: {', '.join(models[:4])}"
        why = "their traffic is added up, as if one fleet of workers served all of it"
        yield MODEL.warning(what, why, f"curl http://FRONTEND:8000/v1/models    # {SET} model_name, for example {models[0]}")
    elif served:
        yield MODEL.ok(f"target {target.name}: metrics of {', '.join(sorted({each.model or 'a model without a name' for each in served}))}")
    yield _streaming(target, served, counted=traffic.counted)


def _streaming(target: TargetFacts, served: list[Served], *, counted: bool) -> Finding:
    if not counted:
        return STREAMING.unchecked(f"target {target.name}: whether requests stream", f"{target.family} metrics count no requests")
    requests = sum(each.requests for each in served)
    known = [each for each in served if each.streamed is not None]
    if requests == 0 or not served:
        return STREAMING.ok(f"target {target.name}: no request yet; TTFT and ITL come with the first one that streams")
    if not known:
        return STREAMING.unchecked(f"target {target.name}: whether requests stream", f"{target.family} metrics do not count first tokens")
    streamed = sum(each.streamed or 0.0 for each in known)
    of_them = sum(each.requests for each in known)
    fix = """curl http://FRONTEND:8000/v1/completions -d '{"model":"NAME","prompt":"Hi","stream":true}'    # clients must ask for a stream so"""
    why = "TTFT and ITL are measured on streaming requests only: the planner sees load without latencies, and cannot correct its profile"
    if streamed == 0:
        return STREAMING.problem(f"target {target.name}: {of_them:.0f} requests, none of them streaming", why, fix)
    if streamed < (1 - MANY_UNSTREAMED) * of_them:
        return STREAMING.warning(f"target {target.name}: only {streamed:.0f} of {of_them:.0f} requests stream", why, fix)
    return STREAMING.ok(f"target {target.name}: {streamed:.0f} of {of_them:.0f} requests stream")


CHECKS = (check_traffic,)
