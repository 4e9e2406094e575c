"""`simulate --from-prometheus` against a real Prometheus (Debian package `prometheus`) that remembers six hours of two frontends."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from tests.e2e.prometheus_server import program, prometheus_server
from tests.metrics.frontend_history import open_metrics, scraped

from sla_planner.traffic.trace import Trace

pytestmark = pytest.mark.e2e

HOURS = 6


def traffic(requests: int, seed: int) -> Trace:
    random = np.random.default_rng(seed)
    isl, osl = (np.maximum(random.lognormal(mean, 0.9, requests), 1).astype(np.int64) for mean in (6.5, 5.0))
    return Trace(np.sort(random.random(requests)) * HOURS * 3600, isl, osl)


def simulated(*flags: str) -> dict:
    command = [sys.executable, "-m", "sla_planner", "simulate", "--profile", "sample", "--itl", "20", "--policy", "slaplanner,fluid-bound", "--json"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_its_memory_costs_what_the_requests_themselves_cost(tmp_path):
    busy, quiet = traffic(20_000, 1), traffic(6_000, 2)
    begin_s = time.time() - HOURS * 3600
    frontends = [scraped(busy, begin_s, instance="a:8000"), scraped(quiet, begin_s, instance="b:8000", counted_before=5000)]
    (tmp_path / "history").write_text(open_metrics(frontends))
    importer = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(tmp_path / "history"), str(tmp_path / "data")]
    subprocess.run(importer, check=True, capture_output=True, timeout=120)
    with prometheus_server(tmp_path, []) as url:
        remembered = simulated("--from-prometheus", url, "--last", f"{HOURS}h")
    both = sorted(zip(*(np.concatenate(columns).tolist() for columns in zip(columns_of(busy), columns_of(quiet), strict=True)), strict=True))
    (tmp_path / "sent.csv").write_text("arrival_s,isl,osl\n" + "".join(f"{at_s},{isl},{osl}\n" for at_s, isl, osl in both))
    sent = simulated("--trace", str(tmp_path / "sent.csv"))
    for mine, theirs in zip(remembered["policies"], sent["policies"], strict=True):
        assert mine["requests"] == pytest.approx(theirs["requests"], rel=0.01)
        assert mine["gpu_hours"] == pytest.approx(theirs["gpu_hours"], rel=0.05)
        assert mine["attainment"] == pytest.approx(theirs["attainment"], abs=0.01)


def columns_of(trace: Trace):
    return trace.arrival_s, trace.isl_tokens, trace.osl_tokens
