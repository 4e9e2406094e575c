"""What survives: one record per point, and one per engine, under a key made of everything that determines the result.

    key = SHA-256 of the canonical JSON of {method, engine identity, mapping, phase, shape, prompt form where one is asked for}

so a changed engine, image, argument or shape is another key and is measured anew, while everything else is found again. `METHOD` is the version of
the way of measuring: raise it when points of before cannot be compared with points of now.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Protocol

from sla_planner.sweep.points import EngineFacts, Point, Shape
from sla_planner.sweep.port import Deployment, EngineIdentity
from sla_planner.traffic.prompt_form import PromptForm

METHOD = 1


class Checkpoint(Protocol):
    """Implemented by `store` on files. What was saved is on disk when `save_*` returns."""

    def facts(self, key: str) -> EngineFacts | None: ...

    def point(self, key: str) -> Point | None: ...

    def save_facts(self, key: str, facts: EngineFacts) -> None: ...

    def save_point(self, key: str, point: Point) -> None: ...


def facts_key(identity: EngineIdentity, deployment: Deployment, form: PromptForm | None = None) -> str:
    """Of the engine itself. `form`: the user's choice; None: what the server takes."""
    return _key(identity, deployment, None, form)


def point_key(identity: EngineIdentity, deployment: Deployment, shape: Shape, form: PromptForm | None = None) -> str:
    """Of one shape on one engine."""
    return _key(identity, deployment, shape, form)


def _key(identity: EngineIdentity, deployment: Deployment, shape: Shape | None, form: PromptForm | None) -> str:
    content = {
        "method": METHOD,
        "engine": asdict(identity),
        "mapping": asdict(deployment.mapping),
        "phase": deployment.phase,
        "shape": {type(shape).__name__: asdict(shape)} if shape else None,
        **({"prompts": form} if form else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


class Anew:
    """A checkpoint that forgets what earlier runs measured, and keeps what this one measures."""

    def __init__(self, kept: Checkpoint) -> None:
        self._kept = kept
        self._own: set[str] = set()

    def facts(self, key: str) -> EngineFacts | None:
        return self._kept.facts(key) if key in self._own else None

    def point(self, key: str) -> Point | None:
        return self._kept.point(key) if key in self._own else None

    def save_facts(self, key: str, facts: EngineFacts) -> None:
        self._own.add(key)
        self._kept.save_facts(key, facts)

    def save_point(self, key: str, point: Point) -> None:
        self._own.add(key)
        self._kept.save_point(key, point)
