"""The settings of `reconcile-requests`: which requests, how often, and what everything that it makes is made of."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, Strict, model_validator

from sla_planner import __version__
from sla_planner.config import Config, Rejected, Setting
from sla_planner.config_types import HTTP, HttpUrl, Positive
from sla_planner.request.settings import Settings
from sla_planner.volume_config import A_NAME, KubernetesName, Text

JOB_RESOURCES = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
"""Of a profiling Job whose request says nothing: those of jobs/profile-sweep."""


def _planner_arg(text: str) -> str:
    if not text.startswith("--"):
        raise Rejected(f"{text!r} is no flag of the planner", hint="write it with its dashes and =, e.g. --grace-s=60")
    return text


Seconds = Annotated[int, Field(ge=1)]
PlannerArg = Annotated[str, AfterValidator(_planner_arg)]


class RequestsConfig(Config):
    """For all requests of one namespace."""

    namespace: Annotated[KubernetesName | None, Setting("whose requests", default="the kubeconfig's, or the pod's", allowed=A_NAME)] = None
    context: Annotated[Text | None, Setting("context of the kubeconfig", default="the current one")] = None

    once: Annotated[bool, Setting("do what can be done now for every request, and exit; nothing is waited for")] = False
    dry_run: Annotated[bool, Setting("say what would be done, and do nothing; it implies --once")] = False
    resync_s: Annotated[Positive, Setting("every request is looked at at least this often", unit="s")] = 60.0
    lease: Annotated[
        KubernetesName | None, Setting("Lease that only one of several has, in the namespace of the requests", default="none", allowed=A_NAME)
    ] = None
    health_port: Annotated[int, Field(ge=0, le=65535), Setting("port of /healthz and /readyz, 0 = off")] = 0

    profiler_image: Annotated[Text, Setting("image of profiling Jobs whose request names none")] = f"sla-planner/profile-sweep:{__version__}"
    planner_image: Annotated[Text, Setting("image of the planner in generated deployments")] = f"sla-planner/planner:{__version__}"
    image_pull_secret: Annotated[
        tuple[KubernetesName, ...], Strict(False), Setting("Secret for pulling images of what is made; repeatable", allowed=A_NAME)
    ] = ()
    image_limit_s: Annotated[Positive, Setting("how long an image may fail to be pulled before its request fails", unit="s")] = 300.0
    hf_token_secret: Annotated[
        KubernetesName | None, Setting("Secret with the Hugging Face token, for engines and Jobs", default="none", allowed=A_NAME)
    ] = None
    hf_token_key: Annotated[Text, Setting("its key")] = "HF_TOKEN"

    profiler_service_account: Annotated[KubernetesName, Setting("account of profiling Jobs", allowed=A_NAME)] = "profile-sweep"
    planner_service_account: Annotated[KubernetesName, Setting("account of generated planners", allowed=A_NAME)] = "planner"
    job_deadline_s: Annotated[Seconds, Setting("how long profiling may take", unit="s")] = 28800
    job_ttl_s: Annotated[Seconds, Setting("how long a Job that is over stays", unit="s")] = 604800

    prometheus_url: Annotated[
        HttpUrl,
        Setting(
            "Prometheus that generated planners query", flags=("--prometheus-endpoint",), env=("PROMETHEUS_ENDPOINT",), metavar="URL", allowed=HTTP
        ),
    ] = "http://prometheus-kube-prometheus-prometheus.monitoring:9090"
    planner_metrics_port: Annotated[int, Field(ge=1, le=65535), Setting("port of a generated planner's /metrics")] = 9085
    planner_arg: Annotated[
        tuple[PlannerArg, ...],
        Strict(False),
        Setting("flag of every generated planner, before those of its request; repeatable", allowed="--FLAG or --FLAG=VALUE"),
    ] = ()

    log_format: Annotated[Literal["auto", "human", "json"], Setting("log lines; auto is human on a terminal, else json")] = "auto"

    @model_validator(mode="after")
    def _dry_run_takes_no_lease(self) -> Self:
        if self.dry_run and self.lease:
            raise Rejected("--lease means nothing with --dry-run", hint="leave it out: nothing is written", settings=("lease",))
        return self

    def settings(self) -> Settings:
        """As the room `request` has them."""
        return Settings(
            profiler_image=self.profiler_image,
            planner_image=self.planner_image,
            planner_metrics_port=self.planner_metrics_port,
            prometheus_endpoint=self.prometheus_url,
            pull_secrets=self.image_pull_secret,
            hf_token_secret=self.hf_token_secret or "",
            hf_token_key=self.hf_token_key,
            sweep_service_account=self.profiler_service_account,
            planner_service_account=self.planner_service_account,
            planner_args=self.planner_arg,
            job_resources=JOB_RESOURCES,
            job_deadline_s=self.job_deadline_s,
            job_kept_s=self.job_ttl_s,
            image_limit_s=self.image_limit_s,
            version=__version__,
        )
