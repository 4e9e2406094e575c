"""The settings of `profile-sweep`.

Flags that Dynamo's profiler has keep their spelling and meaning. Where an engine comes from is said by exactly one of `--engine-command`,
`--endpoint`, `--dgd` and `--workload`; with `--use-ai-configurator` none is needed, and one that is given calibrates.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sla_planner.config import Config, Rejected, Setting
from sla_planner.config_types import HTTP, AtLeastOne, HttpUrl, LoosePath, Milliseconds, Name, Positive, Share
from sla_planner.model.sla import Sla
from sla_planner.sweep.estimate import START_S, EstimateOptions
from sla_planner.sweep.result import Goal
from sla_planner.sweep.space import Hardware
from sla_planner.traffic.prompt_form import PromptForm

SOURCES = ("engine_command", "endpoint", "dgd", "workload")
_PLACEHOLDERS = ("port", "model", *(f"{phase}_{size}" for phase in ("prefill", "decode") for size in ("tp", "dp", "ep", "gpus")))


def _verify_command(template: str) -> str:
    try:
        named = [f"{name}{f':{form}' if form else ''}" for _, name, form, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        raise Rejected("a brace of the template is not closed", hint="write a brace that is meant as such twice") from None
    allowed = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
    for name in named:
        if name not in _PLACEHOLDERS:
            raise Rejected(f"the template has an unknown placeholder {{{name}}}", hint=f"use {allowed}, and write other braces twice")
    if "port" not in named:
        raise Rejected("the template does not say where the port goes", hint="write {port} where the command takes the port of the frontend")
    return template


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


Text = Annotated[str, AfterValidator(_not_blank)]
Port = Annotated[int, Field(ge=1, le=65535)]
FROM_MODEL = "from the model's config"


class SweepConfig(Config):
    """One sweep: what is promised, what may be used, where the engines come from and what is done with the result."""

    backend: Annotated[Name, Setting("engine that is measured", allowed="vllm, sglang, trtllm, llamacpp or simulated")] = "vllm"
    model: Annotated[Text | None, Setting("name of the model to ask for", default="the first that the server lists")] = None

    isl: Annotated[AtLeastOne, Setting("prompt length that the promise is made for", unit="tokens")] = 3000
    osl: Annotated[int, Field(ge=2), Setting("answer length that the promise is made for", unit="tokens")] = 500
    ttft: Annotated[Milliseconds, Setting("promised time to first token", unit="ms", flags=("--ttft-target",))] = 500.0
    itl: Annotated[Milliseconds, Setting("promised inter-token latency", unit="ms", flags=("--itl-target",))] = 50.0
    attainment: Annotated[Share, Setting("share of requests that the promise is made to")] = 0.99

    min_num_gpus: Annotated[
        AtLeastOne | None, Setting("fewest GPUs of one engine", flags=("--min-num-gpus-per-engine",), default="1, or as many as the weights need")
    ] = None
    max_num_gpus: Annotated[
        AtLeastOne | None, Setting("most GPUs of one engine", flags=("--max-num-gpus-per-engine",), default="a node; MoE: 32; endpoint: the fewest")
    ] = None
    num_gpus_per_node: Annotated[AtLeastOne, Setting("GPUs of one node")] = 8
    max_gpus: Annotated[
        AtLeastOne | None,
        Setting("GPUs that the sweep may use at once; in a cluster engines run side by side on them", default="no limit, one after the other"),
    ] = None
    vram_gib: Annotated[Positive | None, Setting("memory of one GPU, as its driver reports it", unit="GiB", default="unknown")] = None

    is_moe_model: Annotated[bool | None, Setting("the model has experts: TEP for prefill, DEP for decode", default=FROM_MODEL)] = None
    model_config_path: Annotated[
        LoosePath | None, Setting("the model's config.json, or the folder that holds it", flags=("--model-config",), default="none")
    ] = None
    model_size_gib: Annotated[Positive | None, Setting("size of the model's weights", unit="GiB", default="counted from its config")] = None
    max_context_length: Annotated[AtLeastOne | None, Setting("longest prompt and answer together", unit="tokens", default=FROM_MODEL)] = None
    max_kv_tokens: Annotated[AtLeastOne | None, Setting("KV capacity of one engine, instead of what it says itself", unit="tokens")] = None

    engine_command: Annotated[
        Text | None,
        Setting(
            "command that starts an engine on this machine, with {port}, {model}, {tp}, {pp}, {dp}, {ep}, {gpus} and {phase} filled in",
            metavar="TEMPLATE",
            replaces=("endpoint", "dgd", "workload"),
        ),
    ] = None
    endpoint: Annotated[
        HttpUrl | None,
        Setting("engine that runs already", metavar="URL", allowed=HTTP, replaces=("engine_command", "dgd", "workload")),
    ] = None
    dgd: Annotated[
        LoosePath | None,
        Setting(
            "DynamoGraphDeployment (YAML) that engines are derived from; they run in this cluster, by Dynamo's operator",
            replaces=("engine_command", "endpoint", "workload"),
        ),
    ] = None
    workload: Annotated[
        LoosePath | None,
        Setting(
            "Kubernetes objects of one engine (YAML: a Deployment, a Service ...), with {name} and what an engine command has filled in",
            replaces=("engine_command", "endpoint", "dgd"),
        ),
    ] = None
    image: Annotated[Text | None, Setting("container image of the engine; {image} of a workload", default="the manifest's")] = None
    engine_port: Annotated[
        Port | None,
        Setting("port of the Service that leads to an engine; {port} of a workload", default="the one called http, the only one, 8000"),
    ] = None
    gpu_wait_s: Annotated[Positive, Setting("how long an engine in a cluster may wait for GPUs that others use", unit="s")] = 300.0
    autoscaled: Annotated[bool, Setting("nodes are added on demand: start engines also that no present node can hold")] = False
    ready_limit_s: Annotated[Positive, Setting("how long an engine may take to start", unit="s")] = 1800.0
    expected_start_s: Annotated[Positive, Setting("how long an engine is expected to take, for the estimate", unit="s")] = START_S

    prompts: Annotated[
        Literal["auto", "ids", "text", "chat"],
        Setting("what carries a prompt: token ids, words, or a chat; auto takes the first that the server accepts"),
    ] = "auto"
    prefill_interpolation_granularity: Annotated[int, Field(ge=4), Setting("most prompt lengths of a prefill curve")] = 8
    decode_interpolation_granularity: Annotated[int, Field(ge=5), Setting("most points of a decode surface")] = 12
    separate_phases: Annotated[bool, Setting("start an engine for each phase also where one serves both")] = False
    force_rerun: Annotated[bool, Setting("measure again what an earlier sweep has measured")] = False

    verify: Annotated[bool, Setting("in the end put the picks to use and compare them with their profile")] = True
    verify_command: Annotated[
        Annotated[str, AfterValidator(_verify_command)] | None,
        Setting(
            "command that starts the picked pair behind one port, with {port}, {model}, {prefill_tp}, {decode_tp} (also _dp, _ep, _gpus) filled in",
            metavar="TEMPLATE",
            default="none",
        ),
    ] = None

    aiperf: Annotated[bool, Setting("measure the pick with aiperf as well; it must be on PATH")] = False

    use_ai_configurator: Annotated[bool, Setting("compute the profile with AI Configurator instead of measuring it")] = False
    aic_system: Annotated[Name | None, Setting("AI Configurator's name of the GPU, e.g. h200_sxm")] = None
    aic_hf_id: Annotated[
        Text | None, Setting("AI Configurator's name of the model (Hugging Face id)", flags=("--aic-model-name",), default="the model")
    ] = None
    aic_backend_version: Annotated[Name | None, Setting("engine version whose tables are used", default="the latest")] = None
    aic_kv_cache_type: Annotated[Name | None, Setting("type of the KV cache, e.g. bfloat16", default="as the checkpoint suggests")] = None
    calibrate: Annotated[bool, Setting("correct the computed profile with a few measured points; implied where engines can be started")] = False

    output_dir: Annotated[LoosePath, Setting("results folder; what it holds of an earlier sweep is gone on with")] = Path("profiling_results")
    publish_configmap: Annotated[Name | None, Setting("ConfigMap of this namespace that holds the profile in the end", default="none")] = None
    publish_existing_only: Annotated[
        bool, Setting("publish into a ConfigMap that is there, and make none: one that is gone is not wanted any more")
    ] = False
    dry_run: Annotated[bool, Setting("write what would be started and what it would cost, and start nothing")] = False
    json_output: Annotated[bool, Setting("the result as one JSON object on stdout", flags=("--json",))] = False
    log_format: Annotated[Literal["auto", "human", "json"], Setting("log lines; auto is human on a terminal, else json")] = "auto"

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = self._given(*SOURCES)
        if len(given) > 1:
            raise Rejected(f"{' and '.join(map(_flag, given))} are given", hint="give one of them", settings=given)
        if not given and not self.use_ai_configurator:
            flags = "--engine-command TEMPLATE, --endpoint URL, --dgd FILE or --workload FILE"
            raise Rejected("nothing to measure", hint=f"give {flags}, or --use-ai-configurator for a computed profile")
        return self

    @model_validator(mode="after")
    def _offline_settings_agree(self) -> Self:
        offline = self._given("aic_system", "aic_hf_id", "aic_backend_version", "aic_kv_cache_type", "calibrate")
        if not self.use_ai_configurator:
            if offline:
                raise Rejected(f"{_flag(offline[0])} means nothing without --use-ai-configurator", hint="add it", settings=offline)
            return self
        if self.aic_system is None:
            raise Rejected("AI Configurator needs to know the GPU", hint="give --aic-system, e.g. h200_sxm", settings=("use_ai_configurator",))
        if self.aic_hf_id is None and self.model is None:
            hint = "give --aic-hf-id, e.g. Qwen/Qwen3-32B"
            raise Rejected("AI Configurator needs to know the model", hint=hint, settings=("use_ai_configurator",))
        if self.calibrate and self.source is None:
            hint = "give --engine-command, --endpoint, --dgd or --workload as well"
            raise Rejected("calibrating needs an engine to measure", hint=hint, settings=("calibrate",))
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        fewest, most = self.min_num_gpus or 1, self.max_num_gpus
        if most is not None and fewest > most:
            names = ("min_num_gpus", "max_num_gpus")
            raise Rejected(f"at least {fewest} and at most {most} GPUs of one engine", hint="raise the most or lower the fewest", settings=names)
        if self.max_gpus is not None and fewest > self.max_gpus:
            message = f"{self.max_gpus} GPUs do not hold an engine of {fewest}"
            raise Rejected(message, hint="raise --max-gpus or lower --min-num-gpus", settings=("max_gpus", "min_num_gpus"))
        if self.endpoint is not None and most is not None and fewest != most:
            message = f"an endpoint is one engine, not one of {fewest} to {most} GPUs"
            raise Rejected(
                message, hint=f"give --min-num-gpus {most} as well, if it has {most}", settings=("endpoint", "min_num_gpus", "max_num_gpus")
            )
        return self

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        longest = self.isl + self.osl
        for name, limit in (("max_context_length", self.max_context_length), ("max_kv_tokens", self.max_kv_tokens)):
            if limit is not None and longest > limit:
                message = f"a request of {self.isl} + {self.osl} = {longest} tokens does not fit {limit}"
                raise Rejected(message, hint=f"lower --isl or --osl, or raise {_flag(name)}", settings=("isl", "osl", name))
        return self

    @property
    def source(self) -> str | None:
        """Which of `SOURCES` is given."""
        return next(iter(self._given(*SOURCES)), None)

    @property
    def in_cluster(self) -> bool:
        """Whether engines run on Kubernetes."""
        return self.dgd is not None or self.workload is not None

    @property
    def gpus_at_once(self) -> int | None:
        """Engines run side by side on so many; None: one after the other, as processes of one machine have to."""
        return self.max_gpus if self.in_cluster else None

    @property
    def calibrates(self) -> bool:
        """Whether a computed profile is corrected with measured points."""
        return self.use_ai_configurator and self.source is not None

    @property
    def prompt_form(self) -> PromptForm | None:
        """None: what the server accepts."""
        return None if self.prompts == "auto" else PromptForm(self.prompts)

    def goal(self) -> Goal:
        """What is promised, for requests of which shape."""
        return Goal(Sla(ttft_ms=self.ttft, itl_ms=self.itl, attainment=self.attainment), self.isl, self.osl)

    def hardware(self) -> Hardware:
        """What one engine may use. An endpoint is one engine: of as many GPUs as were said, or one."""
        fewest, most = self.min_num_gpus, self.max_num_gpus
        if self.endpoint is not None:
            fewest = most = self.min_num_gpus or 1
        if self.engine_command is not None:  # a process has the GPUs of one machine
            most = min(most or self.num_gpus_per_node, self.num_gpus_per_node)
        return Hardware(fewest, most, self.num_gpus_per_node, self.vram_gib, self.max_gpus)

    def estimate_options(self) -> EstimateOptions:
        """For telling what the sweep will cost. `known_start_s` is not a setting."""
        return EstimateOptions(
            start_s=0.0 if self.endpoint is not None else self.expected_start_s,
            prefill_points=self.prefill_interpolation_granularity,
            decode_points=self.decode_interpolation_granularity,
            separate_phases=self.separate_phases,
            verify=self.verify,
            gpus_at_once=self.gpus_at_once,
        )

    def _given(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if getattr(self, name) not in (None, False))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
