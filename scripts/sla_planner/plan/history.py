"""Recorded traffic as the windows that a planner would have observed, so that it can start with a memory (`planner.warm_up`).

Requests of interval k are those that arrived in [k T, (k+1) T); their lengths stand for the completions of that interval. Latencies are not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sla_planner.plan.observation import LengthHistogram, Quantity, TrafficWindow, unknown_traffic

EDGES = 2.0 ** np.arange(0, 21, 0.5)  # 1 to a million tokens, two buckets per doubling


def observed_windows(arrival_s: npt.ArrayLike, isl_tokens: npt.ArrayLike, osl_tokens: npt.ArrayLike, interval_s: float) -> Iterator[TrafficWindow]:
    """One window per whole interval, oldest first; the last one ends at time 0. Arrays of one entry per request, in order of arrival."""
    arrival, isl, osl = (np.asarray(values, float) for values in (arrival_s, isl_tokens, osl_tokens))
    count = int(arrival[-1] // interval_s)
    cuts = np.searchsorted(arrival, np.arange(count + 1) * interval_s)
    for index, (start, end) in enumerate(itertools.pairwise(cuts)):
        blank = unknown_traffic((index + 1 - count) * interval_s, interval_s, "recorded traffic has no latencies")
        requests = int(end - start)
        window = replace(blank, request_rate_rps=Quantity.of(requests / interval_s), completed_requests=Quantity.of(requests))
        if requests:
            window = replace(
                window,
                isl_tokens=Quantity.of(isl[start:end].mean()),
                osl_tokens=Quantity.of(osl[start:end].mean()),
                isl_lengths=_lengths(isl[start:end]),
                osl_lengths=_lengths(osl[start:end]),
            )
        yield window


def _lengths(tokens: npt.NDArray[np.float64]) -> LengthHistogram:
    counts = np.bincount(np.searchsorted(EDGES, tokens), minlength=len(EDGES))[: len(EDGES)]
    return LengthHistogram(tuple(EDGES.tolist()), tuple(counts.astype(float).tolist()), float(tokens.sum()))
