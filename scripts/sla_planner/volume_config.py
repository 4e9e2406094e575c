"""The settings of `inject-config` and `download-results`: which volume, how it is reached, and what is copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sla_planner import __version__
from sla_planner.config import Config, Rejected, Setting
from sla_planner.config_types import LoosePath, Positive
from sla_planner.errors import UsageError
from sla_planner.volume.paths import ROOT, inside

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def _on_volume(path: str) -> str:
    try:
        inside(path)
    except UsageError as error:
        raise Rejected(error.message, hint=error.hint) from None
    return path


def _toleration(text: str) -> str:
    try:
        toleration_of(text)
    except ValueError:
        raise Rejected(f"{text!r} is no toleration", hint="write KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT") from None
    return text


def toleration_of(text: str) -> dict[str, Any]:
    """`key=value:NoSchedule` as Kubernetes has it. Raises `ValueError`."""
    rest, _, effect = text.rpartition(":") if ":" in text else (text, "", "")
    key, equals, value = rest.partition("=")
    if not key or (":" in text and effect not in _EFFECTS):
        raise ValueError
    found = {"key": key, "operator": "Equal", "value": value} if equals else {"key": key, "operator": "Exists"}
    return found | ({"effect": effect} if effect else {})


KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
VolumePath = Annotated[str, AfterValidator(_on_volume)]
Toleration = Annotated[str, AfterValidator(_toleration)]
Text = Annotated[str, Field(min_length=1)]

A_NAME = "a name as Kubernetes has them"
A_PLACE = f"a path that starts with {ROOT}/"


class VolumeConfig(Config):
    """Which volume, and how it is reached: by an access pod, or because it is mounted here."""

    namespace: Annotated[KubernetesName | None, Setting("namespace of the PVC", default="the kubeconfig's, or the pod's", allowed=A_NAME)] = None
    context: Annotated[Text | None, Setting("context of the kubeconfig", default="the current one")] = None
    pvc: Annotated[KubernetesName, Setting("PersistentVolumeClaim", allowed=A_NAME)] = "dynamo-pvc"
    volume_path: Annotated[
        LoosePath | None, Setting("the volume is mounted here: no access pod is made", default=f"{ROOT}, in a pod that has a volume there")
    ] = None
    access_image: Annotated[Text, Setting("image of the access pod")] = f"sla-planner/volume-tools:{__version__}"
    image_pull_secret: Annotated[KubernetesName | None, Setting("Secret for pulling it", default="none", allowed=A_NAME)] = None
    toleration: Annotated[
        tuple[Toleration, ...],
        Setting("taint that the access pod tolerates; repeatable", default="those of a pod that holds the volume", allowed="KEY[=VALUE][:EFFECT]"),
    ] = ()
    start_limit_s: Annotated[Positive, Setting("how long the access pod may take to start", unit="s")] = 120.0


class InjectConfig(VolumeConfig):
    """Which file goes where."""

    src: Annotated[
        Text | None, Setting("the file; - is standard input", metavar="FILE", default="the base manifest of --backend", allowed="a path, or -")
    ] = None
    backend: Annotated[Literal["vllm", "sglang", "trtllm"], Setting("whose base manifest is taken without --src")] = "vllm"
    dest: Annotated[VolumePath, Setting("where it goes", metavar="PATH", allowed=A_PLACE)] = f"{ROOT}/configs/disagg.yaml"
    any_file: Annotated[bool, Setting("take the file as it is, also when it is no DynamoGraphDeployment", flags=("--any",))] = False
    force: Annotated[bool, Setting("replace another file of that name")] = False

    json_output: Annotated[bool, Setting("the result as one JSON object on stdout", flags=("--json",))] = False
    log_format: Annotated[Literal["auto", "human", "json"], Setting("log lines; auto is human on a terminal, else json")] = "auto"

    @model_validator(mode="after")
    def _names_a_file(self) -> Self:
        if not inside(self.dest) or self.dest.endswith("/"):
            raise Rejected(f"{self.dest} names a folder", hint="name the file as well", settings=("dest",))
        if self.any_file and self.src is None:
            raise Rejected("--any-file means nothing without --src", hint="add it", settings=("any_file",))
        return self


class DownloadConfig(VolumeConfig):
    """Which folder goes where."""

    folder: Annotated[VolumePath, Setting("folder on the volume", metavar="PATH", allowed=A_PLACE)] = f"{ROOT}/profiling_results"
    output_dir: Annotated[LoosePath, Setting("where it goes")] = Path("results")
    skip_config: Annotated[bool, Setting("leave YAML files out: manifests and settings of engines", flags=("--no-config",))] = False
    force: Annotated[bool, Setting("replace files that differ")] = False
    checksums: Annotated[bool, Setting("print the checksum of every file, as sha256sum does, and copy nothing")] = False

    json_output: Annotated[bool, Setting("the result as one JSON object on stdout", flags=("--json",))] = False
    log_format: Annotated[Literal["auto", "human", "json"], Setting("log lines; auto is human on a terminal, else json")] = "auto"
