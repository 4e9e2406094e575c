"""What a request needs done with a DynamoGraphDeployment, as a port: `engines/dgd_requests.py` fills it, so nothing here knows an engine's flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sla_planner.model.profile import ParallelMapping
from sla_planner.request.spec import Object

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Serving:
    """What the frontend and the workers of a manifest are made to serve, and with what.

    `path`: where the weights lie, '' = the model's name is enough. `image` '': as the manifest has it. `claim` is mounted at `mount_path`; '' = none.
    `hf_token`: secret and key, where the manifest is not the user's own.
    """

    model: str
    path: str = ""
    image: str = ""
    claim: str = ""
    mount_path: str = ""
    pull_secrets: tuple[str, ...] = ()
    hf_token: tuple[str, str] | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class Manifests:
    """Functions over manifests; the input is never changed, the same input gives the same result. All raise `UsageError`.

    read       text -> the one deployment in it
    serving    deployment, backend, Serving -> the same that serves it
    pair       deployment, backend, (prefill, decode) mappings, name, GPUs of a node (None: any) -> the same called `name`, its workers at their
               mappings, without a planner
    check      deployment -> nothing; a prefill and a decode service must be in it
    text       deployment -> YAML
    planners   apiVersion -> a deployment with the planner that ships with the program, in a service called Planner
    """

    read: Callable[[str], Document]
    serving: Callable[[Object, str, Serving], Document]
    pair: Callable[[Object, str, tuple[ParallelMapping, ParallelMapping], str, int | None], Document]
    check: Callable[[Object], object]
    text: Callable[[Object], str]
    planners: Mapping[str, Object]
