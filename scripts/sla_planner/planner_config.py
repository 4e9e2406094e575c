"""The planner's settings: `PlannerConfig` for the process, one `TargetConfig` per served model.

The flags of Dynamo's SLA planner keep their spelling and meaning. What Dynamo's planner also accepts but the algorithm never used (`--isl`, `--osl`)
is accepted and ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from sla_planner.cluster.scale_reference import is_object_name, scale_reference
from sla_planner.config import Config, Rejected, Setting
from sla_planner.config_types import HTTP, AtLeastOne, HttpUrl, LoosePath, Milliseconds, Name, NotNegative, Positive, Share
from sla_planner.errors import UsageError
from sla_planner.model.engine import Interpolation
from sla_planner.model.sla import Sla
from sla_planner.plan.settings import PlanSettings, Predictor, RoleLimits, Sizing


def _virtual_target(url: str) -> str:
    """Only the scheme is looked at here; the rest is checked by the target that opens it."""
    if not any(url.startswith(scheme) and len(url) > len(scheme) for scheme in ("file:", "etcd://")):
        raise ValueError
    return url


def _scale_reference(text: str) -> str:
    try:
        scale_reference(text)
    except UsageError as error:
        raise Rejected(error.message, hint=error.hint) from None
    return text


def _object_name(text: str) -> str:
    if not is_object_name(text):
        raise ValueError
    return text


def _state_place(text: str) -> str:
    name = text.removeprefix(CONFIG_MAP)
    if name != text and not is_object_name(name):
        raise ValueError
    return text


CONFIG_MAP = "configmap:"

VirtualTarget = Annotated[str, AfterValidator(_virtual_target)]
ScaleTargetName = Annotated[str, AfterValidator(_scale_reference)]
ObjectName = Annotated[str, AfterValidator(_object_name)]
StatePlace = Annotated[str, AfterValidator(_state_place)]

KIND_NAME = "KIND/NAME"
OBJECT_NAME = "a name of Kubernetes: lower case letters, digits, - and ."

FROM_PROFILE = "from the profile"


class PlanConfig(Config):
    """What decisions are made with: the promise, how it is kept, what may be used, and the engine's profile."""

    ttft: Annotated[Milliseconds, Setting("promised time to first token", unit="ms", flags=("--ttft-target",))] = 500.0
    itl: Annotated[Milliseconds, Setting("promised inter-token latency", unit="ms", flags=("--itl-target",))] = 50.0
    attainment: Annotated[Share, Setting("share of requests that the promise is made to")] = 0.99

    adjustment_interval: Annotated[Positive, Setting("time between decisions", unit="s")] = 15.0
    startup_s: Annotated[NotNegative, Setting("time from asking for a worker to its first request", unit="s")] = 120.0
    grace_s: Annotated[
        NotNegative | None,
        Setting("a smaller need must have lasted this long before workers leave", unit="s", default="start-up + interval; mean: none"),
    ] = None
    sizing: Annotated[
        Sizing, Strict(False), Setting("size by the mean load, or by the load that workers carry within the promise and the jumps seen")
    ] = Sizing.RISK
    unschedulable_limit_s: Annotated[NotNegative, Setting("a worker that the cluster has no room for is given back after this long", unit="s")] = (
        300.0
    )
    load_predictor: Annotated[Predictor, Strict(False), Setting("how the load of the next interval is forecast")] = Predictor.EWMA
    load_prediction_window_size: Annotated[AtLeastOne, Setting("past intervals that arima and prophet look at")] = 50
    warmup_trace: Annotated[
        LoosePath | None,
        Setting("recorded traffic (.csv, .jsonl, .gz of either) that the planner has in mind when it starts without a state", default="none"),
    ] = None
    no_correction: Annotated[bool, Setting("do not calibrate the profile with observed latencies")] = False

    max_gpu_budget: Annotated[int, Field(ge=-1), Setting("GPUs of both roles together, -1 = no limit")] = -1
    min_endpoint: Annotated[AtLeastOne, Setting("fewest workers of each role")] = 1
    min_prefill_replicas: Annotated[AtLeastOne | None, Setting("fewest prefill workers", default="min-endpoint")] = None
    max_prefill_replicas: Annotated[AtLeastOne | None, Setting("most prefill workers", default="no limit")] = None
    min_decode_replicas: Annotated[AtLeastOne | None, Setting("fewest decode workers", default="min-endpoint")] = None
    max_decode_replicas: Annotated[AtLeastOne | None, Setting("most decode workers", default="no limit")] = None
    prefill_engine_num_gpu: Annotated[AtLeastOne | None, Setting("GPUs of one prefill worker", default=FROM_PROFILE)] = None
    decode_engine_num_gpu: Annotated[AtLeastOne | None, Setting("GPUs of one decode worker", default=FROM_PROFILE)] = None

    profile_results_dir: Annotated[
        LoosePath, Setting("the profile: results folder of a profile sweep, ours or Dynamo's; `sample` is the one that ships with the program")
    ] = Path("profiling_results")
    interpolation: Annotated[Interpolation, Setting("read the profile through fitted laws, or point by point as Dynamo 0.6 does")] = "fitted"

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        for role, limits in (("prefill", self._prefill_limits(1)), ("decode", self._decode_limits(1))):
            if limits.max_workers is not None and limits.min_workers > limits.max_workers:
                names = (f"min_{role}_replicas", f"max_{role}_replicas", "min_endpoint")
                message = f"at least {limits.min_workers} and at most {limits.max_workers} {role} workers"
                raise Rejected(f"{self.whose}{message}", hint="raise the most or lower the fewest", settings=names)
        self._check_budget(self._prefill_limits(1), self._decode_limits(1))
        return self

    @property
    def whose(self) -> str:
        """Begins a message about these settings."""
        return ""

    def plan_settings(self, prefill_gpus: int, decode_gpus: int) -> PlanSettings:
        """What the pure planner needs. `prefill_gpus`, `decode_gpus`: GPUs of one worker in the profile; configured ones win.

        Raises `UsageError` when the budget does not hold the smallest fleet allowed.
        """
        prefill, decode = self._prefill_limits(prefill_gpus), self._decode_limits(decode_gpus)
        try:
            self._check_budget(prefill, decode)
        except Rejected as error:
            raise UsageError(error.message, hint=error.hint) from None
        return PlanSettings(
            sla=Sla(ttft_ms=self.ttft, itl_ms=self.itl, attainment=self.attainment),
            sizing=self.sizing,
            predictor=self.load_predictor,
            interval_s=self.adjustment_interval,
            startup_s=self.startup_s,
            grace_s=self.grace_s,
            max_gpu_budget=self.max_gpu_budget,
            prefill=prefill,
            decode=decode,
            correction=not self.no_correction,
            history_window=self.load_prediction_window_size,
            unschedulable_limit_s=self.unschedulable_limit_s,
        )

    def _prefill_limits(self, gpus: int) -> RoleLimits:
        fewest = self.min_endpoint if self.min_prefill_replicas is None else self.min_prefill_replicas
        return RoleLimits(fewest, self.max_prefill_replicas, self.prefill_engine_num_gpu or gpus)

    def _decode_limits(self, gpus: int) -> RoleLimits:
        fewest = self.min_endpoint if self.min_decode_replicas is None else self.min_decode_replicas
        return RoleLimits(fewest, self.max_decode_replicas, self.decode_engine_num_gpu or gpus)

    def _check_budget(self, prefill: RoleLimits, decode: RoleLimits) -> None:
        least = prefill.min_workers * prefill.gpus_per_worker + decode.min_workers * decode.gpus_per_worker
        if self.max_gpu_budget != -1 and self.max_gpu_budget < least:
            fleet = f"{prefill.min_workers} prefill x {prefill.gpus_per_worker} GPU + {decode.min_workers} decode x {decode.gpus_per_worker} GPU"
            message = f"{self.whose}a budget of {self.max_gpu_budget} GPUs does not hold the smallest fleet ({fleet})"
            raise Rejected(message, hint=f"raise --max-gpu-budget to {least} or more, or -1 for no limit", settings=("max_gpu_budget",))


class _Named(Config):
    name: Annotated[Name, Setting("name of the target in logs, metrics and state", allowed="letters, digits, dot, _ and -, at most 63")] = "default"


class TargetConfig(PlanConfig, _Named):  # in this order, the name comes first
    """One served model: what is promised, what may be used, where its metrics are and what is scaled."""

    isl: Annotated[Positive | None, Setting("accepted for compatibility, unused: prompt lengths are observed", unit="tokens")] = None
    osl: Annotated[Positive | None, Setting("accepted for compatibility, unused: output lengths are observed", unit="tokens")] = None

    metrics: Annotated[Literal["dynamo", "dynamo-legacy", "vllm", "sglang", "trtllm", "llamacpp"], Setting("whose metric names are read")] = "dynamo"
    prometheus_url: Annotated[
        HttpUrl | None,
        Setting("Prometheus to query", env=("PROMETHEUS_ENDPOINT",), metavar="URL", allowed=HTTP, replaces=("scrape_url",)),
    ] = None
    prometheus_bearer_token_file: Annotated[LoosePath | None, Setting("file with the bearer token sent to Prometheus")] = None
    prometheus_ca_file: Annotated[LoosePath | None, Setting("CA bundle (PEM) that Prometheus' certificate is checked with")] = None
    prometheus_tls_verify: Annotated[bool, Setting("check Prometheus' TLS certificate")] = True
    prometheus_timeout_s: Annotated[Positive, Setting("how long a query may take", unit="s")] = 5.0
    scrape_url: Annotated[
        tuple[HttpUrl, ...],
        Strict(False),
        Setting("metrics page to read directly, without Prometheus; repeatable", metavar="URL", allowed=HTTP, replaces=("prometheus_url",)),
    ] = ()
    model_name: Annotated[str | None, Setting("only traffic of this model", default="all models")] = None
    namespace: Annotated[str | None, Setting("Dynamo namespace: of the metrics, and of the keys in etcd", env=("DYN_NAMESPACE",), default="any")] = (
        None
    )

    environment: Annotated[Literal["virtual", "kubernetes"], Setting("what is scaled: a virtual target or Kubernetes objects")] = "virtual"
    backend: Annotated[
        Literal["vllm", "sglang", "trtllm", "llamacpp"], Setting("engine of the workers; a virtual target needs no knowledge of it")
    ] = "vllm"
    virtual_target: Annotated[
        VirtualTarget | None,
        Setting("where decisions are written and acknowledged", metavar="file:PATH|etcd://HOST:PORT", allowed="file:PATH or etcd://HOST:PORT"),
    ] = None
    graph_deployment: Annotated[
        ObjectName | None,
        Setting(
            "DynamoGraphDeployment to scale: both roles in one write",
            env=("DYN_PARENT_DGD_K8S_NAME",),
            metavar="NAME",
            allowed=OBJECT_NAME,
            replaces=("prefill_target", "decode_target"),
        ),
    ] = None
    prefill_target: Annotated[
        ScaleTargetName | None,
        Setting("object whose scale is the number of prefill workers, e.g. deployment/prefill", metavar=KIND_NAME, replaces=("graph_deployment",)),
    ] = None
    decode_target: Annotated[
        ScaleTargetName | None,
        Setting("object whose scale is the number of decode workers", metavar=KIND_NAME, replaces=("graph_deployment",)),
    ] = None
    target_namespace: Annotated[
        ObjectName | None,
        Setting("Kubernetes namespace of what is scaled", default="the planner's own", metavar="NAME", allowed=OBJECT_NAME),
    ] = None

    @model_validator(mode="after")
    def _has_metrics(self) -> Self:
        if (self.prometheus_url is None) == (not self.scrape_url):
            both = "both a Prometheus and pages to scrape are given" if self.scrape_url else "nothing to read metrics from"
            names = ("prometheus_url", "scrape_url")
            raise Rejected(f"target {self.name}: {both}", hint="give either --prometheus-url or --scrape-url", settings=names)
        return self

    @model_validator(mode="after")
    def _has_something_to_scale(self) -> Self:
        if self.environment == "virtual" and self.virtual_target is None:
            named = self.prefill_target or self.decode_target
            hint = "add --environment kubernetes" if named else "give --virtual-target file:PATH or etcd://HOST:PORT"
            raise Rejected(f"target {self.name}: nothing to scale", hint=hint)
        if self.virtual_target and self.virtual_target.startswith("etcd:") and not self.namespace:
            raise Rejected(f"target {self.name}: keys in etcd need a namespace", hint="give --namespace", settings=("virtual_target",))
        return self

    @model_validator(mode="after")
    def _has_two_roles(self) -> Self:
        if self.environment != "kubernetes":
            return self
        if self.graph_deployment:
            if self.prefill_target or self.decode_target:
                names = ("graph_deployment", "prefill_target", "decode_target")
                raise Rejected(f"target {self.name}: both a graph and objects of its roles are given", hint="give one of both", settings=names)
            return self
        if not (self.prefill_target and self.decode_target):
            given = "only one role" if self.prefill_target or self.decode_target else "nothing"
            hint = "give --graph-deployment NAME, or both --prefill-target and --decode-target (KIND/NAME)"
            raise Rejected(f"target {self.name}: {given} to scale", hint=hint, settings=("prefill_target", "decode_target"))
        if scale_reference(self.prefill_target) == scale_reference(self.decode_target):
            message = f"target {self.name}: both roles are {self.prefill_target}"
            raise Rejected(message, hint="give each role an object of its own", settings=("prefill_target", "decode_target"))
        return self

    @property
    def whose(self) -> str:
        return f"target {self.name}: "

    @property
    def doors(self) -> frozenset[str]:
        """What a decision of this target is written to: two targets must not share one."""
        if self.environment == "kubernetes":
            place = f" in namespace {self.target_namespace}" if self.target_namespace else ""
            if self.graph_deployment:
                return frozenset({f"DynamoGraphDeployment/{self.graph_deployment}{place}"})
            return frozenset(f"{scale_reference(each)}{place}" for each in (self.prefill_target, self.decode_target) if each)
        in_etcd = self.virtual_target is not None and self.virtual_target.startswith("etcd:")
        return frozenset({f"{self.virtual_target} namespace {self.namespace}" if in_etcd else str(self.virtual_target)})


class PlannerConfig(Config):
    """One planner process and the targets that it serves."""

    targets: tuple[TargetConfig, ...]
    once: Annotated[bool, Setting("decide once for every target, then exit")] = False
    no_operation: Annotated[bool, Setting("observe, decide and explain, but change nothing")] = False
    state: Annotated[
        StatePlace | None,
        Setting(
            "file, folder or ConfigMap that keeps the planner's memory across restarts",
            default="memory only",
            metavar="PATH|configmap:NAME",
            allowed="a path, or configmap:NAME",
        ),
    ] = None
    lease: Annotated[
        ObjectName | None,
        Setting("Lease of which one planner is the holder: the others stand by", default="none", metavar="NAME", allowed=OBJECT_NAME),
    ] = None
    prometheus_port: Annotated[int, Field(ge=0, le=65535), Setting("port of the planner's own /metrics, 0 = off")] = 0
    log_format: Annotated[Literal["auto", "human", "json"], Setting("log lines; auto is human on a terminal, else json")] = "auto"

    @model_validator(mode="after")
    def _lease_lasts(self) -> Self:
        if self.once and self.lease:
            raise Rejected("--lease is for a planner that goes on", hint="leave it out; a CronJob has concurrencyPolicy: Forbid", settings=("lease",))
        return self

    @model_validator(mode="after")
    def _targets_are_distinct(self) -> Self:
        for index, target in enumerate(self.targets):
            for other in self.targets[:index]:
                if target.name == other.name:
                    raise Rejected(f"two targets are named {target.name}", hint="give each its own `name`")
                if shared := sorted(target.doors & other.doors):
                    raise Rejected(f"targets {other.name} and {target.name} write to the same {shared[0]}", hint="give each its own")
        return self
