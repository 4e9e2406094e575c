"""`simulate --from-prometheus`: what somebody's own traffic would have cost, and what is said of how well it is known."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import numpy as np
import pytest
from tests.metrics.conftest import TextServer
from tests.metrics.frontend_history import answer_of, scraped

from sla_planner import cli
from sla_planner.traffic.trace import Trace

FLAGS = ("--profile", "sample", "--itl", "20", "--policy", "static,fluid-bound", "--adjustment-interval", "60", "--log-format", "human")


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextServer]:
    """Remembers two hours of one request a second, the last of them now, with a hole of half an hour."""
    monkeypatch.setattr(logging.root, "handlers", [])
    begin_s = time.time() - 7200
    trace = Trace(np.arange(7200.0), np.full(7200, 500), np.full(7200, 50))
    server = TextServer()
    server.text = lambda path: answer_of([scraped(trace, begin_s).without(begin_s + 3000, begin_s + 4800)], path)
    yield server
    server.stop()


def test_what_it_would_have_cost_and_how_well_that_is_known(prometheus: TextServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", *FLAGS, "--from-prometheus", prometheus.root, "--last", "12h", "--json"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    static, bound = document["policies"]
    assert static["requests"] == pytest.approx(6600, abs=120)
    assert static["gpu_hours"] > bound["gpu_hours"] > 0
    assert document["duration_s"] == pytest.approx(7200, abs=120)
    drawn, short, hole = document["warnings"]
    assert "is drawn" in drawn
    assert short.startswith("Prometheus remembers ")
    assert short.endswith(" of the 12.0 h asked for")
    assert hole.startswith("no sample of frontend:8000 from ")
    assert "reading Prometheus (1 of 1): begins" in told.err


def test_a_piece_of_it_can_be_scaled(prometheus: TextServer, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--last", "2h", "--start-s", "600", "--duration-s", "30m", "--scale", "2", "--json")
    assert cli.run(["simulate", *FLAGS, "--from-prometheus", prometheus.root, *flags]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["duration_s"] == 1800
    assert document["policies"][1]["requests"] == pytest.approx(3600, abs=150)


def test_nobody_there_is_exit_code_4(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    assert cli.run(["simulate", *FLAGS, "--from-prometheus", "http://127.0.0.1:1"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: http://127.0.0.1:1: no answer (ConnectionError)")
