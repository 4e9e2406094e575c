"""The objects of a request (`makers.Makers`), made of what it says, what is seen, and the settings of whoever installed the reconciler."""

from __future__ import annotations

import json
from typing import Any

from sla_planner.request.generated import generated, prepared
from sla_planner.request.made_marks import config_map, config_map_elsewhere
from sla_planner.request.made_names import BASE_KEY, GRAPH_KEY, SHARED_PROFILE, SPEC_KEY, output_name, profile_name
from sla_planner.request.makers import CannotBeMadeError
from sla_planner.request.manifests import Manifests
from sla_planner.request.profiling_job import profiling_job
from sla_planner.request.seen import ProfileSeen, Seen
from sla_planner.request.settings import Settings
from sla_planner.request.spec import Object, Request


class Maker:
    """Implements `Makers`. The same input gives the same objects."""

    def __init__(self, settings: Settings, manifests: Manifests) -> None:
        self._settings, self._manifests = settings, manifests

    def frozen(self, request: Request, seen: Seen) -> Object:
        if seen.base is None:
            raise CannotBeMadeError("BaseManifestMissing", seen.base_trouble or "there is no base manifest")
        return config_map(request, self._settings, output_name(request), self._inputs(request, seen, seen.base))

    def profile_config_map(self, request: Request) -> Object:
        return config_map(request, self._settings, profile_name(request), {})

    def job(self, request: Request, seen: Seen) -> Object:
        return profiling_job(request, self._settings, seen.gpus)

    def graph(self, request: Request, seen: Seen) -> dict[str, Any]:
        return generated(request, self._settings, self._manifests, _base(request, seen), seen)

    def outputs(self, request: Request, seen: Seen, graph: Object) -> tuple[Object, ...]:
        data = {**self._kept(request, seen), GRAPH_KEY: self._manifests.text(graph)}
        made = [config_map(request, self._settings, output_name(request), data)]
        if seen.alone and seen.profile is not None:
            made.append(config_map(request, self._settings, SHARED_PROFILE, seen.profile.files))
        return tuple(made)

    def profile_copy(self, request: Request, profile: ProfileSeen) -> Object:
        return config_map_elsewhere(request, self._settings, profile_name(request), profile.files)

    def _kept(self, request: Request, seen: Seen) -> dict[str, str]:
        """What profiling began with; nothing where that is lost, which is better than what the request says by now."""
        try:
            base = _base(request, seen)
        except CannotBeMadeError:
            return {}
        return self._inputs(request, seen, base)

    def _inputs(self, request: Request, seen: Seen, base: str) -> dict[str, str]:
        manifest = self._manifests.text(prepared(request, self._settings, self._manifests, base, seen.gpus))
        return {BASE_KEY: manifest, SPEC_KEY: json.dumps(request.spec, indent=1, sort_keys=True) + "\n"}


def _base(request: Request, seen: Seen) -> str:
    """As it was put by, which engines were measured from; where it came from may say something else by now."""
    base = seen.held.get(output_name(request), {}).get(BASE_KEY, seen.base)
    if base is None:
        raise CannotBeMadeError("BaseManifestMissing", seen.base_trouble or "there is no base manifest")
    return base
