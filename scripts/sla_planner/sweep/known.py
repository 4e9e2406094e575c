"""What the points of one mapping say so far, as the design of the next ones wants it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sla_planner.model.gates import LITTLE_RANGE
from sla_planner.sweep.design import DecodeKnown, Limits, PrefillKnown
from sla_planner.sweep.measure import capped
from sla_planner.sweep.points import DecodeShape, EngineFacts, Point, PrefillShape, Shape


@dataclass(slots=True)
class Known:
    """`points` in the order in which they were measured."""

    points: list[Point] = field(default_factory=list)

    def tried(self, kind: type[Shape]) -> list[Shape]:
        """Shapes of one request at a time (prefill) or of any batch (decode)."""
        return [point.shape for point in self.points if isinstance(point.shape, kind) and getattr(point.shape, "concurrency", 1) == 1]

    def surface_points(self) -> int:
        """Decode points that count against the budget: one that only showed a limit of the engine is none of its surface."""
        return sum(isinstance(point.shape, DecodeShape) and not capped(point) for point in self.points)

    def prefill(self) -> list[PrefillKnown]:
        return [
            PrefillKnown(point.prefill.isl_tokens, point.prefill.typical_ms)
            for point in self.points
            if point.prefill and not point.defects and isinstance(point.shape, PrefillShape) and point.shape.concurrency == 1
        ]

    def decode(self) -> list[DecodeKnown]:
        return [
            DecodeKnown(point.shape, point.decode.running, point.decode.context_tokens, point.decode.mean_ms)
            for point in self.points
            if point.decode and not point.defects and isinstance(point.shape, DecodeShape)
            if LITTLE_RANGE[0] <= point.decode.little_ratio(point.shape.batch) <= LITTLE_RANGE[1]
        ]

    def limits(self, facts: EngineFacts, max_context_tokens: int) -> Limits:
        """As the engine says, and as its points have shown."""
        shown = [point.decode.running for point in self.points if point.decode and capped(point)]
        known = [cap for cap in (facts.max_sequences, *shown) if cap]
        return Limits(max_context_tokens, facts.max_kv_tokens, min(known) if known else None)
