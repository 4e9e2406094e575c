"""What the person who installs the reconciler decides for all requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settings:
    """`planner_args`: added to the generated planner's. `image_limit_s`: how long an image may fail to be pulled before the request fails."""

    profiler_image: str
    planner_image: str
    planner_metrics_port: int = 9085
    prometheus_endpoint: str = ""
    pull_secrets: tuple[str, ...] = ()
    hf_token_secret: str = ""
    hf_token_key: str = "HF_TOKEN"
    sweep_service_account: str = "profile-sweep"
    planner_service_account: str = "planner"
    planner_args: tuple[str, ...] = ()
    job_resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    job_deadline_s: int = 28800
    job_kept_s: int = 604800
    image_limit_s: float = 300.0
    version: str = ""
