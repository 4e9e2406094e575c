"""The status document: fields of both versions of the resource side by side, written together.

    state             v1alpha1 `state`     v1beta1 `phase`    what it is
    PENDING           Pending              Pending            something is missing in the cluster; looked at again
    PROFILING         Profiling            Profiling          the Job is there and has not ended
    GENERATED         Ready                Ready              the deployment is generated, and is not ours to apply
    DEPLOYING         Deploying            Deploying          generated, on its way or not ready
    DEPLOYED          Ready                Deployed           ready
    DELETED           DeploymentDeleted    Failed             it was there and is gone; never made again
    FAILED            Failed               Failed             for good, as far as this spec goes

A condition is True once its part is done, False while it is not or has failed (`reason` says which), Unknown where it cannot be seen; of `Succeeded`,
Unknown means that it is not over. lastTransitionTime changes only with the status of a condition; that of `Profiling` also when an image begins
not to be pulled, so that the status itself remembers since when.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from sla_planner.request.actions import Action, Said
from sla_planner.request.seen import Status
from sla_planner.request.spec import About

LONGEST_MESSAGE = 4096  # of a condition; an Event keeps less
IMAGE_NOT_PULLED = "ImagePullBackOff"
_NO_REASON = "Unnamed"
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,126}")


class State(StrEnum):
    """Where a request is. The value is v1alpha1's and v1beta1's name of it, parted by a slash."""

    PENDING = "Pending/Pending"
    PROFILING = "Profiling/Profiling"
    GENERATED = "Ready/Ready"
    DEPLOYING = "Deploying/Deploying"
    DEPLOYED = "Ready/Deployed"
    DELETED = "DeploymentDeleted/Failed"
    FAILED = "Failed/Failed"

    @property
    def alpha(self) -> str:
        return self.value.split("/")[0]

    @property
    def beta(self) -> str:
        return self.value.split("/")[1]


SUB_PHASES = ("Initializing", "SweepingPrefill", "SweepingDecode", "SelectingConfig", "BuildingCurves", "GeneratingDGD", "Done")


class Kind(StrEnum):
    """Conditions, in the order in which a request comes to them."""

    VALIDATION = "Validation"
    PROFILING = "Profiling"
    GENERATED = "SpecGenerated"
    READY = "DeploymentReady"
    SUCCEEDED = "Succeeded"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without its time."""

    kind: Kind
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step comes to. `reason`: of `Succeeded`, '' = the name of the state. `conditions`: those that are not said here stay as they are.

    `fields`: further fields of the status that change; None takes one away. `soon`: look again at once, something is to be done next.
    """

    state: State
    message: str
    reason: str = ""
    conditions: tuple[Condition, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    events: tuple[Said, ...] = ()
    soon: bool = False


@dataclass(frozen=True, slots=True)
class Before:
    """The status as the last step left it. What is damaged counts as not there."""

    document: Status

    @property
    def state(self) -> State | None:
        """None before the first step."""
        names = f"{self._text('state')}/{self._text('phase')}"
        return next((state for state in State if state.value == names), None)

    @property
    def generation(self) -> int | None:
        found = self.document.get("observedGeneration")
        return found if isinstance(found, int) else None

    @property
    def job_name(self) -> str:
        """Of the Job that was made; '' before."""
        return self._text("profilingJobName")

    @property
    def message(self) -> str:
        return self._text("message")

    @property
    def reason(self) -> str:
        """Why it is in its state, in one word."""
        found = self.condition(Kind.SUCCEEDED)
        return found.reason if found else ""

    @property
    def progress(self) -> Mapping[str, Any] | None:
        return self._mapping("progress")

    @property
    def graph(self) -> Mapping[str, Any] | None:
        """The deployment that was generated."""
        return self._mapping("generatedDeployment")

    @property
    def deployed(self) -> bool:
        """Whether the deployment has been there."""
        return bool((self._mapping("deployment") or {}).get("created"))

    def condition(self, kind: Kind) -> Condition | None:
        found = self._raw().get(kind.value)
        if found is None or found.get("status") not in ("True", "False", "Unknown"):
            return None
        return Condition(kind, found["status"], str(found.get("reason", "")), str(found.get("message", "")))

    def since(self, condition: Condition) -> str | None:
        """When a condition got the status that it has here, or its image was first not pulled; None where it was otherwise."""
        found = self._raw().get(condition.kind.value, {})
        same = found.get("status") == condition.status and (condition.reason != IMAGE_NOT_PULLED or found.get("reason") == IMAGE_NOT_PULLED)
        time = found.get("lastTransitionTime")
        return time if same and isinstance(time, str) and _moment(time) else None

    def not_pulled_s(self, now: str) -> float:
        """For how long the image has been known not to be pulled, until `now` (RFC 3339)."""
        last = self.condition(Kind.PROFILING)
        since = self.since(last) if last is not None and last.reason == IMAGE_NOT_PULLED else None
        began, end = _moment(since or ""), _moment(now)
        return (end - began).total_seconds() if began and end else 0.0

    def _raw(self) -> dict[str, Mapping[str, Any]]:
        listed = self.document.get("conditions")
        return {str(one.get("type")): one for one in listed if isinstance(one, Mapping)} if isinstance(listed, list) else {}

    def _text(self, key: str) -> str:
        found = self.document.get(key)
        return found if isinstance(found, str) else ""

    def _mapping(self, key: str) -> Mapping[str, Any] | None:
        found = self.document.get(key)
        return found if isinstance(found, Mapping) else None


def _moment(text: str) -> datetime | None:
    """Of RFC 3339; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def written(about: About, before: Before, outcome: Outcome, now: str) -> dict[str, Any]:
    """The whole status after a step. `now`: RFC 3339."""
    said = {condition.kind: condition for condition in outcome.conditions}
    said[Kind.SUCCEEDED] = _succeeded(outcome)
    conditions = [said.get(kind) or before.condition(kind) for kind in Kind]
    document = {
        **before.document,
        "state": outcome.state.alpha,
        "phase": outcome.state.beta,
        "observedGeneration": about.generation,
        "message": shortened(outcome.message),
        "conditions": [_document(condition, before, now) for condition in conditions if condition is not None],
        **outcome.fields,
    }
    return {key: value for key, value in document.items() if value is not None}


def _succeeded(outcome: Outcome) -> Condition:
    over: dict[State, Literal["True", "False"]] = {
        State.GENERATED: "True",
        State.DEPLOYED: "True",
        State.FAILED: "False",
        State.DELETED: "False",
    }
    return Condition(Kind.SUCCEEDED, over.get(outcome.state, "Unknown"), outcome.reason or outcome.state.beta, outcome.message)


def _document(condition: Condition, before: Before, now: str) -> dict[str, Any]:
    return {
        "type": condition.kind.value,
        "status": condition.status,
        "reason": reason_of(condition.reason),
        "message": shortened(condition.message),
        "lastTransitionTime": before.since(condition) or now,
    }


def reason_of(text: str) -> str:
    """`text` where it is a reason as the API takes one."""
    return text if _REASON.fullmatch(text) else _NO_REASON


def shortened(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Not longer than `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(text: str, longest: int = 600) -> str:
    """Somebody's words, to be part of a sentence: no line breaks, no full stop in the end."""
    return shortened("; ".join(line.strip() for line in text.splitlines() if line.strip()), longest).rstrip(".;")
