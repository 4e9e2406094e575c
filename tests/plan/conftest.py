"""A hand-made engine with round numbers, so that expected values can be worked out on paper."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sla_planner.model.engine import Engine, ItlLaw, OperatingPoint
from sla_planner.plan.observation import LengthHistogram, Quantity, TrafficWindow, unknown_traffic


@dataclass(frozen=True)
class ToyPrefill:
    """10 ms per batch and 50 tokens per ms."""

    gpus: int = 1
    isl_range: tuple[float, float] = (1, 100_000)

    def ttft_ms(self, isl_tokens: float) -> float:
        return 10 + isl_tokens / 50

    def throughput_per_gpu(self, isl_tokens: float) -> float:
        return isl_tokens * 1000 / self.ttft_ms(isl_tokens) / self.gpus

    def in_range(self, isl_tokens: float) -> bool:
        return True


@dataclass(frozen=True)
class ToyDecode:
    """ITL = 4 + 0.04 batch + 0.00002 KV tokens."""

    gpus: int = 1
    max_kv_tokens: int = 1_000_000
    context_range: tuple[float, float] = (1, 100_000)

    def itl_ms(self, batch: float, context_tokens: float) -> float:
        return 4 + 0.04 * batch + 0.00002 * batch * context_tokens

    def best_throughput_per_gpu(self, itl_ms: float, context_tokens: float) -> OperatingPoint:
        batch = (itl_ms - 4) / (0.04 + 0.00002 * context_tokens)
        return OperatingPoint(batch * 1000 / itl_ms / self.gpus, itl_ms, batch * context_tokens / self.max_kv_tokens, batch >= 1)

    def in_range(self, batch: float, context_tokens: float) -> bool:
        return True


@pytest.fixture(scope="session")
def toy_engine() -> Engine:
    return Engine(prefill=ToyPrefill(), decode=ToyDecode(), itl_law=ItlLaw(4.0, 0.04, 0.00002))


@pytest.fixture(scope="session")
def window():
    """Build a TrafficWindow: numbers become values, "idle" becomes idle, what is not named is unknown."""

    def build(at_s: float = 0.0, window_s: float = 15.0, **quantities: float | str | LengthHistogram) -> TrafficWindow:
        blank = unknown_traffic(at_s, window_s, "not measured in this test")
        values = {name: getattr(blank, name) for name in TrafficWindow.__slots__}
        for name, value in quantities.items():
            values[name] = Quantity.idle() if value == "idle" else value if isinstance(value, LengthHistogram) else Quantity.of(value)
        return TrafficWindow(**values)

    return build
