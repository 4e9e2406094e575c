"""What the simulated cluster is like: how workers start, and everything that a real one may do to a planner, each with a switch that is off."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Spread(StrEnum):
    """How start-up times scatter: not at all, evenly between 0.5 and 1.5 of the mean, or log-normal with sigma 0.4 around the same mean."""

    FIXED = "fixed"
    UNIFORM = "uniform"
    LOGNORMAL = "lognormal"


@dataclass(frozen=True, slots=True)
class Startup:
    """From launch to ready. `never_share` of the workers (0..1) never become ready, and say so to nobody. A worker that became ready computes
    `cold_factor` times as slowly for its first `cold_s` seconds."""

    mean_s: float = 120.0
    spread: Spread = Spread.FIXED
    never_share: float = 0.0
    cold_s: float = 0.0
    cold_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """How traffic is seen: scraped every `scrape_s`, `delay_s` late, `lost_share` (0..1) of the scrapes lost."""

    scrape_s: float = 5.0
    delay_s: float = 0.0
    lost_share: float = 0.0


@dataclass(frozen=True, slots=True)
class PrefixHits:
    """`share` (0..1) of every prompt that arrives at `from_s` or later is in a prefix cache: not computed again, and in the KV all the same."""

    share: float = 0.0
    from_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """The simulated cluster.

    slowness          the engine takes so many times as long as its profile says, at everything.
    kv_transfer_s, kv_transfer_s_per_token   between first token and decode.
    max_gpus          None = as many as anybody asks for; beyond, workers wait unscheduled.
    seed              of start-up times, failures and lost scrapes.
    """

    startup: Startup = field(default_factory=Startup)
    metrics: Metrics = field(default_factory=Metrics)
    prefix_hits: PrefixHits = field(default_factory=PrefixHits)
    slowness: float = 1.0
    kv_transfer_s: float = 0.0
    kv_transfer_s_per_token: float = 0.0
    max_gpus: int | None = None
    seed: int = 0
