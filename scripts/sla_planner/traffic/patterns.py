"""Made-up load for a first look at a deployment: a steady baseline, a spike, and prompts of growing length.

steady         20 requests, one every 3 s, about 8 prompt tokens, 100 tokens of answer
spike          50 requests at once, about 8 prompt tokens, 200 tokens of answer
long-context   prompts of 100, 500, 1000, 1500 and 2000 words at once, 100 tokens of answer; a word counts as a token
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sla_planner.traffic.trace import Trace


def steady(requests: int = 20, every_s: float = 3.0, isl_tokens: int = 8, osl_tokens: int = 100) -> Trace:
    """A baseline: one request every `every_s` seconds."""
    return Trace(np.arange(requests, dtype=np.float64) * every_s, np.full(requests, isl_tokens), np.full(requests, osl_tokens))


def spike(requests: int = 50, isl_tokens: int = 8, osl_tokens: int = 200) -> Trace:
    """All requests at once: what a scale-up must answer."""
    return steady(requests, 0.0, isl_tokens, osl_tokens)


def long_context(isl_tokens: Sequence[int] = (100, 500, 1000, 1500, 2000), osl_tokens: int = 100) -> Trace:
    """One request per prompt length, all at once: what prefill must answer."""
    count = len(isl_tokens)
    return Trace(np.zeros(count), np.array(isl_tokens), np.full(count, osl_tokens))


SCENARIOS: Mapping[str, Callable[[], Trace]] = {"steady": steady, "spike": spike, "long-context": long_context}
