"""The settings of `preflight`: where to look. What is not named is found: the planner's settings are read from what is installed in the namespace."""

from __future__ import annotations

from typing import Annotated, Literal

from sla_planner.config import Config, Setting
from sla_planner.config_types import HTTP, HttpUrl, LoosePath
from sla_planner.planner_config import KIND_NAME, OBJECT_NAME, ObjectName, ScaleTargetName
from sla_planner.volume_config import A_NAME, KubernetesName, Text

_AS_SET = "as the planner's settings say"


class PreflightConfig(Config):
    """Whose installation is looked at. What is given of a target overrides the planner's settings."""

    namespace: Annotated[
        KubernetesName | None, Setting("namespace of the installation", default="the kubeconfig's, or the pod's", allowed=A_NAME)
    ] = None
    context: Annotated[Text | None, Setting("context of the kubeconfig", default="the current one")] = None
    planner_config: Annotated[
        LoosePath | None,
        Setting(
            "settings file of the planner (planner.yaml): its targets are looked at", metavar="FILE", default="that of the planner in the namespace"
        ),
    ] = None
    graph_deployment: Annotated[
        ObjectName | None,
        Setting(
            "DynamoGraphDeployment that is to be scaled",
            metavar="NAME",
            default=_AS_SET,
            allowed=OBJECT_NAME,
            replaces=("prefill_target", "decode_target"),
        ),
    ] = None
    prefill_target: Annotated[
        ScaleTargetName | None,
        Setting("object whose scale is the number of prefill workers", metavar=KIND_NAME, default=_AS_SET, replaces=("graph_deployment",)),
    ] = None
    decode_target: Annotated[
        ScaleTargetName | None,
        Setting("object whose scale is the number of decode workers", metavar=KIND_NAME, default=_AS_SET, replaces=("graph_deployment",)),
    ] = None
    prometheus_url: Annotated[
        HttpUrl | None,
        Setting("Prometheus to look at, as it is reached from here", env=("PROMETHEUS_ENDPOINT",), metavar="URL", default=_AS_SET, allowed=HTTP),
    ] = None
    profile_results_dir: Annotated[
        LoosePath | None, Setting("the profile, as the planner reads it; `sample` is the one that ships with the program", default=_AS_SET)
    ] = None
    model_name: Annotated[Text | None, Setting("only traffic of this model", default=_AS_SET)] = None
    pvc: Annotated[
        KubernetesName | None,
        Setting("PersistentVolumeClaim of the sweep's results", default="the one that installed Jobs mount, else dynamo-pvc", allowed=A_NAME),
    ] = None

    json_output: Annotated[bool, Setting("the findings as one JSON object on stdout", flags=("--json",))] = False
    log_format: Annotated[Literal["auto", "human", "json"], Setting("log lines; auto is human on a terminal, else json")] = "auto"

    @property
    def of_a_target(self) -> dict[str, str]:
        """What is given of a target, by the planner's names of the settings, as text."""
        names = ("graph_deployment", "prefill_target", "decode_target", "prometheus_url", "profile_results_dir", "model_name")
        return {name: str(value) for name in names if (value := getattr(self, name)) is not None}
