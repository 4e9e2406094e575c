"""What a Dynamo frontend's metrics page says, and a day in its life."""

from __future__ import annotations

import math

START_S = 1_700_000_000.0
INTERVAL_S = 15.0


def frontend(started, finished, ttft_s=0.09, itl_s=0.008, isl=3000, osl=150):
    """A Dynamo frontend's page after so many requests, each as long and as fast as the others."""
    rows = [f"dynamo_frontend_requests_started_total {started}", f"dynamo_frontend_requests_total {finished}"]
    rows += [f"dynamo_frontend_inflight_requests {started - finished}", f"dynamo_frontend_queued_requests {max(started - finished - 5, 0)}"]
    for name, value, count in (
        ("time_to_first_token_seconds", ttft_s, finished),
        ("inter_token_latency_seconds", itl_s, finished * (osl - 1)),
        ("request_duration_seconds", ttft_s + itl_s * (osl - 1), finished),
        ("input_sequence_tokens", isl, finished),
        ("output_sequence_tokens", osl, finished),
    ):
        edges = (0.01, 0.05, 0.5, 2, 128, 2048, 8192, math.inf)
        buckets = [f'_bucket{{le="{"+Inf" if edge == math.inf else edge}"}} {count if value <= edge else 0}' for edge in edges]
        rows += [f"dynamo_frontend_{name}{row}" for row in (*buckets, f"_sum {value * count}", f"_count {count}")]
    return "\n".join(rows) + "\n"


# A day in the life of a frontend: (requests in the interval, TTFT in s, page served or HTTP status).
SCRIPT = [
    *[(rate * 15, 0.09, 200) for rate in (0, 2, 8, 20, 30, 45, 45, 44, 47)],
    *[(600, 1.4, 200), (450, 0.7, 200), (100, 0.09, 503), (100, 0.09, 503), (300, 0.1, 200)],
    *[(rate * 15, 0.08, 200) for rate in (20, 10, 3, 1, 0, 0, 0, 0, 0, 0, 12, 30, 2, 2, 2, 2)],
]
RESTARTED = 12  # the frontend was, in this interval
