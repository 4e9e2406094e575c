"""What the tests of launchers share: a backend that reads one line, and a small server that behaves as told."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sla_planner.engines.backend import Evidence, Failure
from sla_planner.model.metric_family import MetricFamily
from sla_planner.sweep.port import Capacity, Deployment

SMALL_ENGINE = Path(__file__).with_name("small_engine.py")


@dataclass(frozen=True)
class OneLineBackend:
    """`kv_tokens N` in the log or on /metrics; `torch.OutOfMemoryError` is a failure that it knows."""

    name: str = "oneline"
    families: tuple[MetricFamily, ...] = ()
    pages: tuple[str, ...] = ("/metrics",)

    def arguments(self, given: Sequence[str], deployment: Deployment) -> list[str]:
        raise NotImplementedError

    def capacity(self, evidence: Evidence, deployment: Deployment) -> Capacity | None:
        for source, text in (("log", evidence.log), *evidence.pages.items()):
            if match := re.search(r"kv_tokens (-?\d+)", text):
                return Capacity(int(match[1]), source)
        return None

    def failure(self, log: str) -> Failure | None:
        return Failure("out of GPU memory", "take more GPUs") if "torch.OutOfMemoryError" in log else None


@pytest.fixture
def backend() -> OneLineBackend:
    return OneLineBackend()


@pytest.fixture
def small_engine() -> Callable[..., str]:
    """Gives the command of the small server as a template; braces in its arguments are meant."""

    def command(*arguments: object, port: str = "{port}") -> str:
        words = [str(argument).replace("{", "{{").replace("}", "}}") for argument in arguments]
        return f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(SMALL_ENGINE))} {port} {shlex.join(words)}"

    return command
