"""The sweep's part in a cluster: where engines run, what is checked before the first one starts, the profile as a ConfigMap."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from sla_planner import __version__
from sla_planner.cluster.api import KubernetesApi, connect
from sla_planner.cluster.host import PATIENCE_S, HostOptions, KubernetesHost
from sla_planner.cluster.host_rights import Right, check_rights
from sla_planner.cluster.leftovers import Holder, this_sweep
from sla_planner.cluster.publication import FEASIBLE, PROFILE_DIGEST, Publication, publish
from sla_planner.cluster.resources import CONFIG_MAPS
from sla_planner.engines.backend import Backend
from sla_planner.engines.hosted import HostedLauncher, Recipe
from sla_planner.store.profile_files import PROFILE_JSON, json_twins
from sla_planner.sweep.port import Deployment
from sla_planner.sweep.result import SweepResult
from sla_planner.sweep_config import SweepConfig

MODEL = "slaplanner.io/model"
MEASURED_AT = "slaplanner.io/measured-at"


class Cluster:
    """The cluster that this sweep runs in, or that the kubeconfig names. Raises `UsageError` when there is none."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._api: KubernetesApi = connect(patience_s=PATIENCE_S)
        self._holder: Holder = this_sweep(self._api, config.output_dir)
        self._host = KubernetesHost(self._api, self._holder, HostOptions(config.gpu_wait_s, config.autoscaled))

    def launcher(self, recipe: Recipe, engine: Backend) -> HostedLauncher:
        config = self._config
        logs = config.output_dir / "logs"
        return HostedLauncher(recipe, self._host, engine, log_dir=logs, model=config.model or "", ready_limit_s=config.ready_limit_s)

    def prepare(self, launcher: HostedLauncher | None, deployments: Sequence[Deployment]) -> None:
        """Before anything is measured. Raises `UsageError` or `ForbiddenError` for what would go wrong later."""
        name = self._config.publish_configmap
        making = () if self._config.publish_existing_only else (Right("create", CONFIG_MAPS),)
        publishing = (*making, *(Right(verb, CONFIG_MAPS, name=name) for verb in ("get", "update"))) if name else ()
        if launcher is None:
            check_rights(self._api, publishing)
        else:
            self._host.prepare(launcher.recipe.manifests(deployments[0], "any"), publishing)

    def publish(self, result: SweepResult, folder: Path) -> str:
        """The profile in `folder` as the ConfigMap that was asked for; says what was done."""
        name = self._config.publish_configmap or ""
        twins, whole = json_twins(result.profile), (folder / PROFILE_JSON).read_text()
        annotations = {
            PROFILE_DIGEST: hashlib.sha256(json.dumps([twins, whole]).encode()).hexdigest()[:16],
            FEASIBLE: str(result.feasible).lower(),
            MODEL: result.profile.provenance.model,
            MEASURED_AT: result.profile.provenance.measured_at,
        }
        publication = Publication(twins, {PROFILE_JSON: whole}, self._holder.labels(__version__), annotations)
        keys = publish(self._api, name, publication, existing_only=self._config.publish_existing_only)
        return f"ConfigMap {name} in namespace {self._api.namespace} holds the profile: {', '.join(keys)}"
