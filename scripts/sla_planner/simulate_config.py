"""The settings of `simulate`: whose traffic, on which engine and what kind of cluster, under which policies.

How the planner is set is what the planner itself is set with (`PlanConfig`); the cluster's switches are `simulate.options`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from sla_planner.config import Rejected, Setting
from sla_planner.config_types import HTTP, AtLeastOne, HttpUrl, LoosePath, NotNegative, Positive, Share
from sla_planner.planner_config import PlanConfig
from sla_planner.simulate.options import ClusterOptions, Metrics, PrefixHits, Spread, Startup
from sla_planner.volume_config import Text

SAMPLE = "sample"
POLICIES = (  # as `simulate.contestants` knows them, which takes too long to load for a help text
    "slaplanner",
    "static",
    "hpa",
    "hpa-customary",
    "dynamo06",
    "dynamo06-headroom",
    "threshold",
    "threshold-customary",
    "clairvoyant",
    "fluid-bound",
)
SEEDS = 2**32
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
SPAN = "a number of seconds, or with its unit: 90s, 30m, 12h, 7d, 2w"
MOST_WORKERS = 10_000  # of one role at the start: more is a slip of the pen

_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([smhdw]?)")
_FLEET = re.compile(r"([0-9]+),([0-9]+)")


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _SPAN.fullmatch(value.strip())
    if found is None:
        raise ValueError
    return float(found[1]) * SECONDS[found[2] or "s"]


def _names(value: Any) -> Any:
    """`a,b` and `a b` are two names, wherever they stand."""
    if isinstance(value, Iterable) and not isinstance(value, dict):
        parts = [value] if isinstance(value, str) else list(value)
        if all(isinstance(part, str) for part in parts):
            return tuple(dict.fromkeys(name for part in parts for name in part.replace(",", " ").split()))
    return value


def _fleet(text: str) -> str:
    found = _FLEET.fullmatch(text.replace(" ", ""))
    if found is None or not all(1 <= int(count) <= MOST_WORKERS for count in found.groups()):
        raise ValueError
    return text.replace(" ", "")


Span = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in POLICIES:
            near = difflib.get_close_matches(name, POLICIES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise Rejected(f"unknown policy {name!r}", hint=f"{hint}known: {', '.join(POLICIES)}")
    return names


Names = Annotated[tuple[str, ...], Strict(False), BeforeValidator(_names), Field(min_length=1), AfterValidator(_known)]
LessThanAll = Annotated[float, Field(ge=0, lt=1)]


class SimulateConfig(PlanConfig):
    """One comparison: the same traffic under every policy that is named."""

    trace: Annotated[
        LoosePath | None,
        Setting(
            f"recorded traffic: .csv (arrival_s,isl,osl), .jsonl (Mooncake), or .gz of either; `{SAMPLE}` is a shipped one",
            metavar="FILE",
            replaces=("from_prometheus",),
        ),
    ] = None
    from_prometheus: Annotated[
        HttpUrl | None,
        Setting("Prometheus that has scraped the frontends: its history is the traffic", metavar="URL", allowed=HTTP, replaces=("trace",)),
    ] = None
    last: Annotated[Span, Setting("how much of that history, up to now", metavar="SPAN", allowed=SPAN, default="7d")] = 7 * SECONDS["d"]
    step_s: Annotated[float, Field(ge=5), Setting("that history is read in steps of this length; within one, arrivals are drawn", unit="s")] = 60.0
    metrics: Annotated[Literal["dynamo", "dynamo-legacy", "vllm", "sglang", "trtllm"], Setting("whose metric names are read")] = "dynamo"
    model_name: Annotated[Text | None, Setting("only traffic of this model", default="all models")] = None
    namespace: Annotated[Text | None, Setting("Dynamo namespace of the metrics", env=("DYN_NAMESPACE",), default="any")] = None
    prometheus_bearer_token_file: Annotated[LoosePath | None, Setting("file with the bearer token sent to Prometheus")] = None
    prometheus_ca_file: Annotated[LoosePath | None, Setting("CA bundle (PEM) that Prometheus' certificate is checked with")] = None
    prometheus_tls_verify: Annotated[bool, Setting("check Prometheus' TLS certificate")] = True
    prometheus_timeout_s: Annotated[Positive, Setting("how long a query may take", unit="s")] = 30.0

    start_s: Annotated[NotNegative, Setting("begin at this second of the traffic", unit="s")] = 0.0
    duration_s: Annotated[Span | None, Setting("take so much of it", metavar="SPAN", allowed=SPAN, default="all")] = None
    scale: Annotated[Positive, Setting("this many times the load: requests are copied and jittered by up to 15 s, or thinned")] = 1.0
    speed_up: Annotated[Positive, Setting("play it this many times as fast, which makes ramps steeper")] = 1.0

    profile_results_dir: Annotated[
        LoosePath,
        Setting(
            "the profile: results folder of a profile sweep, ours or Dynamo's; `sample` is the one that ships with the program",
            flags=("--profile",),
            metavar="DIR",
        ),
    ] = Path("profiling_results")

    policy: Annotated[
        Names,
        Setting(f"who is to scale: {', '.join(POLICIES)}", metavar="NAMES", allowed="names with commas between", default="slaplanner,static"),
    ] = ("slaplanner", "static")
    goal: Annotated[
        Share | None,
        Setting("share of requests inside the promise that settings are searched for, and that a policy is judged by", default="the attainment"),
    ] = None
    start_workers: Annotated[
        Annotated[str, AfterValidator(_fleet)] | None,
        Setting(
            "workers that are ready when the traffic begins",
            flags=("--start",),
            metavar="P,D",
            allowed="two whole numbers > 0: prefill,decode",
            default="what the first 10 minutes need",
        ),
    ] = None
    restart_every: Annotated[
        Span | None, Setting("the planner is ended and goes on from its saved state, as often as that", metavar="SPAN", allowed=SPAN, default="never")
    ] = None

    real_startup_s: Annotated[
        NotNegative | None, Setting("what a start-up really takes on average, whatever the planner is told", unit="s", default="startup-s")
    ] = None
    startup_spread: Annotated[
        Spread, Strict(False), Setting("how start-ups scatter: not at all, evenly from 0.5 to 1.5 of the mean, or log-normally with sigma 0.4")
    ] = Spread.FIXED
    startup_never: Annotated[LessThanAll, Setting("share of workers that never become ready")] = 0.0
    cold_s: Annotated[NotNegative, Setting("a new worker is slower for so long", unit="s")] = 0.0
    cold_factor: Annotated[float, Field(ge=1), Setting("by so many times")] = 2.0
    scrape_s: Annotated[Positive, Setting("time between scrapes of the simulated Prometheus", unit="s")] = 5.0
    metrics_delay_s: Annotated[NotNegative, Setting("metrics are seen so late", unit="s")] = 0.0
    metrics_lost: Annotated[LessThanAll, Setting("share of scrapes that are lost")] = 0.0
    prefix_hits: Annotated[LessThanAll, Setting("share of every prompt that is in a prefix cache")] = 0.0
    prefix_hits_from: Annotated[
        Annotated[float, BeforeValidator(_seconds), Field(ge=0)],
        Setting("only of requests that arrive so long after the beginning", metavar="SPAN", allowed=SPAN),
    ] = 0.0
    slowness: Annotated[Positive, Setting("the engine takes so many times as long as its profile says")] = 1.0
    kv_transfer_s: Annotated[NotNegative, Setting("from the first token to decode", unit="s")] = 0.0
    kv_transfer_s_per_token: Annotated[NotNegative, Setting("the same, for every token of the prompt", unit="s")] = 0.0
    cluster_gpus: Annotated[AtLeastOne | None, Setting("GPUs that there are; workers beyond them wait", default="no limit")] = None
    seed: Annotated[int, Field(ge=0, lt=SEEDS), Setting("of copies, jitter and what is drawn, of start-ups and lost scrapes")] = 0

    output_dir: Annotated[
        LoosePath | None, Setting("folder for report.html, its pictures and result.json", flags=("--out",), metavar="DIR", default="none is written")
    ] = None
    json_output: Annotated[bool, Setting("the result as one JSON object on stdout", flags=("--json",))] = False
    log_format: Annotated[Literal["auto", "human", "json"], Setting("log lines; auto is human on a terminal, else json")] = "auto"

    @model_validator(mode="after")
    def _has_traffic(self) -> Self:
        if (self.trace is None) == (self.from_prometheus is None):
            both = "both a trace and a Prometheus are given" if self.trace else "there is no traffic to simulate"
            hint = f"give either --trace FILE (`--trace {SAMPLE}` is a shipped one) or --from-prometheus URL"
            raise Rejected(both, hint=hint, settings=("trace", "from_prometheus"))
        return self

    @property
    def first_workers(self) -> tuple[int, int] | None:
        """Prefill, decode: ready when the traffic begins, where somebody said so."""
        if self.start_workers is None:
            return None
        prefill, decode = self.start_workers.split(",")
        return int(prefill), int(decode)

    @property
    def options(self) -> ClusterOptions:
        """The simulated cluster."""
        mean_s = self.startup_s if self.real_startup_s is None else self.real_startup_s
        return ClusterOptions(
            startup=Startup(mean_s, self.startup_spread, self.startup_never, self.cold_s, self.cold_factor if self.cold_s else 1.0),
            metrics=Metrics(self.scrape_s, self.metrics_delay_s, self.metrics_lost),
            prefix_hits=PrefixHits(self.prefix_hits, self.prefix_hits_from),
            slowness=self.slowness,
            kv_transfer_s=self.kv_transfer_s,
            kv_transfer_s_per_token=self.kv_transfer_s_per_token,
            max_gpus=self.cluster_gpus,
            seed=self.seed,
        )
