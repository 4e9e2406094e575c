"""The promise. A mapping is selected by it, a fleet is sized for it, traffic is judged by it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sla:
    """The promise: `attainment` (share, 0..1) of requests get their first token within `ttft_ms` and their tokens `itl_ms` apart on average."""

    ttft_ms: float = 500.0
    itl_ms: float = 50.0
    attainment: float = 0.99
